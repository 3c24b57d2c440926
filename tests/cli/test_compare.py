"""Runs side by side: a line for each round of each, a plot of win rate against KL, and the settings that differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from selfalign.cli.compare import MARKS
from tests.cli.conftest import Cli

GOLD = {"base": {"gold": 0.4, "warm": 0.3}, "round 1": {"gold": 0.85}}


def test_json_has_every_figure_and_the_settings_that_differ(sample: Path, cli: Cli) -> None:
    found = json.loads(cli("runs", "compare", "sample", "other", "mixed", "--json", cwd=sample).stdout)
    assert [run["run"] for run in found["runs"]] == ["sample", "other", "mixed"]
    assert [[one["algorithm"] for one in run["rounds"]] for run in found["runs"]] == [
        ["dpo", "dpo"], ["dpo", "dpo"], ["sft", "kto", "dpo"]
    ]  # fmt: skip
    first, second = found["runs"][1]["rounds"]
    assert (first["accepted"], second["accepted"]) == (True, False)
    assert first["win_rate_vs_base"]["low"] == pytest.approx(0.52)
    assert (first["kl"]["mean"], second["kl"]["mean"]) == (1.5, 2.5)
    assert (first["length_ratio"], first["num_examples"], first["swap_consistency"]) == (1.1, 6, 0.91)
    assert first["seconds"] == 22.0
    assert first["gold"] is None
    settings = {row["name"]: row["values"] for row in found["settings"]}
    assert settings["seed"] == [17, 3, 17]
    assert settings["replay.ratio"] == [0.0, 0.0, 0.5]


def test_the_table_has_a_line_for_each_round_and_the_plot_a_mark(sample: Path, cli: Cli) -> None:
    shown = cli("runs", "compare", "mixed", "other", cwd=sample).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["a", "mixed", "0", "sft", "6", "0.58", "±0.05", "1.50", "×1.10", "22s"] in lines
    assert ["rejected", "1", "dpo", "6", "0.65", "±0.06", "2.50", "×1.20", "19s"] in lines
    assert "o the base policy   a mixed   b other   * several" in shown
    assert max(len(line) for line in shown[: shown.index("setting")].splitlines()) <= 80
    assert "{rounds: 1, train: {algorithm: kto, beta: 0.3}, pairs: {}}" in shown


def test_gold_is_a_column_where_a_run_has_it(sample: Path, cli: Cli, tmp_path: Path) -> None:
    assert "gold" not in cli("runs", "compare", "sample", "other", cwd=sample).stdout
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs/sample/gold.json").write_text(json.dumps(GOLD))
    done = cli("runs", "compare", "sample", "other", cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][-1] == "gold"
    assert lines[1][:3] == ["a", "sample", "base"]
    assert [line[-1] for line in lines[1:6]] == ["0.400", "–", "0.850", "–", "–"]
    assert "gold: the gold score in gold.json" in done.stderr
    found = json.loads(cli("runs", "compare", "sample", "other", "--json", cwd=tmp_path).stdout)["runs"]
    assert found[0]["base_gold"] == pytest.approx(0.4)
    assert found[1]["base_gold"] is None


def test_a_run_without_rounds_has_a_line_too(sample: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    for name in ("sample", "other"):
        shutil.rmtree(tmp_path / "runs" / name / "rounds")
    shown = cli("runs", "compare", "sample", "other", cwd=tmp_path).stdout
    assert [line.split()[:3] for line in shown.splitlines()[1:3]] == [["a", "sample", "base"], ["b", "other", "base"]]
    assert "KL to base" not in shown


@pytest.mark.parametrize("count", [0, 1, len(MARKS) + 1])
def test_the_number_of_runs_is_checked(count: int, sample: Path, cli: Cli) -> None:
    done = cli("runs", "compare", *["sample"] * count, cwd=sample)
    assert done.returncode == 2
    assert f"takes 2 to {len(MARKS)} runs, and got {count}" in done.stderr
