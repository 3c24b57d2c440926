"""The metrics of a round's training, column by column, as they are written."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from pathlib import Path

from selfalign.stages.report.training import CURVES, METRICS_FILE, ROLLOUT_CURVES
from selfalign.store.tail import Tail
from selfalign.tui.charts import Charted
from selfalign.tui.plotting import Curve

MARGINS: Mapping[str, Mapping[str, str]] = {"Reward margin": {"rewards/margins": "margin"}}
CHARTS: Mapping[str, Mapping[str, str]] = {**CURVES, **MARGINS, **ROLLOUT_CURVES}
MOST = 10_000  # steps held; of a longer training every second one is let go, again and again


class TrainLog:
    """What the trainer of a round has logged so far."""

    def __init__(self, folder: Path) -> None:
        self._tail = Tail(folder / METRICS_FILE)
        self._restarts = 0
        self._columns: dict[str, tuple[array[float], array[float]]] = {}
        self._every, self._seen = 1, 0

    def grow(self) -> None:
        """Take in the steps that are new."""
        for step in self._tail.events():
            if self._tail.restarts != self._restarts:  # training began anew
                self._restarts, self._columns, self._every, self._seen = self._tail.restarts, {}, 1, 0
            self._seen += 1
            if self._seen % self._every == 0:
                self._take(step)

    def _take(self, step: Mapping[str, object]) -> None:
        at = step.get("step", self._seen)
        for name, value in step.items():
            if isinstance(value, int | float) and isinstance(at, int | float):
                xs, ys = self._columns.setdefault(name, (array("d"), array("d")))
                xs.append(at)
                ys.append(value)
        if max((len(xs) for xs, _ in self._columns.values()), default=0) > MOST:
            self._every *= 2
            self._columns = {name: (xs[::2], ys[::2]) for name, (xs, ys) in self._columns.items()}

    @property
    def steps(self) -> int:
        return self._seen

    def charts(self) -> list[Charted]:
        """The charts that there are curves for."""
        found = []
        for title, names in CHARTS.items():
            curves = [
                Curve(label if len(names) > 1 else "", *map(tuple, self._columns[name]))
                for name, label in names.items()
                if name in self._columns
            ]
            if curves and not ("objective/scores" in self._columns and title in CURVES):
                found.append(Charted(title, tuple(curves), along="step"))
        return found
