"""What goes wrong: what, where, why and what to type next; the exit code; and no traceback without --debug."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from selfalign.cli.errors import CommandError, exit_code, explain
from selfalign.source import InputError, Problem
from selfalign.store import DiskFull, StoreError
from tests.cli.conftest import Cli
from tests.cli.events import HOSTILE


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["frob"], 2, 'there is no command "frob"'),
        (["stauts", "sample"], 2, 'Did you mean "status"?'),
        (["run"], 2, "selfalign run --help"),
        (["status", "sample", "--jsn"], 2, "--jsn"),
        (["run", "sampl"], 2, 'Did you mean "sample"?'),
        (["status", "nothing"], 2, 'there is no run "nothing"'),
        (["run", "sample", "--set", "train.beta=0.3"], 2, "train.beta: 0.1 in the run, 0.3 asked (--set)"),
        (["run", "sample", "--set", "train.bta=0.3"], 2, 'Did you mean "train.beta"?'),
        (["config", "broken.yaml"], 2, "broken.yaml:3"),
        (["plan", "gone.yaml", "--offline"], 2, "gone.yaml:3"),
        (["pairs", "show", "sample", "9:9"], 2, 'there is no pair "9:9"'),
        (["branch", "sample", "../out", "--round", "0"], 2, "cannot be the name"),
    ],
)
def test_usage_errors(sample: Path, cli: Cli, arguments: list[str], code: int, said: str) -> None:
    (sample / "broken.yaml").write_text("name: x\nrounds: [\n")
    (sample / "gone.yaml").write_text(
        "name: gone\npolicy: {model: owner/model}\nconstitution: missing.yaml\n"
        "prompts: {train: train.jsonl, heldout: heldout.jsonl}\n"
    )
    done = cli(*arguments, cwd=sample)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_only_debug_shows_the_traceback(sample: Path, process: Cli) -> None:
    done = process("pairs", "show", "sample", "9:9", cwd=sample)
    assert (done.returncode, "Traceback" in done.stderr, done.stdout) == (2, False, "")
    assert "Traceback" in process("pairs", "show", "sample", "9:9", "--debug", cwd=sample).stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("x", code=4), 4),
        (InputError(Problem("a.yaml", 3, "is wrong")), 2),
        (DiskFull("full"), 3),
        (OSError(errno.ENOSPC, "No space left on device", "/somewhere"), 3),
        (StoreError("damaged"), 1),
        (ValueError("surprise"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert (error.code if isinstance(error, CommandError) else exit_code(error)) == code
    assert explain(error) == code
    assert capsys.readouterr().err.startswith("error: ")


def test_an_error_with_hostile_text_is_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    explain(CommandError(HOSTILE, where=HOSTILE, why=f"{HOSTILE}\n{HOSTILE}", fix=HOSTILE))
    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert printed.count("[bold]not markup[/]") == 5


def test_a_surprise_says_where(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Path("/").joinpath("\0").read_text()
    except ValueError as error:
        explain(error)
    printed = capsys.readouterr().err
    assert "--debug" in printed
    assert "where:" in printed
