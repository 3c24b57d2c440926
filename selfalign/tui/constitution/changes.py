"""What an edit of a constitution means, principle by principle, against the version of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.text import Text
from textual.widget import Widget

from selfalign.constitution.diff import KINDS, Change, Diff, diff, in_words
from selfalign.rewording import diff as coloured
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.constitution.bench import Bench
from selfalign.tui.constitution.rules import Parsed, Subject
from selfalign.tui.page import Page, Place
from selfalign.tui.reading import UNREADABLE, why
from selfalign.tui.widgets import Scroll, Words

SIGNS = {
    "added": ("+", shown.GOOD), "retired": ("−", shown.BAD), "reworded": ("~", shown.SKY),
    "reweighted": ("×", shown.SKY), "rescoped": ("◎", shown.SKY), "moved": ("↕", shown.SKY),
    "annotated": ("·", shown.DIM),
}  # fmt: skip
WENT, CAME = f"strike {shown.VERMILION}", f"underline {shown.GREEN}"


@dataclass(frozen=True, slots=True)
class View:
    """What differs, or why that is not known."""

    found: Diff | None
    trouble: str = ""


class Changes(Page):
    NUMBER, NAME = "5", "Difference"
    ABOUT = (
        "What the file of the campaign, with what was typed and not saved yet, changes against the version of the "
        "round. Principles are matched by their ids, wherever they stand.\n\n"
        "+ added  − retired  ~ reworded  × reweighted  ◎ rescoped: applies to other prompts  ↕ moved: kind, tier or "
        "what it yields to  · annotated: changes no label. Words that went are struck, words that came underlined.\n"
        "Only principles whose words a judge reads in another way are judged anew."
    )
    DEFAULT_CSS = "Changes Words { height: auto; } Changes Scroll > Words { padding: 0 2; }"

    def __init__(self, place: Place, at: Subject, bench: Bench, parsed: Parsed) -> None:
        super().__init__(place)
        self.subject, self.bench, self.parsed = at, bench, parsed
        self._shown: View | None = None

    def body(self) -> Iterator[Widget]:
        with Scroll():
            yield Words(id="changes")

    def read(self) -> View:
        return compared(self.subject, self.bench, self.parsed)

    def show(self, view: View) -> None:
        if view == self._shown:
            return
        self._shown, found = view, view.found
        words = self.query_one("#changes", Words)
        if found is None:
            self.title_is(("difference", "bold"))
            words.show(shown.block(view.trouble, shown.WARN))
            return
        where = f"round {self.subject.round}"
        self.title_is(
            (f"{one_line(found.before)} → {one_line(found.after)}", "bold"), f"  against {where}  ", summary(found)
        )
        words.show(shown.below(*told(found)))

    def command(self) -> str:
        return f"selfalign constitution diff {self.subject.version} {self.subject.file or 'FILE'}"

    def copied(self) -> str:
        found = self._shown.found if self._shown else None
        return "\n".join(f"{one.kind} {one.principle} {one.field}" for one in found.changes) if found else ""


def compared(at: Subject, bench: Bench, parsed: Parsed) -> View:
    """The round's version against the file's, as it was typed so far."""
    if at.rules is None or at.round is None:
        return View(None, "No round has a version of its own yet: there is nothing to compare with.")
    if at.file is None:
        return View(None, at.shut)
    try:
        draft = bench.draft(at.file)
        return View(diff(at.rules, parsed.load(draft.path, draft.text.removeprefix("\ufeff"))))
    except UNREADABLE as error:
        return View(None, f"The file has errors, so that what it means is not known (i shows where):\n\n{why(error)}")


def summary(found: Diff) -> str:
    """How many changes of each kind, in a line."""
    counts = Counter(change.kind for change in found.changes)
    return ", ".join(f"{counts[kind]} {kind}" for kind in SIGNS if counts[kind]) or "nothing differs"


def told(found: Diff) -> Iterator[Text]:
    """Every change with its words, then what is to be judged anew."""
    for change in found.changes:
        sign, style = SIGNS[change.kind]
        name = change.principle or "(the whole constitution)"
        yield shown.line(
            (f"{sign} {change.kind:<11}", style), (one_line(name), "bold"), (f"  {change.field}", shown.DIM)
        )
        yield _words(change)
        yield shown.line("")
    yield anew(found)
    if not bumped(found):
        yield shown.line(
            (f"! the version is still {one_line(found.after)}: write another number for other words", shown.WARN)
        )


def _words(change: Change) -> Text:
    if change.field == "status":
        return shown.line(f"  {one_line(change.state())}")
    before, after = (in_words(value) for value in (change.before, change.after))
    made = shown.line("  ", coloured(one_line(before) or "(none)", one_line(after) or "(none)", (WENT, CAME)))
    made.no_wrap = False
    return made


def anew(found: Diff) -> Text:
    """Which principles are to be judged anew, in words."""
    names = ", ".join(map(one_line, found.judged_anew))
    count = len(found.judged_anew)
    said = f"{count} to be judged anew: {names}" if count else "Stored verdicts hold for all principles."
    made = shown.line((said, "bold"))
    made.no_wrap = False
    return made


def bumped(found: Diff) -> bool:
    """Whether other words have another version number."""
    worded = any(
        KINDS.get(change.field) == "reworded" or change.field in ("status", "preamble") for change in found.changes
    )
    return not worded or found.before != found.after
