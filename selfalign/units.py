"""Figures as people read them: durations, sizes, shares of a whole, the course of a series."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.text import one_line


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
