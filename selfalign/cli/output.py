"""What every command prints with: data on stdout, narration on stderr, foreign text cleaned and never as markup."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfalign.text import clean, one_line

PLAIN_WIDTH = 10_000  # in a pipe no line is cut or wrapped


def console(stream: IO[str] | None = None) -> Console:
    """A console on a stream (default: stdout). In a pipe: no colours, no wrapping."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=not stream.isatty())


def is_plain(stream: IO[str]) -> bool:
    """Whether a stream wants plain lines: not a terminal, NO_COLOR, or a terminal that cannot move its cursor."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "") in ("", "dumb")


def is_unicode(stream: IO[str]) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"


def text(value: Any, style: str = "") -> Text:
    """A value as rich Text: cleaned, on one line, with no markup read into it."""
    if isinstance(value, Text):
        return value
    return Text(one_line(value), style=style)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), title: str = ""
) -> None:
    """Print a table to stdout; numbers (columns named in `right`) stand to the right. No line ends in spaces."""
    print_to = console()
    with print_to.capture() as found:
        print_to.print(make_table(columns, rows, right=right, title=title), soft_wrap=False)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in found.get().removesuffix("\n").split("\n")))


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), title: str = ""
) -> Table:
    heading = text(title, "bold") if title else None
    table = Table(box=None, title=heading, title_justify="left", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        justify = "right" if column in right else "left"
        table.add_column(text(column, "bold"), justify=justify, overflow="fold", no_wrap=column in right)
    for row in rows:
        table.add_row(*(text(cell) for cell in row))
    return table


def print_parts(parts: Iterable[Text]) -> None:
    """Print texts to stdout, one below the other."""
    print_to = console()
    for part in parts:
        print_to.print(part)


def print_json(value: Any) -> None:
    """Print one JSON document. Pure ASCII: no byte of foreign text can reach a terminal as a control."""
    print(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=True))


def print_json_line(value: Any) -> None:
    """Print one JSON document on one line, for streams of records."""
    print(json.dumps(msgspec.to_builtins(value), ensure_ascii=True))


def say(message: str) -> None:
    """Narrate: one line on stderr."""
    print(clean(message), file=sys.stderr, flush=True)
