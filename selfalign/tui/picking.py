"""A list of the runs, to pick one of."""

from __future__ import annotations

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


class PickRun(ModalScreen[Path | None]):
    """Which of the runs there are; None, where none is picked."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "leave it", show=False)]
    DEFAULT_CSS = """
    PickRun { align: center middle; background: $background 60%; }
    PickRun > Vertical { width: 76; max-width: 95%; height: auto; padding: 1 2; background: $surface; }
    PickRun Words { height: auto; }
    PickRun Grid { height: 4; margin: 1 0; }
    """

    class Found(Message):
        def __init__(self, rows: list[tuple[Path, str, str, int]]) -> None:
            super().__init__()
            self.rows = rows

    def __init__(self, question: str) -> None:
        super().__init__()
        self.question = question
        self.rows: list[tuple[Path, str, str, int]] = []

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words((self.question, "bold"))
            yield Grid([Column("run"), Column("state", 13), Column("rounds", 6, right=True)])
            yield Words(("Enter", f"bold {shown.SKY}"), " take it   ", ("Esc", f"bold {shown.SKY}"), " leave it")

    def on_mount(self) -> None:
        self.query_one(Grid).focus()
        self._read()

    @work(thread=True, exit_on_error=False, description="read")
    def _read(self) -> None:
        self.post_message(self.Found([_row(one) for one in cast("Reader", self.app).library.all()]))

    def on_pick_run_found(self, message: Found) -> None:
        self.rows = message.rows
        grid = self.query_one(Grid)
        grid.styles.height = min(len(self.rows), MOST_LINES) + 1
        grid.fill(len(self.rows), self.row)

    def row(self, index: int) -> list[Text]:
        _, name, state, evaluated = self.rows[index]
        return [shown.cell(name, "bold"), shown.line(state_cell(state)), shown.cell(evaluated)]

    def on_grid_opened(self, message: Grid.Opened) -> None:
        self.dismiss(self.rows[message.index][0])

    def action_leave(self) -> None:
        self.dismiss(None)


def _row(watched: Watched) -> tuple[Path, str, str, int]:
    with watched.reading() as run:
        return run.path, run.name, run.state, len(run.reports)
