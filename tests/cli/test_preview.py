"""`selfalign constitution preview`: its tables, lists and sheets, what it refuses, and the real judge."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import constitution as constitutions
from selfalign.cli import preview as faces
from selfalign.launch import local
from selfalign.preview import Case, Preview
from selfalign.records import Message
from tests.cli.conftest import Cli, environment
from tests.cli.events import HOSTILE
from tests.cli.test_hostile import assert_harmless
from tests.test_preview import RUDE, Workers, campaign


class LocalScripted(Workers):
    """Stands where the processes of this machine would."""

    def __init__(self, settings: object, logs: Path) -> None:
        super().__init__()
        self.logs = logs

    def __enter__(self) -> LocalScripted:
        return self

    def __exit__(self, *_: object) -> None:
        assert "runs" not in self.logs.parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previewed")
    _, _, rules = campaign(folder)
    turned = tuple(replace(p, compare=RUDE) if p.id == "kind" else p for p in rules.principles)
    edited = replace(rules, version="2.0.0", principles=turned)
    (folder / "edited.yaml").write_text(edited.to_yaml())
    assert constitutions.load(folder / "edited.yaml").principles == turned
    return folder


@pytest.fixture
def preview(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "LocalWorkers", LocalScripted)
    return lambda *options: cli("constitution", "preview", "run", "--constitution", "edited.yaml", *options, cwd=folder)


def test_the_table_says_what_flips_where_and_whether_chance_would_do_it(preview) -> None:
    done = preview("--pairs", "30")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("kind"))
    assert row.split()[1] == "30" and "yes" in row and "reversed" in row
    assert "tag of the prompt" in done.stdout
    assert "verdicts hold on" in done.stderr and "questions asked" in done.stderr


def test_no_text_of_a_pair_reaches_the_terminal_as_more_than_text(preview, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = faces.judged

    def hostile(*arguments: object, **options: object) -> Preview:
        found = asked(*arguments, **options)
        return replace(found, cases=tuple(map(_hostile, found.cases)))

    monkeypatch.setattr(faces, "judged", hostile)
    for option in ((), ("--flips",), ("--show", "0"), ("--json",)):
        done = preview(*option)
        assert done.returncode == 0
        assert_harmless(done.stdout.encode())
        assert_harmless(done.stderr.encode())


def _hostile(case: Case) -> Case:
    prompt = replace(case.prompt, messages=(Message("user", HOSTILE),), tags=(HOSTILE,))
    answers = {name: replace(getattr(case, name), text=HOSTILE) for name in ("first", "second")}
    return replace(case, prompt=prompt, principle=HOSTILE, **answers)


def test_flips_are_listed_and_opened_side_by_side(preview) -> None:
    facts = json.loads(preview("--pairs", "30", "--json").stdout)
    assert facts["pairs"] == 30 and facts["principles"][0]["beyond_noise"]
    listed = preview("--pairs", "30", "--flips")
    assert len(listed.stdout.splitlines()) == len(facts["flips"]) + 1
    flip = facts["flips"][0]
    shown = preview("--pairs", "30", "--show", str(flip["number"]))
    for text in (flip["first"]["text"], flip["second"]["text"], "[-kinder-]{+ruder+}", "by the new text", "reversed"):
        assert text in shown.stdout
    assert json.loads(preview("--pairs", "30", "--show", str(flip["number"]), "--json").stdout) == flip
    assert preview("--pairs", "30", "--show", "30").returncode == 2
    assert "0 questions asked" in preview("--pairs", "30").stderr


def test_what_makes_no_sense_is_refused(preview, folder: Path, cli: Cli) -> None:
    assert preview("--pairs", "0").returncode == 2
    missing = preview("--round", "5")
    assert missing.returncode == 1 and "finished judgments: 0" in missing.stderr
    assert cli("constitution", "preview", "run", "--constitution", "none.yaml", cwd=folder).returncode == 2
    same = cli("constitution", "preview", "run", "--constitution", "run@0", cwd=folder)
    assert (same.returncode, same.stdout) == (0, "no words changed\n")


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_in_the_pocket_world_the_reversed_principle_flips_and_a_rewording_is_noise(tmp_path: Path) -> None:
    def typed(*words: str) -> str:
        command = [sys.executable, "-m", "selfalign", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ("rounds=1", "prompts.per_round=96", "evaluate.prompts=12", "train.epochs=1",
             "accept.win_rate_lower_bound=null")  # fmt: skip
    typed("run", "pocket", "--display", "log", *(f"--set={setting}" for setting in small))
    rules = constitutions.load(tmp_path / "runs/pocket/rounds/000/constitution.yaml")
    words = {
        "polite": "is rude to the user", "concise": "is brief",
    }  # fmt: skip
    turned = tuple(
        replace(p, text=f"The response {words[p.id]}.", compare=f"Choose the response that {words[p.id]}.")
        if p.id in words
        else p
        for p in rules.principles
    )
    (tmp_path / "edited.yaml").write_text(replace(rules, principles=turned).to_yaml())
    before = {path: path.read_bytes() for path in (tmp_path / "runs/pocket").rglob("*") if path.is_file()}
    found = json.loads(typed("constitution", "preview", "pocket", "--constitution", "edited.yaml", "--json"))
    assert before == {path: path.read_bytes() for path in (tmp_path / "runs/pocket").rglob("*") if path.is_file()}
    groups = {group["name"]: group for group in found["principles"]}
    polite, concise = groups["polite"], groups["concise"]
    assert polite["beyond_noise"] and polite["flips"]["count"] > 10 * polite["noise"]["count"]
    assert set(polite["kinds"]) >= {"reversed"}
    assert concise["flips"]["count"] < polite["flips"]["count"] / 2
    assert set(found["unchanged"]) == {"truthful", "harmless", "no-flattery", "privacy", "warm"}
    again = json.loads(typed("constitution", "preview", "pocket", "--constitution", "edited.yaml", "--json"))
    assert again["cost"]["asked"] == 0 and again["flips"] == found["flips"]
