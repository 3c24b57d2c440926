"""`selfalign revisions`: the chains of a run, how each was rewritten, and what is left out of training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from selfalign.cli.revisions import chains
from selfalign.stages import revise
from selfalign.store import Run
from tests.cli.conftest import Cli
from tests.cli.fabricate import NUM_PROMPTS

SKIPPED = "not trained on: "


def test_ls_gives_each_answer_with_its_principles_and_what_became_of_it(sample: Path, cli: Cli) -> None:
    done = cli("revisions", "ls", "sample", cwd=sample)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["answer", "revised", "principles", "prompt", "first", "answer", "last", "answer"]
    assert len(lines) == 1 + 2 * NUM_PROMPTS
    assert [line.split()[:2] for line in lines[1:9:2]] == [
        ["0:0", "2/2"],
        ["0:2", "1/2"],
        ["0:4", "1/2"],
        ["0:6", "1/2"],
    ]
    assert "(no_answer)" in lines[2]
    assert "selfalign revisions show runs/sample 0:0" in done.stderr


def test_ls_as_json_has_the_whole_texts_and_outcomes(sample: Path, cli: Cli) -> None:
    rows = json.loads(cli("revisions", "ls", "sample", "--json", cwd=sample).stdout)
    assert len(rows) == 2 * NUM_PROMPTS
    assert [[step["outcome"] for step in row["steps"]] for row in rows[:8:2]] == [
        ["revised", "revised"],
        ["revised", "truncated"],
        ["revised", "critique_error"],
        ["revised", "unchanged"],
    ]
    assert rows[0]["last"] == rows[0]["steps"][1]["revision"]
    assert rows[2]["last"] == rows[2]["steps"][0]["revision"]
    assert (rows[1]["steps"], rows[1]["skipped"], rows[0]["skipped"]) == ([], "no_answer", None)
    assert "\x1b]52" in rows[0]["answer"]


def test_ls_filters(sample: Path, cli: Cli) -> None:
    kind = json.loads(cli("revisions", "ls", "sample", "--principle", "kind", "--json", cwd=sample).stdout)
    assert len(kind) == NUM_PROMPTS
    assert json.loads(cli("revisions", "ls", "sample", "--principle", "none", "--json", cwd=sample).stdout) == []
    few = cli("revisions", "ls", "sample", "-n", "3", cwd=sample)
    assert len(few.stdout.splitlines()) == 4
    assert "the first 3" in few.stderr
    assert len(cli("revisions", "ls", "sample", "-n", "0", cwd=sample).stdout.splitlines()) == 13


def test_show_tells_the_whole_chain_in_order(sample: Path, cli: Cli) -> None:
    shown = cli("revisions", "show", "sample", "0:0", cwd=sample).stdout
    parts = ("user\n", "prompt 0.0", "first answer", "\nanswer 0 ", "step 1  critique under kind", "It is unkind.",
             "step 1  revision  (4 tokens, stop)", "kinder ", "step 2  critique under brief", "kinder still", "lineage",
             "rounds/000/prompts", "rounds/000/candidates", "rounds/000/steps/2/revisions")  # fmt: skip
    places = [shown.index(part) for part in parts]
    assert places == sorted(places)
    assert SKIPPED not in shown


def test_show_says_why_a_step_is_not_trained_on(sample: Path, cli: Cli) -> None:
    for answer, reason in (("0:1", "no_answer"), ("0:2", "truncated"), ("0:4", "critique_error"), ("0:6", "unchanged")):
        shown = cli("revisions", "show", "sample", answer, cwd=sample).stdout
        assert SKIPPED + revise.DISCARDS[reason] in shown


def test_show_finds_an_answer_by_its_prompt(sample: Path, cli: Cli) -> None:
    row = json.loads(cli("revisions", "ls", "sample", "--json", cwd=sample).stdout)[4]
    found = json.loads(cli("revisions", "show", "sample", row["prompt_id"][:8], "--json", cwd=sample).stdout)
    assert found["id"] == "0:4"
    assert list(found["lineage"])[-1] == "rounds/000/steps/2/revisions"
    missing = cli("revisions", "show", "sample", "0:99", cwd=sample)
    assert missing.returncode == 2
    assert "selfalign revisions ls" in missing.stderr


def test_a_run_without_revisions_says_so(sample: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sample / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "sample" / "rounds" / "000" / "steps")
    done = cli("revisions", "ls", "sample", cwd=tmp_path)
    assert done.returncode == 0
    assert "no revision like that" in done.stderr


def test_a_step_in_the_making_is_shown_as_far_as_it_is(sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample / "runs" / "sample", tmp_path / "run")
    second = tmp_path / "run" / "rounds" / "000" / "steps" / "2" / "revisions"
    for path in (second / "done.json", second / "part-00000.parquet"):
        path.unlink()
    found = list(chains(Run.open(tmp_path / "run")))
    assert [len(chain.revisions) for chain in found[:3]] == [1, 0, 1]
