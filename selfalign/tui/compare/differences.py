"""What the sections of a comparison say: figures, settings, constitutions, and the list of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from selfalign.constitution.diff import Change, in_words
from selfalign.constitution.diff import diff as changes_between
from selfalign.rewording import sides as reworded
from selfalign.settings import in_yaml
from selfalign.stages.report.comparison import settings_that_differ
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.answers import Answer
from selfalign.tui.compare.sides import MEASURES, Side, difference, incomparable
from selfalign.tui.shown import Part
from selfalign.tui.widgets import Column

SHORT = 60  # characters of a setting or of a changed value that stand in one line
SNIPPET = 200
NO_FIGURES = "No figures: neither side has been evaluated."


class Lines(NamedTuple):
    """What a row of the prompts shows beside its place: the prompt and both answers."""

    prompt: str
    left: Answer | None
    right: Answer | None


def title_of(left: Side, right: Side) -> Text:
    """What is compared with what."""
    arrow = ("  →  ", f"bold {shown.SKY}")
    if left.policy.path == right.policy.path:
        return shown.line((left.run, "bold"), "  ", (left.name, "bold"), arrow, (right.name, "bold"))
    parts: list[Part] = [(left.run, "bold"), f" {left.name}", arrow, (right.run, "bold"), f" {right.name}"]
    return shown.line(*parts)


def heads(left: Side, right: Side) -> tuple[str, str]:
    """The names of both sides as heads of columns."""
    if left.policy.path == right.policy.path:
        return left.name, right.name
    return tuple(f"{one_line(side.run, 24)} {side.name}" for side in (left, right))  # type: ignore[return-value]


def notes(left: Side, right: Side, shared: int, asked: tuple[int, int]) -> Text:
    found = list(incomparable(left, right, shared, asked))
    if left.policy == right.policy and not left.rounds:
        found.append(f"{left.run} has no evaluated round yet: w compares with another run")
    elif left.policy == right.policy:
        found.append("both sides are the same policy: [ or ] takes another round, w another run")
    made = [shown.line(("! ", shown.WARN), (one, shown.WARN)) for one in found]
    for one in made:
        one.no_wrap = False
    return shown.lines(made)


def figures(left: Side, right: Side) -> Table | Text:
    """The figures of both sides, and what lies between them."""
    rows: list[tuple[Part, ...]] = []
    if left.report or right.report:
        rows.append(("gate", *(gate(side) for side in (left, right)), ""))
    for name, measure in MEASURES.items():
        found = left.figures.get(name), right.figures.get(name)
        if any(found):
            rows.append((measure.name, *(one.said if one else ("–", shown.DIM) for one in found),
                         difference(measure, *found)))  # fmt: skip
    if not rows:
        return shown.line((NO_FIGURES, shown.DIM))
    return shown.table(("figure, ± at 95%", *heads(left, right), "difference"), rows, wraps=(1, 2))


def gate(side: Side) -> Part:
    if side.report is None:
        return ("–", shown.DIM)
    return ("✓ accepted", shown.GOOD) if side.report.gate.accepted else ("✗ rejected", shown.BAD)


def settings(left: Side, right: Side) -> Table | Text:
    if left.settings is None or right.settings is None:
        missing = heads(left, right)[0 if left.settings is None else 1]
        return shown.line(("Settings: ", "bold"), (f"those of {missing} could not be read", shown.DIM))
    differing = [one for one in settings_that_differ([left.settings, right.settings]) if one[0] != "name"]
    if not differing:
        return shown.line(("Settings: ", "bold"), ("✓ the same", shown.GOOD))
    rows = [((name, "bold"), *(one_line(in_yaml(value), SHORT) for value in values)) for name, values in differing]
    return shown.table((f"{len(rows)} settings differ" if len(rows) > 1 else "1 setting differs",
                        *heads(left, right)), rows, wraps=(1, 2))  # fmt: skip


def rules(left: Side, right: Side) -> Table | Text:
    """What an edit of the constitution means, principle by principle."""
    head: Part = ("Constitution: ", "bold")
    if left.rules is None or right.rules is None:
        missing = [(side, name) for side, name in zip((left, right), heads(left, right), strict=True) if not side.rules]
        base = missing[0][0].policy.round is None
        why = "the base policy was not trained by one" if base else f"that of {missing[0][1]} could not be read"
        return shown.line(head, (why, shown.DIM))
    found = changes_between(left.rules, right.rules)
    if not found.changes:
        return shown.line(head, ("✓ the same", shown.GOOD), (f"  {one_line(found.after, SHORT)}", shown.DIM))
    anew = f"  {len(found.judged_anew)} of {len(right.rules.active)} principles judged anew"
    title = shown.line(head, f"{one_line(found.before, SHORT)} → {one_line(found.after, SHORT)}", (anew, shown.DIM))
    return shown.below(title, *(made for change in found.changes for made in changed(change)))


def changed(change: Change) -> Sequence[Text | Table]:
    """A change in a line, or, of longer words, both wordings with what the other has not underlined."""
    head: list[Part] = [(f"{change.kind}  ", KINDS.get(change.kind, "")), (change.principle or "(all)", "bold")]
    if change.field == "status":
        return [shown.line(*head, f"  {change.state()}")]
    before, after = (in_words(value) for value in (change.before, change.after))
    if len(before) + len(after) <= SHORT and "\n" not in before + after:
        return [shown.line(*head, f"  {change.field}: {before} → {after}")]
    styles = (f"underline {shown.VERMILION}", f"underline {shown.GREEN}")
    return [
        shown.line(*head, (f"  {change.field}", shown.DIM)),
        shown.columns(*reworded(before[: shown.LONGEST_BLOCK], after[: shown.LONGEST_BLOCK], styles)),
    ]


KINDS = {"added": shown.GOOD, "retired": shown.WARN, "reworded": shown.NOTE}


def same_head(left: Side, right: Side, shared: int, asked: tuple[int, int]) -> Text:
    if not shared:
        none = next((side for side, count in zip((left, right), asked, strict=True) if not count), None)
        said = f"{none.run} {none.name} has no held-out answers" if none else "no held-out prompt was put to both"
        return shown.line(("Same prompts: ", "bold"), (said, shown.DIM))
    said = "The figure: how likely the judge finds the first named answer better."
    return shown.lines(
        [shown.line(("Same prompts: ", "bold"), f"{shared:,} answered by both"), shown.line((said, shown.DIM))]
    )


def opponents(left: Side, right: Side) -> list[tuple[str, str]]:
    """What the judge's probabilities in the list are of, as heads of columns: a side, and what it is better than.

    Rounds that follow one another were judged directly; else both were judged against the base policy.
    """
    rounds = left.policy.round, right.policy.round
    near = left.policy.path == right.policy.path and rounds[1] is not None and _before(rounds[1]) == rounds[0]
    found = [("left", "base"), ("right", "base")] if not near else [("right", "left")]
    return [(side, other) for side, other in found if (left if side == "left" else right).policy.round is not None]


def _before(number: int) -> int | None:
    return number - 1 if number else None


def odds(left: Side, right: Side, found: Lines) -> list[float | None]:
    said = []
    for side, other in opponents(left, right):
        answer = found.left if side == "left" else found.right
        said.append((answer.p_previous if other == "left" else answer.p_base) if answer else None)
    return said


def changed_most(left: Side, right: Side, found: Lines | None) -> float:
    """By what prompts are put in order: how far the judge prefers either side, then whether the words differ."""
    if found is None:
        return 0.0
    chances = [p if p is not None else 0.5 for p in odds(left, right, found)]
    gap = abs(chances[0] - (chances[1] if len(chances) > 1 else 0.5)) if chances else 0.0
    texts = [one.first.text if one and one.first else "" for one in (found.left, found.right)]
    return -gap - (0.001 if texts[0] != texts[1] else 0.0)


def columns_of(left: Side, right: Side, *, wide: bool) -> tuple[Column, ...]:
    """The columns of the prompts; the answers themselves where there is room for them."""
    names = heads(left, right)
    short = {"left": "left", "right": "right", "base": "base"}
    if left.policy.path == right.policy.path:
        short |= {side: name.removeprefix("round ") for side, name in zip(("left", "right"), names, strict=True)}
    chances = [f"{short[a]} vs {short[b]}" for a, b in opponents(left, right)]
    texts = names if wide else ()
    return (
        Column("prompt"), *(Column(head, max(8, len(head)), right=True) for head in chances), Column("", 7),
        *(Column(name) for name in texts),
    )  # fmt: skip


def likeness(found: Lines) -> Text:
    firsts = [one.first if one else None for one in (found.left, found.right)]
    if firsts[0] is None or firsts[1] is None:
        return shown.cell("–", shown.DIM)
    same = firsts[0].text == firsts[1].text
    return shown.cell("= same" if same else "≠ other", shown.DIM if same else "")


def beginning(answer: Answer | None) -> Text:
    if answer is None or answer.first is None:
        return shown.cell("(cannot be read)" if answer and answer.trouble else "(none)", shown.WARN)
    return shown.cell(answer.first.text[:SNIPPET] or "(empty)", shown.DIM)


def probability(p: float | None) -> Text:
    """A probability with a sign: for the answer, against it, or neither."""
    if p is None:
        return shown.cell("–", shown.DIM)
    sign, style = ("=", shown.DIM) if abs(p - 0.5) < 0.01 else ("✓", shown.GOOD) if p > 0.5 else ("✗", shown.WARN)
    return shown.cell(f"{sign} {p:.2f}", style)
