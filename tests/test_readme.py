"""Every command in README.md, typed as written in a fresh copy of the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from selfalign import config
from selfalign.objective import LossName

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COPIED = ("Makefile", "README.md", "pyproject.toml", "requirements", "selfalign", "constitutions", "prompts")
NEEDS_A_MODEL = "selfalign run harmless.yaml"
SUITE = "make test"
INSTALLS = re.compile(r"pip install '?selfalign(?:\[(\w+)\])?'?")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = (line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository whose `.venv` is this environment, set up already."""
    folder = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".venv" / ".installed").touch()
    return folder


def typed(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line as a shell does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,  # who labels there says nothing
        text=True,
        capture_output=True,
    )


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1800)
def test_every_command_does_what_the_readme_says(clone: Path) -> None:
    edited = clone / "constitutions" / "pocket.yaml"
    for command in commands():
        if INSTALLS.match(command) or command in (SUITE, NEEDS_A_MODEL):
            continue
        if "name=pirate" in command:
            edited.write_text(edited.read_text() + next(b for b in blocks("yaml") if "pirate" in b))
            command += " --set rounds=1"  # the first round shows that it runs
        said = typed(command, clone)
        assert said.returncode == 0, f"{command}\n{said.stdout}\n{said.stderr}"
        assert said.stdout.strip(), f"{command} says nothing"
    gates = [
        json.loads(path.read_text())["gate"] for path in sorted((clone / "runs/pocket").glob("rounds/*/report.json"))
    ]
    assert [gate["accepted"] for gate in gates] == [True] * 3
    assert "id: pirate" in (clone / "runs/pirate/rounds/000/constitution.yaml").read_text()


def test_the_campaign_file_that_is_shown_is_a_valid_one(clone: Path) -> None:
    shown = next(block for block in blocks("yaml") if "name: harmless" in block)
    (clone / "shown.yaml").write_text(shown, encoding="utf-8")
    said = typed("selfalign config shown.yaml --origin", clone)
    assert said.returncode == 0, said.stderr
    assert "shown.yaml:1" in said.stdout
    (clone / "missing.yaml").write_text(shown.replace("model: Qwen/Qwen3-8B,", "model: ./nowhere,"), encoding="utf-8")
    said = typed(NEEDS_A_MODEL.replace("harmless", "missing"), clone)
    assert said.returncode == 2
    assert "nowhere" in said.stderr and "Traceback" not in said.stderr
    assert not (clone / "runs" / "harmless").exists()


def test_the_phases_that_are_shown_make_sense(tmp_path: Path) -> None:
    shown, phases = (next(b for b in blocks("yaml") if words in b) for words in ("name: harmless", "schedule:"))
    both = "\n".join(line for line in shown.splitlines() if not line.startswith("rounds:")) + "\n" + phases
    (tmp_path / "both.yaml").write_text(both, encoding="utf-8")
    campaign = config.load(tmp_path / "both.yaml").campaign
    assert [config.in_round(campaign, number).train.algorithm for number in range(5)] == ["sft", *["dpo"] * 4]
    assert config.in_round(campaign, 4).train.loss == "ipo"


def test_every_algorithm_strategy_and_loss_is_named() -> None:
    hints = {**get_type_hints(config.Train), **get_type_hints(config.Pairs)}
    names = {*get_args(hints["algorithm"]), *get_args(hints["strategy"]), *get_args(LossName)}
    assert not {name for name in names if f"`{name}`" not in README}


def test_the_commands_of_constitutions_do_what_they_say(clone: Path) -> None:
    shown = [command for command in commands() if "selfalign constitution" in command]
    assert len(shown) == 4
    for command in shown:
        said = typed(command, clone)
        assert (said.returncode, bool(said.stdout.strip())) == (0, True), f"{command}\n{said.stdout}\n{said.stderr}"


def test_what_is_said_to_install_can_be_installed(clone: Path, tmp_path: Path) -> None:
    extras = {INSTALLS.match(line).group(1) for line in commands() if INSTALLS.match(line)}
    built = typed(f"python -m pip wheel . --quiet --no-deps --no-build-isolation -w {tmp_path}", clone)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("selfalign-*.whl")
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    metadata = next((tmp_path / "site").glob("*.dist-info/METADATA")).read_text()
    assert {name for name in extras if name} <= set(re.findall(r"^Provides-Extra: (\w+)", metadata, re.MULTILINE))
    run = f"PYTHONPATH={tmp_path / 'site'} python -m selfalign"
    said = typed(f"{run} init mine --recipe pocket && {run} plan mine.yaml --offline", outside)
    assert said.returncode == 0, said.stderr
    assert "pocket:policy" in said.stdout


def test_the_suite_is_run_by_make() -> None:
    assert SUITE in commands()
    assert "-m pytest" in typed("make --dry-run test", REPOSITORY).stdout
