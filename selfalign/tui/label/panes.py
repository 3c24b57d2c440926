"""Two answers side by side to be read in full, and the principles to compare them by."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.screen import ModalScreen

from selfalign.constitution import Constitution, Principle
from selfalign.records import Prompt
from selfalign.tui import shown
from selfalign.tui.widgets import Scroll, Words

STACKED = 72  # columns below which one answer stands above the other


class Pane(Scroll, inherit_bindings=False):
    """A text that may be longer than its room, and whether its end was seen. `b` is left to the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        replace(one, key=one.key.removeprefix("b,")) for one in Scroll.BINDINGS if isinstance(one, Binding)
    ]
    DEFAULT_CSS = """
    Pane { height: 1fr; padding: 0 1; border-left: solid $foreground 20%; }
    Pane:focus { border-left: heavy $primary; }
    Pane Words { height: auto; }
    """

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._furthest = 0.0

    def compose(self) -> ComposeResult:
        yield Words()

    def put(self, made: Text) -> None:
        """Show another text, from its beginning."""
        self.style_again(made)
        self._furthest = 0.0
        self.scroll_home(animate=False)

    def style_again(self, made: Text) -> None:
        """Show the same text in other styles, where it stands."""
        self.query_one(Words).show(made)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._furthest = max(self._furthest, new_value)

    @property
    def goes_on(self) -> bool:
        """Whether there is text below that was not in sight yet."""
        return max(self._furthest, self.scroll_target_y) < self.max_scroll_y


class Answers(Horizontal, can_focus=True):
    """Both answers. While it has the keys itself, both are scrolled at once."""

    BINDINGS: ClassVar[list[BindingType]] = [
        replace(one, action=f"both('{one.action}')") for one in Pane.BINDINGS if isinstance(one, Binding)
    ]
    DEFAULT_CSS = """
    Answers { height: 1fr; }
    Answers:focus Pane { border-left: heavy $primary; }
    Answers .side { width: 1fr; height: 1fr; }
    Answers .head { height: 1; padding: 0 2; }
    Answers.stacked { layout: vertical; }
    """

    def compose(self) -> ComposeResult:
        for key, side in (("1", "left"), ("2", "right")):
            with Vertical(classes="side"):
                yield Words((key, f"bold {shown.SKY}"), (f" {side}", "bold"), classes="head")
                yield Pane(id=side)

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width < STACKED, "stacked")

    def action_both(self, what: str) -> None:
        for pane in self.query(Pane):
            getattr(pane, f"action_{what}")()


class Principles(ModalScreen[None]):
    """The principles that a prompt's answers are to be compared by."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,b,q,enter", "close", "close", show=False)]
    DEFAULT_CSS = """
    Principles { align: center middle; background: $background 60%; }
    Principles > Vertical { width: 100; max-width: 95%; height: auto; max-height: 90%; padding: 1 2;
                            background: $surface; }
    Principles Pane, Principles Pane:focus { height: auto; border: none; padding: 0; margin: 1 0; }
    """

    def __init__(self, principles: Constitution, prompt: Prompt) -> None:
        super().__init__()
        self._principles, self._prompt = principles, prompt

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words(("Which answer is better, by these principles?", "bold"))
            yield Pane(id="principles")
            yield Words(("b", f"bold {shown.SKY}"), " or ", ("Esc", f"bold {shown.SKY}"), " goes back to the answers")

    def on_mount(self) -> None:
        applicable = self._principles.applicable(self._prompt)
        none = [shown.line(("No principle applies to this prompt: x says so.", shown.DIM))]
        self.query_one(Pane).put(shown.lines([principle(one) for one in applicable] or none))
        self.query_one(Pane).focus()

    def action_close(self) -> None:
        self.dismiss()


def principle(one: Principle) -> Text:
    return shown.lines([shown.line((one.id, f"bold {shown.SKY}")), shown.block(one.norm())])
