"""`selfalign judge`: what is printed of a run's judge, and what is said where nothing is known of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign import labels
from selfalign.campaign import run_campaign
from selfalign.records import Candidate, Label
from selfalign.steps import records_of
from tests.cli.conftest import Cli
from tests.scripted import ScriptedWorkers, start, write_campaign


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two rounds, in `run`."""
    folder = tmp_path_factory.mktemp("judged")
    work = start(folder, write_campaign(folder, judge__canaries=4), ScriptedWorkers())
    with work.run.lock():
        run_campaign(work)
    return folder


def test_a_card_is_of_the_last_round_that_was_judged(judged: Path, cli: Cli) -> None:
    done = cli("judge", "card", "run", cwd=judged)
    assert done.returncode == 0 and "run, round 1" in done.stdout
    assert "swap consistency" in done.stdout and "accuracy" not in done.stdout
    (found,) = json.loads(cli("judge", "card", "run", "--round", "0", "--json", "--price", "2", cwd=judged).stdout)
    assert found["round"] == 0 and found["health"]["swap_consistency"] == 1.0
    assert found["cost_per_pair"] == pytest.approx(found["tokens_per_pair"] * 2e-6)


def test_with_labels_a_card_says_how_right_the_judge_is(judged: Path, cli: Cli) -> None:
    run = start(judged, None, ScriptedWorkers()).run
    kind, rude = ([c for c in records_of(run.view("rounds/001/candidates"), Candidate) if c.text.startswith(word)]
                  for word in ("kind", "rude"))  # fmt: skip
    pairs = [(a, b) for a in kind for b in rude if a.prompt_id == b.prompt_id]
    said = [Label("ada", a.prompt_id, a.id, b.id, "preferred", a.id) for a, b in pairs]
    file = labels.write(run.path, "ada", said)
    try:
        done = cli("judge", "card", "run", cwd=judged)
        assert done.returncode == 0 and "how sure, and how often right" in done.stdout
        assert "Cohen's kappa" in done.stdout and "1.000" in done.stdout
    finally:
        file.unlink()


def test_canaries_are_listed(judged: Path, cli: Cli) -> None:
    done = cli("judge", "canaries", "run", cwd=judged)
    assert done.returncode == 0 and "run, round 1" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == [
        "constant", "colon", "opener", "verdict", "padding", "blank", "all",
    ]  # fmt: skip
    assert json.loads(cli("judge", "canaries", "run", "--json", "--round", "0", cwd=judged).stdout)["rate"] == 0.0


def test_canaries_are_judged_on_demand(judged: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Workers(ScriptedWorkers):
        def __init__(self, *_: object) -> None:
            super().__init__()

        def __enter__(self) -> Workers:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("selfalign.launch.local.LocalWorkers", Workers)
    before = sorted(path for path in judged.rglob("*") if path.suffix in (".parquet", ".json"))
    done = cli("judge", "canaries", "run", "--again", "6", "--round", "1", "--json", cwd=judged)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["round"], found["num_prompts"], found["num_comparisons"], found["rate"]) == (1, 6, 36, 0.0)
    after = sorted(path for path in judged.rglob("*") if path.suffix in (".parquet", ".json"))
    assert [path for path in after if path not in before and path.name != "lock.json"] == []


def test_where_nothing_was_judged_it_is_said(tmp_path: Path, cli: Cli) -> None:
    start(tmp_path, write_campaign(tmp_path), ScriptedWorkers())
    for command, fix in (("card", "selfalign status run"), ("canaries", "--again")):
        done = cli("judge", command, "run", cwd=tmp_path)
        assert done.returncode == 2 and f"has no {'judgments' if command == 'card' else 'canaries'}" in done.stderr
        assert fix in done.stderr and "Traceback" not in done.stderr
    assert "has no round 7" in cli("judge", "card", "run", "--round", "7", cwd=tmp_path).stderr
