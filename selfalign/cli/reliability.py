"""A reliability diagram in a terminal: a bar for how often forecasts were right, a mark for how sure they were."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.records import Bin

_LONGEST_BAR, _SHORTEST_BAR = 60, 12
_HEAD = ("how sure", "right", "95% interval", "pairs", "", "")
_BY_ROOM = ((0, 1, 2, 3, 4), (0, 1, 3, 4), (0, 1, 3, 5))  # the columns shown, for terminals ever narrower
_FOOTNOTE = "!: off by more than chance"


def reliability_lines(bins: Sequence[Bin], width: int, *, floor: float = 0.5, unicode: bool = True) -> list[str]:
    """A head and a line for each bin, at most `width` columns wide: from 0 to 1 a bar, and a mark where it should end.

    Bins that chance does not explain are named. `floor` is the lowest probability that can be forecast, as for the
    drawing in the report. On a terminal that is too narrow the bar gives way first, then lines are cut.
    """
    if not bins:
        return ["no pairs"[:width]]
    rows = [_HEAD, *(_cells(one, floor) for one in bins)]
    for columns in _BY_ROOM:
        widths = [max(len(row[column]) for row in rows) for column in columns]
        room = min(_LONGEST_BAR, width - sum(widths) - 2 * len(columns))
        if room >= _SHORTEST_BAR:
            break
    mark = "│" if unicode else "|"
    bars = [f"{mark} how sure"[: max(0, room)], *(_bar(one, room, mark, unicode) for one in bins)]
    lines = [_line(row, bar, room, columns, widths) for row, bar in zip(rows, bars, strict=True)]
    noted = 5 in columns and not all(one.calibrated for one in bins)
    return [line[:width].rstrip() for line in (*lines, *([_FOOTNOTE] if noted else []))]


def _cells(one: Bin, floor: float) -> tuple[str, ...]:
    high, low = ("too sure", "not sure enough") if floor >= 0.5 else ("too high", "too low")
    verdict = "" if one.calibrated else high if one.confidence > one.accuracy else low
    interval = f"{one.interval.low:.2f} to {one.interval.high:.2f}"
    mark = "!" if verdict else ""
    return f"{one.low:.2f}-{one.high:.2f}", f"{one.accuracy:.2f}", interval, f"{one.n:,}", verdict, mark


def _bar(one: Bin, room: int, mark: str, unicode: bool) -> str:
    """The share that was right in eighths of a column, or in whole ones, with the mark set over it."""
    if room < 1:
        return ""
    eighths = round(one.accuracy * room * 8)
    parts = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
    full = "█" * (eighths // 8) + parts[eighths % 8] if unicode else "#" * round(one.accuracy * room)
    place = min(room - 1, int(one.confidence * room))
    return full.ljust(room)[:place] + mark + full.ljust(room)[place + 1 :]


def _line(row: Sequence[str], bar: str, room: int, columns: Sequence[int], widths: Sequence[int]) -> str:
    words = {0, 4, 5}  # these stand to the left, numbers to the right
    cells = [
        row[column].ljust(width) if column in words else row[column].rjust(width)
        for column, width in zip(columns, widths, strict=True)
    ]
    return "  ".join([cells[0], *([bar.ljust(room)] if room > 0 else []), *cells[1:]]).rstrip()
