"""Rows in a file: JSON lines or Parquet, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from selfalign.cli.errors import USAGE, CommandError
from selfalign.cli.output import say
from selfalign.store import atomic_write
from selfalign.text import clean

ROWS = 4096  # held in memory at a time
_LINE_ENDS = {0x2028: "\\u2028", 0x2029: "\\u2029", 0x85: "\\u0085"}  # some readers take them for the end of a line

Row = Mapping[str, Any]


def write(
    rows: Iterator[Row], out: Path, what: str, *, none: Sequence[str] = (), columns: Mapping[str, str] | None = None
) -> None:
    """Write rows to a new file, say how many of `what` there were, and print the file's name.

    With `columns`, names and types as `_arrow_type` knows them, the file is Parquet, otherwise JSON lines. Raises
    CommandError where the file exists, and where there are no rows, with `none` to say why; then no file is left.
    """
    if out.exists():
        raise CommandError(f"{out} exists", fix="name another file, or remove it first", code=USAGE)
    building = out.with_name(f".{out.name}.tmp")
    try:
        count = _write_parquet(rows, building, columns) if columns else _write_lines(rows, building)
        if not count:
            raise CommandError(f"there are no such {what} to export", why="\n".join(none), code=USAGE)
        os.replace(building, out)
    finally:
        building.unlink(missing_ok=True)
    say(f"{count:,} {what}")
    print(clean(str(out)))


def write_text(text: str, out: Path) -> None:
    """Write a new file, whole or not at all, and print its name. Raises CommandError where it exists."""
    if out.exists():
        raise CommandError(f"{out} exists", fix="name another file, or remove it first", code=USAGE)
    atomic_write(out, text.encode("utf-8", "replace"))
    print(clean(str(out)))


def _write_lines(rows: Iterable[Row], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        for row in rows:
            count += 1
            file.write(json.dumps(msgspec.to_builtins(row), ensure_ascii=False).translate(_LINE_ENDS) + "\n")
    return count


def _write_parquet(rows: Iterator[Row], path: Path, columns: Mapping[str, str]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, schema = 0, pa.schema([(name, _arrow_type(pa, kind)) for name, kind in columns.items()])
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count


def _arrow_type(pa: Any, kind: str) -> Any:
    """From "text", "int", "float", "flag", "messages", or one of them in the plural form "[text]"."""
    if kind.startswith("["):
        return pa.list_(_arrow_type(pa, kind[1:-1]))
    if kind == "messages":
        return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "flag": pa.bool_()}[kind]
