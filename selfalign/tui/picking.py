"""Lists that stand over a screen, to choose one thing of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen

from selfalign.tui import shown
from selfalign.tui.page import state_cell
from selfalign.tui.reading import Watched
from selfalign.tui.widgets import Column, Grid, Words

if TYPE_CHECKING:
    from selfalign.tui.app import Reader

MOST_LINES = 14


class Choose(ModalScreen[int | None]):
    """A short list of names to choose from; None, where it is left. `takes` says what Enter does."""

    COLUMNS: ClassVar[tuple[Column, ...]] = (Column(""),)
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "leave it", show=False)]
    DEFAULT_CSS = """
    Choose { align: center middle; background: $background 60%; }
    Choose > Vertical { width: 76; max-width: 95%; height: auto; padding: 1 2; background: $surface; }
    Choose Words { height: auto; }
    Choose Grid { height: 4; margin: 1 0; }
    """

    def __init__(self, question: str, takes: str, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.question, self.takes, self.names = question, takes, list(names)

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words((self.question, "bold"))
            yield Grid(self.COLUMNS)
            yield Words(("Enter", f"bold {shown.SKY}"), f" {self.takes}   ", ("Esc", f"bold {shown.SKY}"), " leave it")

    def on_mount(self) -> None:
        self.query_one(Grid).focus()
        self.fill()

    def fill(self) -> None:
        """Show the names there are by now."""
        grid = self.query_one(Grid)
        grid.styles.height = min(len(self.names), MOST_LINES) + 1
        grid.fill(len(self.names), self.row)

    def row(self, index: int) -> list[Text]:
        return [shown.cell(self.names[index], "bold")]

    def on_grid_opened(self, message: Grid.Opened) -> None:
        self.dismiss(message.index)

    def action_leave(self) -> None:
        self.dismiss(None)


class PickRun(Choose):
    """Which of the runs there are: an index of `paths`."""

    COLUMNS = (Column("run"), Column("state", 13), Column("rounds", 6, right=True))

    class Found(Message):
        def __init__(self, rows: list[tuple[Path, str, str, int]]) -> None:
            super().__init__()
            self.rows = rows

    def __init__(self, question: str, takes: str) -> None:
        super().__init__(question, takes)
        self.paths: list[Path] = []
        self._rows: list[tuple[Path, str, str, int]] = []

    def on_mount(self) -> None:
        self._read()

    @work(thread=True, exit_on_error=False, description="read")
    def _read(self) -> None:
        self.post_message(self.Found([_row(one) for one in cast("Reader", self.app).library.all()]))

    def on_pick_run_found(self, message: Found) -> None:
        self._rows = message.rows
        self.paths, self.names = [row[0] for row in message.rows], [row[1] for row in message.rows]
        self.fill()

    def row(self, index: int) -> list[Text]:
        _, _, state, evaluated = self._rows[index]
        return [*super().row(index), shown.line(state_cell(state)), shown.cell(evaluated)]


def _row(watched: Watched) -> tuple[Path, str, str, int]:
    with watched.reading() as run:
        return run.path, run.name, run.state, len(run.reports)
