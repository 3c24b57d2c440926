"""What can be done to a run from outside, by a command or from the reader: stop it, branch it, do a round anew."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from selfalign import config, store
from selfalign.progress import Progress
from selfalign.store import PLAIN_NAMES, Holder, Run, is_plain_name
from selfalign.store.run import CAMPAIGN

FAILED, USAGE = 1, 2  # exit codes


class CommandError(Exception):
    """Something that was asked for and not done, with its parts apart; `code` is the exit code of a command."""

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", code: int = FAILED) -> None:
        super().__init__(what)
        self.where, self.why, self.fix, self.code = where, why, fix, code


def check_name(name: str, what: str) -> str:
    """Refuse a name that could lead out of its folder, hide, or look like a flag. Raises CommandError."""
    if not is_plain_name(name):
        raise CommandError(
            f"{name!r} cannot be the name of a {what}",
            why=PLAIN_NAMES,
            fix="choose a plain name, such as harmless-v1",
            code=USAGE,
        )
    return name


# Stopping


def stop_after_shard(run: Run) -> str:
    """Ask the writer of a run to finish its shard, save and stop; return what there is to say.

    Raises CommandError where the writer is on another machine or does not look like selfalign.
    """
    holder = run.holder()
    if holder is None:
        return _nothing_runs(run)
    if holder.host != socket.gethostname():
        raise CommandError(
            f"{run.path} is being written on another machine",
            where=f"process {holder.pid} on {holder.host} since {holder.since}",
            fix=f"on {holder.host}: {stopping(run.path)}\nor, from here too: {stopping(run.path, 'round')}",
        )
    if not _is_selfalign(holder):
        raise CommandError(
            f"process {holder.pid} does not look like selfalign; it was not touched",
            where=str(run.path),
            fix=f"see what it is: ps -p {holder.pid} -o args",
        )
    os.kill(holder.pid, signal.SIGTERM)
    return f"asked process {holder.pid} to stop; it finishes its shard first. See: selfalign status {run.path}"


def stop_after_round(run: Run) -> str:
    """Ask the writer of a run, wherever it is, to stop at the end of the round in hand; return what there is to say."""
    holder = run.holder()
    if holder is None:
        return _nothing_runs(run)
    progress = Progress.of(run.events())
    number = round_in_hand(progress)
    if progress.rounds is not None and number + 1 >= progress.rounds:
        return f"round {number} is the last: {run.path} ends with it by itself. To stop before: {stopping(run.path)}"
    run.ask_stop(number)
    who = f"process {holder.pid} on {holder.host}"
    return f"asked {who} to stop after round {number}. To take that back: {withdrawing(run.path)}"


def withdraw_stop(run: Run) -> str:
    """Take back a stop after a round; return what there is to say."""
    asked = run.stop_asked()
    if asked is None:
        return f"{run.path}: no stop after a round was asked for"
    run.withdraw_stop()
    return f"{run.path} goes on after round {asked.round}"


def round_in_hand(progress: Progress) -> int:
    """The first round that is not finished. While a resumed run passes its finished rounds, they are not in hand."""
    return next(number for number in itertools.count() if number not in progress.finished_rounds)


def stopping(path: Path, after: str = "shard") -> str:
    """The command that stops a run after the shard or the round in hand."""
    return shlex.join(["selfalign", "stop", str(path), *(["--after", after] if after != "shard" else [])])


def withdrawing(path: Path) -> str:
    """The command that takes back a stop after a round."""
    return shlex.join(["selfalign", "stop", str(path), "--withdraw"])


def _nothing_runs(run: Run) -> str:
    return f"{run.path}: nothing is running"


def _is_selfalign(holder: Holder) -> bool:
    """Whether a process of this machine was started as selfalign, by its command line."""
    try:
        words = Path(f"/proc/{holder.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(b"selfalign" in word for word in words)


# Branching


def branch(source: Run, folder: Path, new: str, last: int, overrides: Sequence[str] = ()) -> Run:
    """Make the run `new` in a folder of runs: it takes over the rounds of another up to and with `last`.

    With -1 it takes over the baseline alone. Nothing of the source is touched. Raises CommandError where a name is
    none, StoreError where the rounds to take over are not finished and whole, ConfigError where a setting is refused.
    """
    check_name(new, "run")
    settings = config.load(source.path / CAMPAIGN, overrides=[*overrides, f"name={new}"])
    return store.branch(source, last, folder / new, settings.to_yaml())


def check_settings(source: Path, overrides: Sequence[str]) -> None:
    """Refuse changes that the settings of a run cannot take. Raises ConfigError."""
    config.load(source / CAMPAIGN, overrides=overrides)


def check_round(run: Run, number: int) -> int:
    """Refuse a round that a run does not have. Raises CommandError."""
    rounds = run.rounds()
    if number not in rounds:
        raise CommandError(
            f'the run "{run.path.name}" has no round {number}',
            why=f"its rounds are {', '.join(map(str, rounds)) or 'none'}",
            fix=f"selfalign status {run.path}",
            code=USAGE,
        )
    return number


def branching(source: Path, folder: Path, new: str, how: str, number: int, overrides: Iterable[str] = ()) -> str:
    """The command that branches a run; `how` is "round" or "rerun"."""
    words = ["selfalign", "branch", str(source), new, f"--{how}", str(number)]
    words += [word for override in overrides for word in ("--set", override)]
    return shlex.join([*words, *(["--runs", str(folder)] if folder != Path("runs") else [])])
