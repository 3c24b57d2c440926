"""One example: the prompt, two answers side by side, every verdict, all candidates, and where it comes from.

The right answer is the one that the left was compared with, or what another round's policy says to the same prompt.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widget import Widget

from selfalign.records import GOLD, Candidate, Judgment
from selfalign.rewording import sides
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.answers import Answer, answers_to, policy_name
from selfalign.tui.page import Page, Place
from selfalign.tui.pairs.index import PairIndex, Spot
from selfalign.tui.pairs.origin import Origin, origin_of
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Scroll, Words

LEFT, RIGHT = f"bold {shown.GREEN}", f"bold {shown.VERMILION}"
NAMES = {  # what the two answers are called, by kind of example
    "pairs": ("chosen", "rejected"),
    "rankings": ("best", "worst"),
    "demonstrations": ("learned", ""),
    "left out": ("best", "worst"),
}
ROLES = {"chosen": LEFT, "good": LEFT, "learned": LEFT, "rejected": RIGHT, "bad": RIGHT}
LONGEST_WORDS = 4000  # characters of one reply of the judge, or of one of many answers


@dataclass(frozen=True, slots=True)
class Stop:
    """What can stand on the right: an answer, who gives it, and what else is to be said of it."""

    name: str
    answer: Candidate | None
    said: str = ""
    mark: str = "◆"


class OnePair(Page):
    NUMBER, NAME = "4", "Pair"
    ABOUT = (
        "One example of what a round was trained on. Words that the other answer has not are underlined (d switches "
        "this off). For each principle the verdict with the chosen answer shown first and second: the judge's "
        "probability that it is the better one. v shows what the judge said, and the critiques of a revised answer.\n\n"
        "→ and ← (or ] and [) put on the right what each round's policy says to the same prompt. Round 2 stands for "
        "the policy that round 2 trained; base for the one that the campaign began with."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next"),
        Binding("p", "turn(-1)", "previous", show=False),
        Binding("right", "round(1)", "rounds", priority=True),
        Binding("left", "round(-1)", "the policy before", show=False, priority=True),
        Binding("right_square_bracket", "round(1)", "the next policy", show=False),
        Binding("left_square_bracket", "round(-1)", "the policy before", show=False),
        Binding("a", "every", "answers"),
        Binding("enter", "every", "answers", show=False),
        Binding("v", "said", "reasons"),
        Binding("d", "difference", "diff"),
    ]
    DEFAULT_CSS = """
    OnePair Words { height: auto; }
    OnePair .part { padding: 0 2; margin-bottom: 1; }
    OnePair #slider { height: auto; padding: 0 2; display: none; }
    OnePair #answers { height: auto; padding: 0 2; margin-bottom: 1; }
    OnePair #answers > Words { width: 1fr; }
    OnePair #chosen { margin-right: 2; }
    OnePair #said { display: none; }
    OnePair #every { display: none; }
    """

    class Asked(Message):
        """What the policies of a run say to the prompt of an example."""

        def __init__(self, spot: Spot, answers: Sequence[Answer], trouble: str = "") -> None:
            super().__init__()
            self.spot, self.answers, self.trouble = spot, answers, trouble

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
        self.origin: Origin | None = None
        self.marked = True
        self.stops: list[Stop] = []
        self.stop = 0
        self._answers: Sequence[Answer] | None = None

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="prompt", classes="part")
            yield Words(id="slider")
            with Horizontal(id="answers"):
                yield Words(id="chosen")
                yield Words(id="rejected")
            yield Words(id="verdicts", classes="part")
            yield Words(id="said", classes="part")
            yield Words(id="every", classes="part")
            yield Words(id="lineage", classes="part")

    @property
    def settled(self) -> bool:
        there = self.origin is not None and self.origin.spot == self.spot(self.position)
        return self.ready and ((there and self._answers is not None) or self.query_one("#trouble").display)

    def read(self) -> Origin | None:
        spot = self.spot(self.position)
        if spot is None or (self.origin is not None and self.origin.spot == spot):
            return self.origin
        return origin_of(self.index, spot)

    def show(self, view: Origin | None) -> None:
        if view is None or view is self.origin:
            return
        self.origin, self._answers = view, None
        self.title_is(*title(view))
        self.trouble([])
        self.query_one("#prompt", Words).show(shown.conversation(view.prompt.messages))
        self._stand()
        self.query_one("#verdicts", Words).show(verdicts(view))
        self.query_one("#said", Words).show(what_was_said(view))
        every = self.query_one("#every", Words)
        every.show(all_answers(view))
        every.display = every.display or view.kind in ("rankings", "left out")
        self.query_one("#lineage", Words).show(lineage(view))
        self.query_one(Scroll).scroll_home(animate=False)
        self._ask(view)
        if self.spot(self.position) != view.spot:  # turned on meanwhile
            self.renew()

    @work(thread=True, group="ask", exclusive=True, exit_on_error=False, description="ask")
    def _ask(self, view: Origin) -> None:
        try:
            found, trouble = answers_to(self.index.run, view.prompt.id), ""
        except UNREADABLE as error:
            found, trouble = [], why(error)
        self.post_message(self.Asked(view.spot, found, trouble))

    def on_one_pair_asked(self, message: Asked) -> None:
        if self.origin is None or message.spot != self.origin.spot:
            return
        self._answers = message.answers
        if message.trouble:
            self.trouble([message.trouble])
        self._stand()

    def _stand(self) -> None:
        """Put together what can stand on the right, and show where the slider is."""
        assert self.origin is not None
        self.stops = stops(self.origin, self._answers or ())
        self.stop = max(0, min(self.stop, len(self.stops) - 1))
        slider = self.query_one("#slider", Words)
        slider.display = self._answers is not None
        slider.show(slider_of(self.origin, self.stops, self.stop, self._answers or ()))
        self._show_answers()

    def _show_answers(self) -> None:
        assert self.origin is not None
        left, right = self.origin.first, self.stops[self.stop] if self.stops else None
        texts = [one.text[: shown.LONGEST_BLOCK] if one else "" for one in (left, right.answer if right else None)]
        if self.marked and all(texts):
            made = list(sides(*texts, (f"underline {shown.GREEN}", f"underline {shown.VERMILION}")))
        else:
            made = [shown.block(text) if text else shown.line(("(empty)", shown.DIM)) for text in texts]
        name = NAMES[self.origin.kind][0]
        self._side("#chosen", (f"+ {name}", LEFT), facts(self.origin, left), made[0])
        other = self.query_one("#rejected", Words)
        other.display = right is not None
        if right is not None:
            said = facts(self.origin, right.answer) + (f" · {right.said}" if right.said else "")
            self._side("#rejected", (f"{right.mark} {right.name}", RIGHT), said, made[1])

    def _side(self, name: str, head: Part, said: str, text: Text) -> None:
        self.query_one(name, Words).show(shown.lines([shown.line(head), shown.block(said, shown.DIM), text]))

    def action_turn(self, by: int) -> None:
        if self.spot(self.position + by) is not None:
            self.position += by
            self.moved(self.position)
            self.renew()

    def action_round(self, by: int) -> None:
        if self.origin is None or self._answers is None:
            return
        if not 0 <= self.stop + by < len(self.stops):
            self.reader.say(
                "no other policy was asked this prompt" if len(self.stops) < 2 else "this is the last one there"
            )
            return
        self.stop += by
        self._stand()

    def action_difference(self) -> None:
        self.marked = not self.marked
        if self.origin is not None:
            self._show_answers()

    def action_said(self) -> None:
        self._toggle("#said")

    def action_every(self) -> None:
        self._toggle("#every")

    def _toggle(self, name: str) -> None:
        words = self.query_one(name, Words)
        words.display = not words.display
        if words.display:
            self.call_after_refresh(self.query_one(Scroll).scroll_to_widget, words, top=True, animate=False)

    def command(self) -> str:
        spot, kind = self.spot(self.position), self.index.kind
        if spot is None or kind == "left out":
            held = self.index.sources(spot.round).kind if spot is not None else "pairs"
            return f"selfalign {held} ls {self.at.path}"
        return f"selfalign {kind} show {self.at.path} {spot.name}"

    def copied(self) -> str:
        """The prompt with both answers."""
        if self.origin is None:
            return ""
        texts = [f"{one.role}: {one.content}" for one in self.origin.prompt.messages]
        sides = [Stop(NAMES[self.origin.kind][0], self.origin.first), *self.stops[self.stop : self.stop + 1]]
        texts += [f"{one.name}: {one.answer.text if one.answer is not None else ''}" for one in sides]
        return "\n\n".join(texts)


def title(view: Origin) -> Iterator[Part]:
    """Which example it is, and its numbers."""
    name = {"left out": "left out"}.get(view.kind, view.kind.removesuffix("s"))
    yield (f"{name} {view.spot.name}", "bold")
    record = view.record
    numbers = {
        "margin": getattr(record, "margin", None),
        "p(chosen)": getattr(record, "p_chosen", None),
        "scores": " to ".join(f"{one:.2f}" for one in record.scores[:: max(1, len(record.scores) - 1)])
        if view.kind == "rankings"
        else None,
        "weight": getattr(record, "weight", None),
    }
    for what, value in numbers.items():
        if value is not None and (what, value) != ("weight", 1.0):
            yield f"  {what} {value if isinstance(value, str) else f'{value:.3f}'.rstrip('0').rstrip('.')}"
    yield (f"  {one_line(', '.join(view.prompt.tags), 60)}", shown.DIM)


def facts(view: Origin, answer: Candidate | None) -> str:
    """Where an answer comes from, how long it is and how it ended."""
    if answer is None:
        return "lost: its file is not there any more" if any(view.ends) else "no answer"
    if answer.policy_id == GOLD:
        return "gold answer"
    ended = {"stop": "", "length": " · cut off"}.get(answer.finish_reason, f" · {one_line(answer.finish_reason, 20)}")
    return f"{view.source_of(answer)} · {len(answer.token_ids)} tokens{ended}"


# What stands on the right.


def stops(view: Origin, answers: Sequence[Answer]) -> list[Stop]:
    """The answer that was rejected, then what each policy says that was asked."""
    name = NAMES[view.kind][1]
    found = [Stop(name, view.last, mark="−")] if view.ends[1] else []
    for answer in answers:
        one = answer.first or next(iter(answer.samples), None)
        found.append(Stop(policy_name(answer.policy), one, " · ".join(said_of(view, answer, one))))
    return found


def said_of(view: Origin, answer: Answer, one: Candidate | None) -> Iterator[str]:
    """What a policy had learned when it answered, and what the judge makes of it."""
    if answer.trouble:
        yield one_line(answer.trouble, 200)
    if len(answer.samples) > 1:
        yield f"the first of {len(answer.samples)}"
    if one is not None and (role := view.role(one)) and not role[0].isdigit():
        yield f"the {role} one"
    if learned := [number for number in view.training.rounds if answer.policy is not None and number <= answer.policy]:
        yield f"after round {learned[0]} learned this"
    elif view.training.rounds:
        yield f"before round {view.training.rounds[0]} learned this"
    for said, p in (("the policy before", answer.p_previous), ("base", answer.p_base)):
        if p is not None:
            yield f"better than {said}: {p:.2f}"


def slider_of(view: Origin, found: Sequence[Stop], at: int, answers: Sequence[Answer]) -> Text:
    """Where the slider is, and which policies were never asked."""
    parts: list[Part] = [("on the right  ", shown.DIM)] if found else []
    for index, stop in enumerate(found):
        parts += [(f" {stop.name} ", "bold reverse" if index == at else ""), ("" if index == len(found) - 1 else "·")]
    asked = {answer.policy for answer in answers}
    policies = [None, view.spot.round, *view.training.next]
    unasked = [policy_name(one) for one in dict.fromkeys(policies) if one not in asked]
    lines = [shown.line(*parts)] if found else []
    if unasked:
        lines.append(shown.block(f"not asked this prompt: {listed(unasked)}", shown.DIM))
    return shown.lines(lines)


def listed(names: Sequence[str]) -> str:
    """Names of policies on one line: base, rounds 1, 2 and 3."""
    rounds = [name.removeprefix("round ") for name in names if name.startswith("round ")]
    said = [name for name in names if not name.startswith("round ")]
    said += [f"round {rounds[0]}"] if len(rounds) == 1 else [f"rounds {', '.join(rounds)}"] if rounds else []
    return ", ".join(said)


# Verdicts.


def verdicts(view: Origin) -> Table | Text:
    """By principle what the judge says in each order; an answer rated alone has its rating there."""
    left, right = NAMES[view.kind]
    found = view.on_both
    if view.kind == "left out":
        said = [shown.line((f"Left out: {reason}", shown.WARN)) for reason in view.considered]
        said = [shown.lines([head, shown.block(why)]) for head, why in zip(said, view.considered.values(), strict=True)]
        return shown.below(*said, shown.line(), _table(view, found, left, right)) if found else shown.lines(said)
    if not right:
        return shown.line(("No verdicts: it is learned as it is.", shown.DIM))
    if not found:
        gold = view.first is not None and view.first.policy_id == GOLD
        said = "the gold answer is chosen whatever a judge would say." if gold else "none on these two."
        return shown.line((f"No verdicts: {said}", shown.DIM))
    return _table(view, found, left, right)


def _table(view: Origin, found: Sequence[Judgment], left: str, right: str) -> Table:
    by_name: dict[str, dict[str, Judgment]] = defaultdict(dict)
    for judgment in found:
        by_name[judgment.principle_id]["first" if judgment.first_id == view.ends[0] else "second"] = judgment
    if not any(judgment.second_id for judgment in found):
        rows = [(one_line(name, 40), *ratings(said, right)) for name, said in sorted(by_name.items())]
        return shown.table(("principle", left, right, "difference"), rows)
    rows = []
    for name, said in sorted(by_name.items()):
        both = [prefers(said.get(order), order, (left, right)) for order in ("first", "second")]
        rows.append((one_line(name, 40), *(words for words, _ in both), verdict_of([p for _, p in both], right)))
    return shown.table(("principle", f"{left} shown first", f"{left} shown second", "together"), rows)


def ratings(found: Mapping[str, Judgment], right: str = "rejected") -> tuple[Part, ...]:
    """The ratings of both answers, where each was rated alone."""
    rated = [judgment.rating if (judgment := found.get(order)) is not None else None for order in ("first", "second")]
    words = [
        f"rated {rating:.2f}" if rating is not None else invalid(found.get(order)) or "–"
        for order, rating in zip(("first", "second"), rated, strict=True)
    ]
    if rated[0] is None or rated[1] is None:
        return (*words, ("–", shown.DIM))
    gap = rated[0] - rated[1]
    if abs(gap) < 0.005:
        return (*words, ("= no difference", shown.DIM))
    return (*words, (f"✓ {gap:+.2f}", shown.GOOD) if gap > 0 else (f"✗ {gap:+.2f}: for the {right}", shown.BAD))


def prefers(
    judgment: Judgment | None, order: str, names: tuple[str, str] = ("chosen", "rejected")
) -> tuple[str, float | None]:
    """A verdict in words, and the probability that the left answer is better."""
    if judgment is None:
        return "–", None
    if judgment.p_first is None:
        return invalid(judgment) or judgment.verdict.replace("_", " "), None
    p = judgment.p_first if order == "first" else 1.0 - judgment.p_first
    return f"{names[0] if p > 0.5 else names[1] if p < 0.5 else 'tie'} {p:.3f}", p


def invalid(judgment: Judgment | None) -> str:
    """That a verdict is invalid and why; nothing for a valid one."""
    if judgment is None or judgment.verdict != "invalid":
        return ""
    return f"invalid: {one_line(judgment.invalid_reason, 20)}" if judgment.invalid_reason else "invalid"


def verdict_of(found: list[float | None], right: str = "rejected") -> Part:
    """What both orders together say."""
    known = [p for p in found if p is not None]
    if not known:
        return ("–", shown.DIM)
    mean = sum(known) / len(known)
    if len(known) == 2 and (known[0] - 0.5) * (known[1] - 0.5) < 0:
        return (f"⇄ {mean:.3f}: the orders disagree", shown.WARN)
    return (f"✓ {mean:.3f}", shown.GOOD) if mean >= 0.5 else (f"✗ {mean:.3f}: for the {right}", shown.BAD)


def what_was_said(view: Origin) -> Text:
    """The critiques of a revised answer, and the judge's reasons, or its replies as they were, where they were kept."""
    parts = []
    for revision in view.revised_from(view.first):
        said = f"Critique {revision.step}, under {one_line(revision.principle_id, 40)}"
        parts += [shown.line((said, "bold")), shown.block(revision.critique[:LONGEST_WORDS] or "(empty)")]
    parts.append(shown.line(("What the judge said", "bold")))
    heads = len(parts)
    for judgment in view.on_both:
        words = judgment.reason or judgment.raw
        if words.strip():
            name = NAMES[view.kind][judgment.first_id != view.ends[0]]
            how = f"{one_line(judgment.principle_id, 40)}, {name} {'first' if judgment.second_id else 'alone'}"
            head = shown.line((how, shown.DIM))
            parts += [head, shown.block(words[:LONGEST_WORDS])]
    if len(parts) == heads:
        kept = "only probabilities were kept" if view.on_both else "it was not asked about this"
        parts.append(shown.line((f"Nothing: {kept}.", shown.DIM)))
    return shown.lines(parts)


def all_answers(view: Origin) -> Text:
    """Every answer to the prompt, the best first, with what the judge makes of it."""
    parts = [shown.line((f"All answers to this prompt: {len(view.answers)}", "bold"))]
    for answer in view.answers.values():
        role = view.role(answer)
        score = f"{view.scored} {view.scores[answer.id]:.2f}" if answer.id in view.scores else ""
        twin = view.answers.get(answer.duplicate_of or "")
        same = f"the same text as sample {twin.sample_index}" if twin is not None else ""
        style = ROLES.get(role.split(" ")[-1], "bold")
        said = " · ".join(filter(None, (score, facts(view, answer), same)))
        parts += [shown.line(""), shown.line((f"{role}  " if role else "", style), (said, shown.DIM))]
        parts.append(shown.block(answer.text[:LONGEST_WORDS]) if answer.text else shown.line(("(empty)", shown.DIM)))
    return shown.lines(parts)


# Where it comes from.


def lineage(view: Origin) -> Table:
    """From the prompt to the next round, then the digests by which `selfalign verify` follows it."""
    rows = [
        ("prompt", prompt_words(view)),
        ("↓ candidates", candidate_words(view)),
        *([("↓ revised", said)] if (said := revision_words(view)) else []),
        ("↓ judgments", judgment_words(view)),
        (f"↓ {view.kind.removesuffix('s')}", example_words(view)),
        ("↓ trained in", training_words(view)),
        ("↓ afterwards", afterwards_words(view)),
    ]
    made = shown.facts(rows)
    digests = [(name, digest.removeprefix("step:")[:40]) for name, digest in view.made.items()]
    steps = shown.table(("digests", ""), [[(cell, shown.DIM) for cell in row] for row in digests])
    return shown.below(shown.line(("Where it comes from", "bold")), made, shown.line(""), steps)


def prompt_words(view: Origin) -> str:
    tags = f"tags {', '.join(view.prompt.tags)}" if view.prompt.tags else ""
    return " · ".join(filter(None, (one_line(view.prompt.source, 80), one_line(tags, 80), f"id {view.prompt.id}")))


def candidate_words(view: Origin) -> str:
    sampled = [one for one in view.answers.values() if one.policy_id != GOLD and one.id not in view.revisions]
    policies = sorted({one_line(one.policy_id, 20) for one in sampled})
    roles = Counter(view.role(one).split(" ")[-1] for one in view.answers.values())
    said = [f"{len(sampled)} sampled by policy {', '.join(policies)}" if sampled else "none sampled"]
    said += ["and the gold answer"] if any(one.policy_id == GOLD for one in view.answers.values()) else []
    named = [f"{roles[name]} {name}" for name in ("chosen", "rejected", "good", "bad", "learned") if roles[name]]
    return " · ".join((" ".join(said), *([", ".join(named)] if named else []), "a shows all"))


def revision_words(view: Origin) -> str:
    chain = view.revised_from(view.first)
    steps = [f"critique under {one_line(one.principle_id, 40)} → revision {one.step}" for one in chain]
    return " → ".join((*steps, "learned")) + " · v shows the critiques" if chain else ""


def judgment_words(view: Origin) -> str:
    if not view.judgments:
        return "none"
    judges = sorted({one_line(one.judge_id, 20) for one in view.judgments})
    principles = {one.principle_id for one in view.judgments}
    bad = sum(one.verdict == "invalid" for one in view.judgments)
    said = [f"{len(view.judgments)} on all answers by judge {', '.join(judges)}", f"{len(view.on_both)} on these two"]
    return " · ".join((*said, f"{len(principles)} principle{'s' * (len(principles) != 1)}", f"{bad} invalid"))


def example_words(view: Origin) -> str:
    also = "; ".join(f"{count} ({words})" for count, words in view.considered.items())
    if view.record is None:
        return f"none: {also or 'no file says why'}"
    names = {"margin": "margin", "p_chosen": "p(chosen)", "weight": "weight"}
    numbers = {words: getattr(view.record, name, None) for name, words in names.items()}
    said = [f"{words} {value:.3g}" for words, value in numbers.items() if value is not None]
    return " · ".join((*said, *([f"left out of the same prompt: {also}"] if also else []))) or "learned as it is"


def training_words(view: Origin) -> str:
    first, *again = view.training.rounds or (None,)
    if view.record is None:
        return "no round"
    if first is None:
        return f"no round yet: round {view.spot.round} has not finished its training"
    return f"round {first}" + (f", and again in {listed([policy_name(one) for one in again])}" if again else "")


def afterwards_words(view: Origin) -> str:
    found = view.training
    gate = {True: "was accepted", False: "was REJECTED and went no further", None: "has not been evaluated yet"}
    said = f"the policy of round {view.spot.round} {gate[found.accepted]}"
    return f"{said} · → and ← show what each policy says to this prompt"
