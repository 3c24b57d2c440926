"""One held-out prompt: what both sides of a comparison say to it, and what every other round says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget

from selfalign.records import Prompt
from selfalign.rewording import sides as reworded
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.answers import Answer, Answers, answers_of
from selfalign.tui.compare.differences import probability
from selfalign.tui.compare.sides import Side
from selfalign.tui.page import Page, Place
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Scroll, Words


@dataclass(frozen=True, slots=True)
class View:
    """A prompt with the answers of all policies of both runs, by side."""

    position: int
    prompt: Prompt | None
    answers: tuple[tuple[Answer, ...], tuple[Answer, ...]]


class OnePrompt(Page):
    NUMBER, NAME = "7", "Prompt"
    EVERY = 2.0
    ABOUT = (
        "One held-out prompt, and two answers to it. The arrow keys go through the answers of all rounds on the right, "
        "[ and ] on the left. Words that the other answer has not are underlined (d switches this off).\n\n"
        "In the line of a run, each policy stands with the judge's probability that its answer is better than that of "
        "the policy before it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "turn(1)", "next", tooltip="the next prompt"),
        Binding("p", "turn(-1)", "previous", tooltip="the prompt before"),
        Binding("left", "slide(1, -1)", "earlier", priority=True, tooltip="right: the answer of the round before"),
        Binding("right", "slide(1, 1)", "later", priority=True, tooltip="right: the answer of the next round"),
        Binding("left_square_bracket", "slide(0, -1)", "left: the answer of the round before", show=False),
        Binding("right_square_bracket", "slide(0, 1)", "left: the answer of the next round", show=False),
        Binding("d", "difference", "diff", tooltip="underline words that the other has not, or not"),
    ]
    DEFAULT_CSS = """
    OnePrompt Words { height: auto; }
    OnePrompt .part { padding: 0 2; margin-bottom: 1; }
    OnePrompt #answers { height: auto; padding: 0 2; margin-bottom: 1; }
    OnePrompt #answers > Words { width: 1fr; }
    OnePrompt #answer0 { margin-right: 2; }
    """

    def __init__(
        self, place: Place, left: Side, right: Side, ids: Sequence[str], position: int, moved: Callable[[int], None]
    ) -> None:
        super().__init__(place)
        self.both, self.ids, self.position, self.moved = (left, right), ids, position, moved
        self.rounds = [left.policy.round, right.policy.round]  # whose answers are in sight
        self.view: View | None = None
        self.marked = True

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="prompt", classes="part")
            yield Words(id="course", classes="part")
            with Horizontal(id="answers"):
                yield Words(id="answer0")
                yield Words(id="answer1")

    def read(self) -> View:
        position = self.position
        if self.view is not None and self.view.position == position:
            return self.view
        identity = self.ids[position]
        left, right = (tuple(self._of(side).to(identity)) for side in self.both)
        return View(position, self._of(self.both[0]).prompt(identity), (left, right))

    def _of(self, side: Side) -> Answers:
        return answers_of(self.reader.library.open(side.policy.path).run)

    def show(self, view: View) -> None:
        if view is self.view:
            return
        self.view = view
        self.title_is(
            (f"prompt {view.position + 1:,} of {len(self.ids):,}", "bold"),
            (f"  {one_line(view.prompt.source, 40)}  {', '.join(view.prompt.tags)}" if view.prompt else "", shown.DIM),
        )
        messages = view.prompt.messages if view.prompt else ()
        self.query_one("#prompt", Words).show(shown.conversation(messages))
        self._show_answers()
        self.query_one(Scroll).scroll_home(animate=False)
        if view.position != self.position:
            self.renew()

    def _show_answers(self) -> None:
        if self.view is None:
            return
        self.query_one("#course", Words).show(self._course())
        chosen = [self._chosen(side) for side in (0, 1)]
        texts = [answer.first.text[: shown.LONGEST_BLOCK] if answer and answer.first else "" for answer in chosen]
        if self.marked and all(texts):
            made = list(reworded(*texts, (f"underline {shown.VERMILION}", f"underline {shown.GREEN}")))
        else:
            made = [said(answer, text) for answer, text in zip(chosen, texts, strict=True)]
        same = ("  = the same words" if all(texts) and texts[0] == texts[1] else "", shown.DIM)
        for side, answer in enumerate(chosen):
            head = shown.line(self._head(side, answer), same if side else "")
            self.query_one(f"#answer{side}", Words).show(shown.lines([head, shown.line(""), made[side]]))
        self.trouble([f"{answer.name}: {answer.trouble}" for answer in chosen if answer and answer.trouble])

    def _chosen(self, side: int) -> Answer | None:
        assert self.view is not None
        return next((one for one in self.view.answers[side] if one.policy == self.rounds[side]), None)

    def _head(self, side: int, answer: Answer | None) -> Text:
        """Whose answer it is, and below it how long it is and what the judge makes of it."""
        run = "" if self._same_run else f"{one_line(self.both[side].run, 30)} "
        if answer is None:
            return shown.line((f"{run}no answer", "bold"))
        facts = [f"{len(answer.first.token_ids)} tokens"] if answer.first else []
        facts += [f"{answer.p_base:.2f} vs base"] if answer.p_base is not None else []
        return shown.lines([shown.line((f"{run}{answer.name}", "bold")), shown.line(("  ".join(facts), shown.DIM))])

    @property
    def _same_run(self) -> bool:
        return self.both[0].policy.path == self.both[1].policy.path

    def _course(self) -> Text:
        """Where both sides stand among the answers: one line, or one for each run."""
        assert self.view is not None
        if self._same_run:
            return course(self.view.answers[1], {"[ ]": self.rounds[0], "← →": self.rounds[1]})
        runs = [one_line(side.run, 30) for side in self.both]
        names = [f"{run:<{max(map(len, runs))}}  " for run in runs]
        found = [course(self.view.answers[side], {key: self.rounds[side]}) for side, key in ((0, "[ ]"), (1, "← →"))]
        return shown.lines(shown.line((name, "bold"), line) for name, line in zip(names, found, strict=True))

    def action_turn(self, by: int) -> None:
        if not 0 <= self.position + by < len(self.ids):
            self.reader.say("there is no further prompt")
            return
        self.position += by
        self.moved(self.position)
        self.renew()

    def action_slide(self, side: int, by: int) -> None:
        """The answer of the round before or after, on one side."""
        if self.view is None:
            return
        policies = [one.policy for one in self.view.answers[side]]
        at = policies.index(self.rounds[side]) + by if self.rounds[side] in policies else 0
        if 0 <= at < len(policies):
            self.rounds[side] = policies[at]
            self._show_answers()
        else:
            self.reader.say(f"there is no answer {'after' if by > 0 else 'before'} this one")

    def action_difference(self) -> None:
        self.marked = not self.marked
        self._show_answers()

    def command(self) -> str:
        left, right = (side.policy.path for side in self.both)
        return f"selfalign runs compare {left} {right}" if left != right else f"selfalign report {left}"

    def copied(self) -> str:
        """The prompt with both answers."""
        if self.view is None:
            return ""
        texts = [f"{one.role}: {one.content}" for one in (self.view.prompt.messages if self.view.prompt else ())]
        for side in (0, 1):
            answer = self._chosen(side)
            if answer is not None:
                texts.append(f"{self.both[side].run} {answer.name}: {answer.first.text if answer.first else ''}")
        return "\n\n".join(texts)


def said(answer: Answer | None, text: str) -> Text:
    if text:
        return shown.block(text)
    if answer is not None and answer.trouble:
        return shown.line(("(cannot be read)", shown.BAD))
    return shown.line(("(empty)" if answer is not None and answer.first else "(none)", shown.DIM))


def course(answers: Sequence[Answer], here: dict[str, int | None]) -> Text:
    """Every policy that answered, with the judge's probability against the one before; the keys stand at theirs."""
    parts: list[Part] = []
    for answer in answers:
        keys = " ".join(key for key, policy in here.items() if policy == answer.policy)
        parts.append((" ─ " if parts else "", shown.DIM))
        parts.append((f"{keys} " if keys else "", f"bold {shown.SKY}"))
        parts.append((answer.name, "bold reverse" if keys else ""))
        if answer.p_previous is not None:
            parts += [" ", probability(answer.p_previous)]
        if answer.trouble:
            parts.append((" ✗ unreadable", shown.BAD))
    made = shown.line(*(parts or [("no policy answered this prompt", shown.DIM)]))
    made.no_wrap = False
    return made
