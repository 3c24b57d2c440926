"""One pair: the prompt, both answers side by side, every verdict in both orders, and where it all comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget

from selfalign.records import GOLD, Candidate, Judgment
from selfalign.rewording import sides
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.page import Page, Place
from selfalign.tui.pairindex import PairIndex, Spot, WholePair
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Scroll, Words

CHOSEN, REJECTED = ("+ chosen", f"bold {shown.GREEN}"), ("− rejected", f"bold {shown.VERMILION}")


LONGEST_WORDS = 4000  # characters of one reply of the judge


class OnePair(Page):
    NUMBER, NAME = "4", "Pair"
    ABOUT = (
        "One preference. Words that the other answer has not are underlined (d switches this off). For each principle "
        "the verdict with the chosen answer shown first and second: the judge's probability that it is the better "
        "one. v shows what the judge said."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next"),
        Binding("p", "turn(-1)", "previous"),
        Binding("d", "difference", "words"),
        Binding("v", "said", "reasons"),
    ]
    DEFAULT_CSS = """
    OnePair Words { height: auto; }
    OnePair .part { padding: 0 2; margin-bottom: 1; }
    OnePair #answers { height: auto; padding: 0 2; margin-bottom: 1; }
    OnePair #answers > Words { width: 1fr; }
    OnePair #chosen { margin-right: 2; }
    OnePair #said { display: none; }
    """

    def __init__(
        self,
        place: Place,
        index: PairIndex,
        spot: Callable[[int], Spot | None],
        position: int,
        moved: Callable[[int], None],
    ) -> None:
        super().__init__(place)
        self.index, self.spot, self.position, self.moved = index, spot, position, moved
        self.pair: WholePair | None = None
        self.marked = True

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="prompt", classes="part")
            with Horizontal(id="answers"):
                yield Words(id="chosen")
                yield Words(id="rejected")
            yield Words(id="verdicts", classes="part")
            yield Words(id="said", classes="part")
            yield Words(id="lineage", classes="part")

    def read(self) -> WholePair | None:
        spot = self.spot(self.position)
        if spot is None or (self.pair is not None and self.pair.spot == spot):
            return self.pair
        return self.index.whole(spot)

    def show(self, view: WholePair | None) -> None:
        if view is None or view is self.pair:
            return
        self.pair = view
        record = view.record
        self.title_is(
            (f"pair {view.spot.name}", "bold"),
            f"  margin {record.margin:.3f}  p(chosen) {record.p_chosen:.3f}  weight {record.weight:g}",
            (f"  {', '.join(view.prompt.tags)}", shown.DIM),
        )
        self.trouble([])
        self.query_one("#prompt", Words).show(shown.conversation(view.prompt.messages))
        self._show_answers()
        self.query_one("#verdicts", Words).show(verdicts(view))
        self.query_one("#said", Words).show(what_was_said(view))
        self.query_one("#lineage", Words).show(lineage(view))
        self.query_one(Scroll).scroll_home(animate=False)

    def _show_answers(self) -> None:
        assert self.pair is not None
        answers = self.pair.chosen, self.pair.rejected
        texts = [answer.text[: shown.LONGEST_BLOCK] if answer else "" for answer in answers]
        if self.marked and all(texts):
            chosen, rejected = sides(*texts, (f"underline {shown.GREEN}", f"underline {shown.VERMILION}"))
            made = [chosen, rejected]
        else:
            made = [shown.block(text) if text else shown.line(("(empty)", shown.DIM)) for text in texts]
        for head, answer, text in zip((CHOSEN, REJECTED), answers, made, strict=True):
            name = head[0].split()[-1]
            facts = shown.line(head, (f"  {origin(answer)}", shown.DIM))
            self.query_one(f"#{name}", Words).show(shown.lines([facts, text]))

    def action_turn(self, by: int) -> None:
        if self.spot(self.position + by) is not None:
            self.position += by
            self.moved(self.position)
            self.renew()

    def action_difference(self) -> None:
        self.marked = not self.marked
        if self.pair is not None:
            self._show_answers()

    def action_said(self) -> None:
        said = self.query_one("#said", Words)
        said.display = not said.display

    def command(self) -> str:
        return f"selfalign pairs show {self.at.path} {self.pair.spot.name if self.pair else ''}".rstrip()

    def copied(self) -> str:
        """Both answers with the prompt."""
        if self.pair is None:
            return ""
        texts = [f"{one.role}: {one.content}" for one in self.pair.prompt.messages]
        for name, answer in (("chosen", self.pair.chosen), ("rejected", self.pair.rejected)):
            texts.append(f"{name}: {answer.text if answer else ''}")
        return "\n\n".join(texts)


def origin(answer: Candidate | None) -> str:
    """Where an answer comes from, how long it is and how it ended."""
    if answer is None:
        return "lost: its file is not there any more"
    if answer.policy_id == GOLD:
        return "gold answer"
    return f"sample {answer.sample_index}, {len(answer.token_ids)} tokens, {one_line(answer.finish_reason, 20)}"


def verdicts(pair: WholePair) -> Table | Text:
    """By principle what the judge says in each order; an answer rated alone has its rating there."""
    if not pair.judgments:
        return shown.line(("No verdicts: the gold answer is chosen whatever a judge would say.", shown.DIM))
    by_name: dict[str, dict[str, Judgment]] = defaultdict(dict)
    for judgment in pair.judgments:
        by_name[judgment.principle_id]["first" if judgment.first_id == pair.record.chosen_id else "second"] = judgment
    if not any(judgment.second_id for judgment in pair.judgments):
        rows = [(one_line(name, 40), *ratings(found)) for name, found in sorted(by_name.items())]
        return shown.table(("principle", "chosen", "rejected", "together"), rows)
    rows = []
    for name, found in sorted(by_name.items()):
        said = [prefers(found.get(order), order) for order in ("first", "second")]
        rows.append((one_line(name, 40), *(words for words, _ in said), verdict_of([p for _, p in said])))
    return shown.table(("principle", "chosen shown first", "chosen shown second", "together"), rows)


def ratings(found: Mapping[str, Judgment]) -> tuple[Part, ...]:
    """The ratings of both answers, where each was rated alone."""
    rated = [judgment.rating if (judgment := found.get(order)) is not None else None for order in ("first", "second")]
    words = [f"rated {rating:.2f}" if rating is not None else "–" for rating in rated]
    if None in rated:
        return (*words, ("–", shown.DIM))
    gap = rated[0] - rated[1]
    if abs(gap) < 0.005:
        return (*words, ("= no difference", shown.DIM))
    return (*words, (f"✓ {gap:+.2f}", shown.GOOD) if gap > 0 else (f"✗ {gap:+.2f}: for the rejected", shown.BAD))


def prefers(judgment: Judgment | None, order: str) -> tuple[str, float | None]:
    """A verdict in words, and the probability that the chosen answer is better."""
    if judgment is None:
        return "–", None
    if judgment.p_first is None:
        return judgment.verdict.replace("_", " "), None
    p = judgment.p_first if order == "first" else 1.0 - judgment.p_first
    return f"{'chosen' if p > 0.5 else 'rejected' if p < 0.5 else 'tie'} {p:.3f}", p


def verdict_of(found: list[float | None]) -> Part:
    """What both orders together say."""
    known = [p for p in found if p is not None]
    if not known:
        return ("–", shown.DIM)
    mean = sum(known) / len(known)
    if len(known) == 2 and (known[0] - 0.5) * (known[1] - 0.5) < 0:
        return (f"⇄ {mean:.3f}: the orders disagree", shown.WARN)
    return (f"✓ {mean:.3f}", shown.GOOD) if mean >= 0.5 else (f"✗ {mean:.3f}: for the rejected", shown.BAD)


def what_was_said(pair: WholePair) -> Text:
    """The judge's reasons, or its replies as they were, where they were kept."""
    parts = [shown.line(("What the judge said", "bold"))]
    for judgment in pair.judgments:
        words = judgment.reason or judgment.raw
        if words.strip():
            first = "chosen first" if judgment.first_id == pair.record.chosen_id else "rejected first"
            head = shown.line((f"{one_line(judgment.principle_id, 40)}, {first}", shown.DIM))
            parts += [head, shown.block(words[:LONGEST_WORDS])]
    if len(parts) == 1:
        parts.append(shown.line(("Nothing: only probabilities were kept.", shown.DIM)))
    return shown.lines(parts)


def lineage(pair: WholePair) -> Table:
    """From prompt to training: what the pair was made from, with the digests by which `verify` follows it."""
    policies = {answer.policy_id for answer in (pair.chosen, pair.rejected) if answer is not None} - {GOLD}
    facts: Mapping[str, str] = {
        "prompt": f"{pair.prompt.id}  {one_line(pair.prompt.source, 60)}",
        "policy": ", ".join(sorted(policies)),
        "judge": ", ".join(sorted({judgment.judge_id for judgment in pair.judgments})),
        "trained on": "yes" if pair.trained else "not yet",
        **{name: digest.removeprefix("step:")[:40] for name, digest in pair.made.items()},
    }
    rows = [((name, shown.DIM), one_line(value, 100)) for name, value in facts.items() if value]
    return shown.table(("lineage", ""), rows)
