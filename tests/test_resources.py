"""Where names lead: the campaign's folder, the working directory, the shipped files; in a clone and in a wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from selfalign import resources


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    campaign, cwd = tmp_path / "campaign", tmp_path / "cwd"
    campaign.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    return campaign, cwd


def test_the_campaigns_folder_comes_first_then_the_working_directory(folders: tuple[Path, Path]) -> None:
    campaign, cwd = folders
    (cwd / "rules.yaml").write_text("cwd")
    assert resources.find("rules.yaml", campaign) == cwd / "rules.yaml"
    (campaign / "rules.yaml").write_text("campaign")
    assert resources.find("rules.yaml", campaign) == campaign / "rules.yaml"
    assert resources.find("rules.yaml") == cwd / "rules.yaml"
    assert resources.find("none.yaml", campaign) is None
    assert resources.find("", campaign) is None


def test_shipped_files_come_last_and_are_known(folders: tuple[Path, Path]) -> None:
    campaign, cwd = folders
    shipped = resources.find("constitutions/pocket.yaml", campaign)
    assert shipped is not None
    assert resources.is_shipped(shipped)
    (cwd / "constitutions").mkdir()
    own = cwd / "constitutions" / "pocket.yaml"
    own.write_text("mine")
    assert resources.find("constitutions/pocket.yaml", campaign) == own
    assert not resources.is_shipped(own)


def test_absolute_paths_and_the_home_folder(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    campaign, _ = folders
    monkeypatch.setenv("HOME", str(campaign))
    (campaign / "a.yaml").write_text("")
    assert resources.find(str(campaign / "a.yaml")) == campaign / "a.yaml"
    assert resources.find("~/a.yaml") == campaign / "a.yaml"


def test_a_glob_matches_in_the_first_folder_that_has_a_match(folders: tuple[Path, Path]) -> None:
    campaign, cwd = folders
    for path in (cwd / "b.jsonl", cwd / "a.jsonl", cwd / "deep" / "c.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    pattern = resources.find_pattern("*.jsonl", campaign)
    assert resources.expand(pattern) == [cwd / "a.jsonl", cwd / "b.jsonl"]
    assert len(resources.expand(resources.find_pattern("**/*.jsonl", campaign))) == 3
    assert resources.find_pattern("*.csv", campaign) is None


def test_a_folder_with_glob_characters_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "set [1]"
    odd.mkdir()
    (odd / "a.jsonl").write_text("")
    assert resources.expand(resources.find_pattern("a.jsonl", odd)) == [odd / "a.jsonl"]
    assert resources.expand(resources.find_pattern("*.jsonl", odd)) == [odd / "a.jsonl"]


def test_constitutions_are_found_by_name_or_path(folders: tuple[Path, Path]) -> None:
    campaign, _ = folders
    assert resources.find_constitution("pocket").name == "pocket.yaml"
    (campaign / "mine.yaml").write_text("")
    assert resources.find_constitution("mine", campaign) == campaign / "mine.yaml"
    assert resources.find_constitution("none", campaign) is None
    assert resources.find_constitution(str(campaign)) is None


def test_recipes_cannot_lead_out_of_their_folder() -> None:
    assert "pocket" in resources.recipes()
    assert resources.recipe("pocket").is_file()
    assert resources.recipe("../recipes/pocket") is None


def test_shipped_models_have_names_and_others_stay() -> None:
    assert resources.model("org/model") == "org/model"
    assert Path(resources.model("pocket:policy")).is_relative_to(resources.PACKAGE)


@pytest.mark.parametrize("name", ["campaign", "constitution", "prompts", "verdict"])
def test_every_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(resources.schema(name)))


def test_templates_are_read() -> None:
    assert "{{ principle }}" in resources.template("judge_pairwise")


def test_an_installed_wheel_finds_its_files(tmp_path: Path) -> None:
    """Builds the wheel and runs it unpacked, from a folder that knows nothing of the clone."""
    pytest.importorskip("hatchling")
    clone = resources.PACKAGE.parent
    if not (clone / "pyproject.toml").is_file():
        pytest.skip("not run from a clone")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=clone, check=True, capture_output=True)
    site, empty = tmp_path / "site", tmp_path / "empty"
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), site, "zip")
    empty.mkdir()
    script = (
        "from selfalign import config, constitution, resources\n"
        f"assert resources.PACKAGE.is_relative_to({str(site)!r})\n"
        "print(len(constitution.load(resources.find_constitution('pocket')).active) > 0)\n"
        "print(len(resources.template('judge_pairwise')) > 0)\n"
        "print(config.load(recipe='pocket').campaign.constitution)\n"
        "print(resources.find('recipes/accelerate/fsdp-8gpu.yaml').is_file())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=empty, env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["True", "True", "constitutions/pocket.yaml", "True"], ran.stderr
