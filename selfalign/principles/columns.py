"""The figures of principles as columns of a table: their titles, what they say, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass

from selfalign.principles.figures import Estimate


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in the table. `course`: its way over the rounds is drawn too. `words` say what it is."""

    title: str
    figure: str
    words: str
    course: bool = False


COLUMNS = (
    Column("prompts", "coverage", "asked about"),
    Column("decides", "decisiveness", "0% a coin toss, 100% certain", course=True),
    Column("chosen", "chosen", "what it prefers, its own vote among others, was trained on", course=True),
    Column("orders", "swap_consistency", "same verdict when the answers change places"),
    Column("first", "first_preferred", "prefers the answer shown first"),
    Column("longer", "longer", "prefers the longer answer", course=True),
    Column("length r", "length_correlation", "correlation of its log-odds with length"),
    Column("invalid", "invalid", "no verdict that could be read"),
    Column("people", "people", "people agree"),
    Column("gold", "gold", "prefers the gold answer"),
)


def figure_text(figure: str, found: Estimate, *, detail: bool, unicode: bool = True) -> str:
    """A figure, a share in percent; in detail with half the width of its interval."""
    half = (found.high - found.low) / 2
    sign = "±" if unicode else "+-"
    if figure == "length_correlation":
        return f"{found.value:+.2f}" + (f" {sign}{half:.2f}" if detail else "")
    return f"{found.value:.0%}" + (f" {sign}{100 * half:.0f}" if detail else "")
