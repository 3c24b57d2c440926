"""Whatever a widget shows is made here: cleaned, and never read as markup.

Nothing else in this package may make a Text (tests/tui/test_untrusted.py reads the source and holds this).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from selfalign.records import Message
from selfalign.text import clean, one_line

Part = str | Text | tuple[str, str]  # words, words that were made here, or words with a style
LONGEST_LINE = 2_000  # characters; no screen shows more of one line
LONGEST_BLOCK = 20_000  # characters; wrapping more would hold up the screen

# Okabe and Ito's colours, which colour-blind eyes tell apart. A sign or a word always says the same as the colour.
SKY, ORANGE, GREEN, VERMILION, PURPLE, YELLOW = "#56b4e9", "#e69f00", "#2fb894", "#ee7733", "#cc79a7", "#f0e442"
GOOD, BAD, WARN, NOTE = GREEN, f"bold {VERMILION}", ORANGE, SKY
DIM = "#8b949e"
SERIES = (SKY, ORANGE, GREEN, PURPLE)


def line(*parts: Part, style: str = "") -> Text:
    """One line. Line breaks and tabs become spaces; what stands in columns keeps its spaces."""
    made = Text(style=style, no_wrap=True, end="")
    for part in parts:
        if isinstance(part, Text):
            made.append_text(part)
        else:
            words, how = (part, "") if isinstance(part, str) else part
            made.append(_flat(words), how)
    return made


def cell(value: object, style: str = "", limit: int = 200) -> Text:
    """A value as a cell of a table: one line, its spaces collapsed, cut at `limit` characters."""
    return Text(one_line(value, limit), style=style, no_wrap=True, end="")


def block(words: str, style: str = "") -> Text:
    """A text of several lines. Of a very long one the beginning, and how much is left out."""
    left_out = len(words) - LONGEST_BLOCK
    shown = Text(clean(words[:LONGEST_BLOCK]).expandtabs(4), style=style, end="")
    if left_out > 0:
        shown.append(f"\n… {left_out:,} characters more", DIM)
    return shown


def lines(parts: Iterable[Text]) -> Text:
    """Texts one below the other."""
    return Text("\n", end="").join(parts)


def conversation(messages: Iterable[Message]) -> Text:
    """The turns of a conversation, each under its role."""
    turns = []
    for message in messages:
        turns += [line((message.role, f"bold {DIM}")), block(message.content)]
    return lines(turns)


def columns(*parts: Text) -> Table:
    """Texts side by side, each wrapped in a column of its own."""
    made = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for part in parts:
        made.add_column(ratio=1, overflow="fold")
        part.no_wrap = False
    made.add_row(*parts)
    return made


def below(*parts: Text | Table) -> Table:
    """Texts and tables one below the other."""
    made = Table.grid(expand=True)
    for part in parts:
        made.add_row(part)
    return made


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Part]], *, right: Sequence[int] = (), wraps: Sequence[int] = ()
) -> Table:
    """A table without borders; the columns numbered in `right` stand to the right, as numbers do.

    Where there is not enough room, those numbered in `wraps` go on in another line, and the others stay whole.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=f"bold {DIM}")
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "right" if index in right else "left"
        how: Literal["fold", "ellipsis"] = "fold" if index in wraps else "ellipsis"
        head = _wrapping(line(column), index in wraps)
        made.add_column(head, justify=justify, overflow=how, no_wrap=index not in wraps)
    for row in rows:
        made.add_row(*(_wrapping(line(part), index in wraps) for index, part in enumerate(row)))
    return made


def _wrapping(text: Text, wraps: bool) -> Text:
    text.no_wrap = not wraps
    return text


def facts(rows: Iterable[tuple[str, str]], title: str = "") -> Table:
    """What is known, by name, under a title: the names in a column, what is said of each wrapped beside it."""
    made = Table.grid(expand=True, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(ratio=1, overflow="fold")
    if title:
        made.add_row(line((title, "bold")), "")
    for name, words in rows:
        made.add_row(line((name, DIM)), block(words))
    return made


def _flat(words: str) -> str:
    if len(words) > LONGEST_LINE:
        words = words[: LONGEST_LINE - 1] + "…"
    return clean(words).replace("\n", " ").replace("\t", " ")
