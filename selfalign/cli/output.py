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


def counted(done: int, total: int, unit: str) -> str:
    """4,120 of 6,000 judgments."""
    return f"{done:,} of {total:,} {one_line(unit)}".rstrip()


def duration(seconds: float | None) -> str:
    """Seconds as people read them: 8 s, 4:05, 2 h 07 m, 3 d 4 h."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def clock(seconds: float) -> str:
    """Seconds for a narrow cell: 0.2s, 33s, 4:25, 2h07."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}:{whole % 60:02d}" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}"


def size(num_bytes: float) -> str:
    """Bytes as people read them, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def sparkline(values: Sequence[float | None], *, unicode: bool = True, least: float = 0.0) -> str:
    """Values as a line of bars, lowest to highest; a gap where a value is missing.

    The bars span at least `least`, so that noise does not look like a trend.
    """
    present = [value for value in values if value is not None]
    if not present:
        return ""
    bars = "▁▂▃▄▅▆▇█" if unicode else "_.-=+*#@"
    low, span = min(present), max(*present, min(present) + least) - min(present)
    scale = (len(bars) - 1) / span if span else 0.0
    return "".join(" " if value is None else bars[round((value - low) * scale)] for value in values)
