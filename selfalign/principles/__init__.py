"""What each principle of a constitution did in a run: how often it was asked, how clearly it answered, whom it agrees
with, what its verdicts hang on beside what it says, and which principles contradict each other.

`stats` reads a run by column: a million judgments take seconds.
"""

from __future__ import annotations

from selfalign.principles.columns import COLUMNS, Column, figure_text
from selfalign.principles.conflicts import Conflict
from selfalign.principles.figures import Estimate, Figures
from selfalign.principles.flags import FEWEST, Flag, by_fix, worded
from selfalign.principles.opinions import TIE
from selfalign.principles.reading import Record, Stats, stats

__all__ = [
    "COLUMNS", "FEWEST", "TIE", "Column", "Conflict", "Estimate", "Figures", "Flag", "Record", "Stats", "by_fix",
    "figure_text", "stats", "worded",
]  # fmt: skip
