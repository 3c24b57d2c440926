"""Questions that stand over a screen: yes or no, and a line of words."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from selfalign.tui import shown
from selfalign.tui.widgets import AnswerLine, Scroll, Words


class Confirm(ModalScreen[bool]):
    """What is about to happen, and whether it should. Only `y` does it: Enter alone is too soon pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "do it"),
        Binding("n,escape,q", "answer(False)", "leave it"),
    ]
    DEFAULT_CSS = """
    Confirm { align: center middle; background: $background 60%; }
    Confirm > Vertical { width: 76; max-width: 95%; height: auto; max-height: 80%; padding: 1 2; background: $surface; }
    Confirm Words { height: auto; }
    Confirm Scroll { height: auto; max-height: 16; margin-bottom: 1; }
    """

    def __init__(self, question: str, said: Text) -> None:
        super().__init__()
        self.question, self.said = question, said

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words((self.question, "bold"))
            with Scroll():
                said = Words()
                said.show(self.said)
                yield said
            yield Words(("y", f"bold {shown.SKY}"), " do it   ", ("n", f"bold {shown.SKY}"), " leave it")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class AskLine(ModalScreen[str | None]):
    """A question that is answered with a line of words; None, where it is left unanswered."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it", show=False)]
    DEFAULT_CSS = """
    AskLine { align: center middle; background: $background 60%; }
    AskLine > Vertical { width: 76; max-width: 95%; height: auto; padding: 1 2; background: $surface; }
    AskLine Words { height: auto; }
    AskLine AnswerLine { border: none; padding: 0 1; margin: 1 0; height: 1; }
    """

    def __init__(self, question: str, said: str = "", answer: str = "") -> None:
        super().__init__()
        self.question, self.said, self.answer = question, said, answer

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words((self.question, "bold"))
            if self.said:
                said = Words()
                said.show(shown.block(self.said, shown.DIM))
                yield said
            yield AnswerLine(self.answer, compact=True, select_on_focus=False)
            yield Words(("Enter", f"bold {shown.SKY}"), " keep it   ", ("Esc", f"bold {shown.SKY}"), " leave it")

    def on_mount(self) -> None:
        self.query_one(AnswerLine).focus()

    def on_input_submitted(self, message: AnswerLine.Submitted) -> None:
        self.dismiss(message.value)

    def action_leave(self) -> None:
        self.dismiss(None)
