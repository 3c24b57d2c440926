"""The command line. Every command is listed here once; its module is imported only when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """`target` is "module:attribute", a function or (for a group of commands) a cyclopts App."""

    name: str
    target: str
    summary: str


COMMANDS: dict[str, tuple[Command, ...]] = {
    "Run a campaign": (
        Command("init", "selfalign.cli.start:init", "Write a campaign file to start from"),
        Command("plan", "selfalign.cli.plan:plan", "Show what a campaign would do and cost, and check it"),
        Command("run", "selfalign.cli.run:run", "Run a campaign, or resume it: the same command"),
        Command("status", "selfalign.cli.status:status", "Show where a run stands"),
        Command("stop", "selfalign.cli.status:stop", "Ask a run to finish its shard or its round, save and stop"),
        Command("branch", "selfalign.cli.start:branch", "Start a new campaign from a round of another"),
    ),
    "Write the principles": (
        Command(
            "constitution",
            "selfalign.cli.constitution:app",
            "Lint, compare, measure, mine, import and export constitutions",
        ),
    ),
    "Read what it made": (
        Command("tui", "selfalign.cli.tui:tui", "Watch, compare, edit and label in the terminal"),
        Command("runs", "selfalign.cli.runs:app", "List and compare runs"),
        Command("pairs", "selfalign.cli.pairs:app", "List, show and export preference pairs"),
        Command("rankings", "selfalign.cli.rankings:app", "List, show and export answers in order of rank"),
        Command(
            "demonstrations",
            "selfalign.cli.demonstrations:app",
            "List, show and export answers to learn as they are",
        ),
        Command("revisions", "selfalign.cli.revisions:app", "List and show critiques and revisions"),
        Command("report", "selfalign.cli.report:report", "Write the report of a run, as Markdown and HTML"),
        Command("verify", "selfalign.cli.start:verify", "Check every file of a run against its digest"),
    ),
    "Hold the judge against people": (
        Command("label", "selfalign.cli.label:label", "Say which of two answers is better, blind"),
        Command("labels", "selfalign.cli.labels:app", "List, import and export labels by people"),
        Command("judge", "selfalign.cli.judge:app", "How far a run's judge can be trusted; calibrate it"),
    ),
    "Look around": (
        Command("config", "selfalign.cli.config:config", "Show every setting and where it came from"),
        Command("doctor", "selfalign.cli.doctor:doctor", "Check this machine; name a fix for each fault"),
        Command("env", "selfalign.cli.doctor:env", "Print versions, for a bug report"),
    ),
}


def help_text() -> str:
    """What `selfalign --help` prints. Plain text made without a library: help must answer at once."""
    lines = [
        "selfalign improves a language model against a written constitution, round after round.",
        "",
        "Usage: selfalign COMMAND [OPTIONS]      selfalign COMMAND --help",
    ]
    for title, commands in COMMANDS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {command.name:<16}{command.summary}" for command in commands]
    lines += [
        "",
        "Everywhere:",
        "  --json      (commands that read) machine-readable output on stdout",
        "  --debug     show the traceback of an error",
        "  --version   print the version",
        "",
        "Start here:  selfalign run pocket",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 failed, 2 usage or configuration, 3 retryable (run again to resume), 4 stopped by a gate,
    130 interrupted or stopped as asked, the state saved.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a narrow locale must not turn output into a crash
    try:
        if arguments in ([], ["--help"], ["-h"]):
            print(help_text(), flush=True)
            return 0
        from selfalign.cli.application import call

        return call(arguments)
    except BrokenPipeError:  # `selfalign pairs ls RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
