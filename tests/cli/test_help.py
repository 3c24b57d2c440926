"""Help answers at once, and lists soon after: they import nothing heavy. Help names every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfalign.cli import COMMANDS, help_text
from tests.cli.conftest import REPOSITORY, Cli, environment

HEAVY = ("torch", "pyarrow", "transformers", "vllm", "numpy", "cyclopts", "rich")
COMMAND_NAMES = [command.name for commands in COMMANDS.values() for command in commands]


def modules_after(arguments: list[str]) -> tuple[set[str], str]:
    """The modules that a call of the command line has imported, and what it printed."""
    code = f"import sys, json; from selfalign.cli import main; main({arguments!r})\n"
    code += "print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
        timeout=120,
        check=True,
    )
    *printed, modules = done.stdout.splitlines()
    return set(json.loads(modules)), "\n".join(printed)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_imports_no_library(arguments: list[str]) -> None:
    modules, printed = modules_after(arguments)
    assert not modules & set(HEAVY)
    assert printed.strip() == help_text()


@pytest.mark.parametrize("command", ["pairs", "revisions"])
def test_a_list_waits_for_no_library_that_it_has_no_use_for(command: str, sample: Path) -> None:
    modules, printed = modules_after([command, "ls", "mixed", "-n", "1", "--runs", str(sample / "runs")])
    assert len(printed.splitlines()) == 2
    assert not modules & {"torch", "transformers", "pandas", "matplotlib"}


def test_help_names_every_command() -> None:
    assert all(f"  {name} " in help_text() for name in COMMAND_NAMES)


def test_no_command_imports_torch_to_describe_itself() -> None:
    code = "import sys; from selfalign.cli import COMMANDS, main\n"
    code += "[main([command.name, '--help']) for commands in COMMANDS.values() for command in commands]\n"
    code += "print(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_help_of_a_command_describes_each_parameter(name: str, cli: Cli, tmp_path: Path) -> None:
    done = cli(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: selfalign {name}")
    assert "--runs PATH" not in done.stdout or "The folder of runs" in done.stdout
