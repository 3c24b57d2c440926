"""The real command line as a process, and a run to point it at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from selfalign.cli import main
from tests.cli.fabricate import make_mixed_run, make_run

REPOSITORY = Path(__file__).parents[2]

# A suite that a script starts in the background inherits an ignored SIGINT, and so would every process of its tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SELFALIGN_", "NO_COLOR"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1", **extra}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `sample`, `other` and `mixed`, read but never written by tests."""
    root = tmp_path_factory.mktemp("sample")
    make_run(root)
    make_run(root, "other", seed=3, rejected=True)
    make_mixed_run(root)
    return root


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command line in a folder, in this process: starting one for each call would take the suite minutes."""

    def call(*arguments: str, cwd: Path, **env: str) -> Done:
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.delenv("NO_COLOR", raising=False)
            for name, value in env.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main(arguments)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m selfalign ...` in a folder, as a process of its own."""

    def call(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "selfalign", *arguments]
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    return call
