"""What the screen in sight shows, and its keys."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from selfalign.tui import shown
from selfalign.tui.page import Page, key_name
from selfalign.tui.widgets import Scroll, Words

EVERYWHERE = (
    ("1-8", "the screens, by their numbers above"),
    ("Enter", "open what the cursor is on"),
    ("Esc", "back to where you came from"),
    ("/", "filter; Enter keeps it, Esc clears it"),
    ("y", "copy what the cursor is on"),
    ("c", "copy the command that tells the same"),
    (": Ctrl+P", "go anywhere; stop, branch or rerun a run"),
    ("r", "read the disk again now"),
    ("q", "quit; no run stops with it"),
)


class Help(ModalScreen[None]):
    """The keys of a screen, then those that hold everywhere."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,enter,q", "close", "close", show=False)]
    DEFAULT_CSS = """
    Help { align: center middle; background: $background 60%; }
    Help > Scroll { width: 72; max-width: 95%; height: auto; max-height: 90%; padding: 1 0 1 2;
                            background: $surface; }
    Help Words { height: auto; padding-right: 2; }
    """

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def compose(self) -> ComposeResult:
        with Scroll():
            yield Words((f"{self.page.NAME}", "bold"), ("   Esc closes this", shown.DIM))
            yield Words("")
            about = Words()
            about.show(shown.block(self.page.ABOUT))
            yield about
            yield Words("")
            keys = Words()
            own: dict[str, str] = {}  # a key of the screen comes before the same one of its table
            for one in self.page.all_keys():
                if one.description:
                    own.setdefault(key_name(one.key), one.tooltip or one.description)
            rows = [((key, f"bold {shown.SKY}"), what) for key, what in own.items()]
            keys.show(shown.table(("here", ""), rows))
            yield keys
            yield Words("")
            every = Words()
            every.show(
                shown.table(("everywhere", ""), [((key, f"bold {shown.SKY}"), what) for key, what in EVERYWHERE])
            )
            yield every
            yield Words("")
            yield Words(("Shift and drag selects text; with --no-mouse drag alone.", shown.DIM))

    def action_close(self) -> None:
        self.dismiss()
