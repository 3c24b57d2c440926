"""`selfalign run`: run a campaign, or go on with one."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from selfalign import control
from selfalign.cli.display import DisplayName, Follower, open_display
from selfalign.cli.errors import GATE, INTERRUPTED
from selfalign.cli.output import say
from selfalign.cli.targets import RUNS, Target, check_inputs, find_campaign, hold_to_frozen
from selfalign.progress import Progress, works_of
from selfalign.store import Run
from selfalign.units import counted, duration

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    target: str,
    /,
    *,
    set: Annotated[list[str], Parameter(name="--set", negative=())] = [],  # noqa: B006 (cyclopts reads the default)
    runs: Path = RUNS,
    display: DisplayName | None = None,
) -> int:
    """Run a campaign to its end. The same command resumes it: finished work is never done again.

    Ctrl-C finishes the shard in hand, saves and stops; a second Ctrl-C stops at once. Exit codes: 0 done, 1 failed,
    2 usage or configuration, 3 retryable, 4 stopped by a gate, 130 interrupted or stopped as asked, the state saved.

    Parameters
    ----------
    target
        A campaign file, a shipped recipe (pocket), or a run to go on with.
    set
        Override a setting: --set train.beta=0.2. A run that exists keeps the settings it began with.
    runs
        The folder of runs.
    display
        rich (live, the default on a terminal), plain (a line a stage, the default in a pipe), or log.
    """
    from selfalign.steps import Interrupted, StoppedAfterRound

    campaign = find_campaign(target, set, runs)
    hold_to_frozen(campaign)
    check_inputs(campaign.loaded)
    opened = Run.open(campaign.folder) if campaign.exists else Run.create(campaign.folder, campaign.loaded.to_yaml())
    resume = resume_command(campaign, runs)
    say(f"{'resuming' if opened.rounds() else 'running'} {opened.path}   (watch: selfalign status {opened.path})")
    if (asked := opened.stop_asked()) is not None:
        say(f"it will stop after round {asked.round}, as asked; to take that back: {control.withdrawing(opened.path)}")
    try:
        with opened.lock():
            stopped = _campaign(opened, campaign, display)
    except StoppedAfterRound as reached:
        say(f"{reached}. To go on:\n  {resume}")
        return INTERRUPTED
    except (Interrupted, KeyboardInterrupt):
        say(f"stopped; everything finished is saved. To go on:\n  {resume}")
        return INTERRUPTED
    except Exception:
        say(f"the run is kept in {opened.path}. To go on from there:\n  {resume}")
        raise
    _finish(opened, stopped)
    return GATE if stopped is not None else 0


def _campaign(opened: Run, target: Target, display: DisplayName | None) -> str | None:
    """Run the campaign under its display; return why it stopped early, or None."""
    from selfalign.campaign import run_campaign
    from selfalign.launch.local import LocalWorkers
    from selfalign.steps import Interrupted, StoppedAfterRound, Work

    settings = target.loaded.campaign
    progress = Progress.of(opened.events(), works_of(settings))
    face = open_display(display, f"selfalign run {opened.path.name}", progress)
    with Follower(opened.path / "events.jsonl", face), LocalWorkers(settings, opened.path) as workers:
        work = Work(run=opened, settings=settings, workers=workers)

        def stop() -> None:
            face.notice("stopping after the shard in hand; once more stops at once")
            work.stop.requested = True
            workers.stop_training()

        try:
            with signals(stop):
                return run_campaign(work).stopped
        except StoppedAfterRound:
            raise
        except (Interrupted, KeyboardInterrupt):
            opened.emit("interrupted")
            raise
        except Exception as error:
            opened.emit("failed", message=f"{type(error).__name__}: {error}")
            raise


@contextmanager
def signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP calls `stop`; a second raises KeyboardInterrupt wherever we are."""
    received = 0

    def handle(number: int, frame: Any) -> None:
        nonlocal received
        received += 1
        if received > 1:
            raise KeyboardInterrupt
        stop()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # started under nohup: a hang-up is none of our business
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def resume_command(campaign: Target, runs: Path) -> str:
    """What to type to go on with a run: by its name, its settings being frozen in it."""
    words = ["selfalign", "run", campaign.folder.name if runs == RUNS else str(campaign.folder)]
    return shlex.join(words)


def _finish(opened: Run, stopped: str | None) -> None:
    """Print what was reused, the table of rounds, and what to type next."""
    from selfalign.cli.summary import last_accepted, print_rounds
    from selfalign.stages.examples import held

    progress = Progress.of(opened.events())
    for stage in progress.reused_parts():
        say(f"round {stage.round}, {stage.name}: reused {counted(stage.reused, stage.total, stage.unit)}")
    if skipped := progress.reused_stages():
        say(f"reused {skipped} finished steps")
    print_rounds(opened)
    if stopped is not None:
        say(f"stopped by the gate: {stopped}\nthe policy stays: {last_accepted(opened) or 'the base policy'}")
    else:
        say(f"done in {duration(progress.elapsed())}; the policy: {last_accepted(opened) or 'the base policy'}")
    name = opened.path.name if opened.path.parent == RUNS else opened.path
    lists = "".join(f"\n       selfalign {kind} ls {name}" for kind in held(opened))
    say(f"next:  selfalign report {name}{lists}")
