"""What can be done to the run in sight: stop it, branch it, do a round anew. Each is a command too, and asks first."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from selfalign import control
from selfalign.source import InputError
from selfalign.store import run_folders
from selfalign.text import one_line
from selfalign.tui import shown
from selfalign.tui.asking import AskLine, Confirm
from selfalign.tui.page import Place
from selfalign.tui.reading import Watched, why
from selfalign.tui.widgets import Scroll, Words

if TYPE_CHECKING:
    from selfalign.tui.app import Reader

Action = Callable[[], Awaitable[None]]
STOPS = {
    "shard": "The writer finishes the shard in hand, saves and stops. A model that is being trained is saved at its "
    "next step. Nothing that is finished is lost.",
    "round": "The writer goes on to the end of the round in hand, with its report and its decision, and stops there.",
}

SAME_AGAIN = ", and the round comes out as it was"


def actions(reader: Reader, place: Place) -> Iterator[tuple[str, Action]]:
    """What makes sense for the run that is looked at, by how it is called; asks no disk."""
    if reader.read_only or place.path is None:
        return
    watched = reader.library.open(place.path)
    name = one_line(watched.name, 60)
    if watched.alive:
        for after in STOPS:
            yield f"stop {name} after this {after}", lambda after=after: stop(reader, watched, after)
    for number in (report.round for report in watched.evaluated() if report.gate.accepted):
        yield (
            f"branch {name} from round {number}",
            lambda number=number: branch(reader, watched, "round", number),
        )
    for number in watched.rounds():
        yield (
            f"rerun {name} from round {number} in a new run",
            lambda number=number: branch(reader, watched, "rerun", number),
        )


async def stop(reader: Reader, watched: Watched, after: str) -> None:
    """Ask, then ask the writer of a run to stop after its shard or its round."""
    command = control.stopping(watched.path, after)
    if not await _agreed(reader, f"Stop {one_line(watched.name, 50)} after this {after}?", STOPS[after], command):
        return
    do = control.stop_after_shard if after == "shard" else control.stop_after_round
    await _carry_out(reader, lambda: do(watched.run))


async def branch(reader: Reader, watched: Watched, how: str, number: int) -> None:
    """Ask for a name and for settings, then make the new run."""
    folder = reader.library.folder
    proposed = await asyncio.to_thread(_free_name, reader, watched.name)
    new = await _asked(reader, "The name of the new run?", "", proposed, lambda name: control.check_name(name, "run"))
    if new is None:
        return
    said = f"Such as: train.beta=0.2 seed=18. Left empty, all stay as they are{SAME_AGAIN if how == 'rerun' else ''}."
    settings = await _asked(
        reader, "Settings to change for the rounds to come?", said, "",
        lambda words: control.check_settings(watched.path, shlex.split(words)),
    )  # fmt: skip
    if settings is None:
        return
    changes = shlex.split(settings)
    command = control.branching(watched.path, folder, new, how, number, changes)
    if not await _agreed(reader, f"Make the run {new}?", what_happens(watched, how, number, changes), command):
        return

    def do() -> str:
        last = control.check_round(watched.run, number) - (how == "rerun")
        made = control.branch(watched.run, folder, new, last, changes)
        return f"{made.path} is there. Nothing runs in it yet; to start it:"

    await _carry_out(reader, do, shlex.join(["selfalign", "run", str(folder / new)]))


def what_happens(watched: Watched, how: str, number: int, changes: list[str]) -> str:
    """What a branch takes over, and what will be done in it, in words."""
    last = number - (how == "rerun")
    kept = ["the baseline alone", "the baseline and round 0"][last + 1] if last < 1 else f"rounds 0 to {last}"
    name, changed = one_line(watched.name, 50), f", with {', '.join(changes)}" if changes else ""
    anew = f"round {number} is done anew" if how == "rerun" else f"it goes on with round {number + 1}"
    return (
        f"It takes over {kept} of {name}; {anew}{changed}. {name} stays as it is, and the files that both have take "
        "no further room. Nothing starts to run."
    )


def _free_name(reader: Reader, name: str) -> str:
    """A name that no run of the folder has."""
    taken = {path.name for path in run_folders(reader.library.folder)}
    return next(f"{name}-{count}" for count in range(2, len(taken) + 3) if f"{name}-{count}" not in taken)


async def _asked(reader: Reader, question: str, said: str, answer: str, check: Callable[[str], object]) -> str | None:
    """An answer that passes a check; asked again, with why, until it does. None where it is left unanswered."""
    reply: str | None = answer
    trouble = said
    while True:
        reply = await reader.push_screen_wait(AskLine(question, trouble, reply))
        if reply is None:
            return None
        try:
            await asyncio.to_thread(check, reply := reply.strip())
        except (control.CommandError, ValueError) as error:
            trouble = in_words(error)
        else:
            return reply


async def _agreed(reader: Reader, question: str, said: str, command: str) -> bool:
    parts = [shown.block(said), shown.line(""), shown.line(("The same as:", shown.DIM)), shown.block(f"  {command}")]
    return await reader.push_screen_wait(Confirm(question, shown.lines(parts))) or False


async def _carry_out(reader: Reader, do: Callable[[], str], then: str = "") -> None:
    """Do it in a thread, and say what came of it; `then` is the command to go on with."""
    try:
        told = await asyncio.to_thread(do)
    except Exception as error:
        await reader.push_screen_wait(Told("This was not done", in_words(error)))
    else:
        await reader.push_screen_wait(Told("Done", told, then))


def in_words(error: Exception) -> str:
    """What went wrong, why, and what to do about it."""
    if isinstance(error, InputError):  # of what was typed just now: no other version wrote it
        return str(error)
    if not isinstance(error, control.CommandError):
        return why(error)
    parts = (("", str(error)), ("where: ", error.where), ("why: ", error.why), ("what to do: ", error.fix))
    return "\n".join(f"{label}{words}" for label, words in parts if words)


class Told(ModalScreen[None]):
    """What came of an action."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "close", "close", show=False),
        Binding("y", "copy", "copy", show=False),
    ]
    DEFAULT_CSS = """
    Told { align: center middle; background: $background 60%; }
    Told > Vertical { width: 76; max-width: 95%; height: auto; max-height: 80%; padding: 1 2; background: $surface; }
    Told Words { height: auto; }
    Told Scroll { height: auto; max-height: 16; margin-bottom: 1; }
    """

    def __init__(self, heading: str, said: str, then: str = "") -> None:
        super().__init__()
        self.heading, self.said, self.then = heading, said, then

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Words((self.heading, "bold"))
            with Scroll():
                said = Words()
                command = [shown.line(""), shown.block(f"  {self.then}", "bold")] if self.then else []
                said.show(shown.lines([shown.block(self.said), *command]))
                yield said
            copy = [("y", f"bold {shown.SKY}"), " copy the command"] if self.then else []
            yield Words(("Esc", f"bold {shown.SKY}"), " close   ", *copy)

    def action_copy(self) -> None:
        if self.then:
            cast("Reader", self.app).copy(self.then)

    def action_close(self) -> None:
        self.dismiss()
