"""Rounds of every kind: pairs with gold answers, rankings and demonstrations, each listed, shown and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Cli

ELSEWHERE = {
    "pairs": ["round 0 holds demonstrations:  selfalign demonstrations ls", "round 1 holds rankings:"],
    "rankings": ["round 0 holds demonstrations:", "round 2 holds pairs:  selfalign pairs ls"],
    "demonstrations": ["round 1 holds rankings:  selfalign rankings ls", "round 2 holds pairs:"],
}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_list_says_which_rounds_hold_what_else(kind: str, sample: Path, cli: Cli) -> None:
    shown = cli(kind, "ls", "mixed", cwd=sample)
    assert all(line in shown.stderr for line in ELSEWHERE[kind])
    done = cli(kind, "ls", "mixed", "--json", cwd=sample)
    assert {row["round"] for row in json.loads(done.stdout)} == {list(ELSEWHERE)[::-1].index(kind)}
    assert len(json.loads(done.stdout)) == 6
    assert all(line in done.stderr for line in ELSEWHERE[kind])


def test_no_list_is_silent_about_a_round_of_another_kind(sample: Path, cli: Cli) -> None:
    done = cli("pairs", "ls", "mixed", "--round", "1", cwd=sample)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[1] == "round 1 holds rankings:  selfalign rankings ls runs/mixed"
    missing = cli("pairs", "show", "mixed", "1:0", cwd=sample)
    assert missing.returncode == 2
    assert "selfalign rankings ls runs/mixed" in missing.stderr


def test_a_gold_answer_is_called_one(sample: Path, cli: Cli) -> None:
    shown = cli("pairs", "show", "mixed", "2:1", cwd=sample).stdout
    assert "chosen  (gold answer)" in shown
    assert "rejected  (sample 1, 3 tokens, stop)" in shown
    assert "none: the gold answer is chosen whatever a judge would say" in shown
    found = json.loads(cli("pairs", "show", "mixed", "2:1", "--json", cwd=sample).stdout)
    assert found["chosen"].startswith("gold ")
    assert found["policy_id"] == found["lineage"]["policy_id"] == "policy2"
    assert found["lineage"]["samples"] == {"chosen": "gold answer", "rejected": 1}
    assert found["lineage"]["seeds"] == {"chosen": None, "rejected": 1}


def test_replayed_pairs_are_not_listed_again(sample: Path, cli: Cli) -> None:
    found = json.loads(cli("pairs", "ls", "mixed", "--round", "2", "--json", cwd=sample).stdout)
    assert len(found) == 6
    assert "earlier" not in {row["prompt_id"] for row in found}


def test_rankings_show_goes_from_best_to_worst(sample: Path, cli: Cli) -> None:
    shown = cli("rankings", "show", "mixed", "1:1", cwd=sample).stdout
    best = shown.index("1   good   score 0.900, win rate 0.700  (sample 0, 3 tokens, stop)")
    assert best < shown.index("2   bad   score -0.900, win rate 0.300  (sample 1, 3 tokens, stop)")
    assert "shown answer 2 then answer 1: answer 1, p(first) 0.250" in shown
    table = cli("rankings", "ls", "mixed", cwd=sample).stdout.splitlines()
    assert table[1].split()[:4] == ["1:0", "1", "-0.90", "0/1"]
    assert table[2].split()[:6] == ["1:1", "2", "0.90", "to", "-0.90", "1/1"]


def test_rankings_filter_by_principle(sample: Path, cli: Cli) -> None:
    assert len(json.loads(cli("rankings", "ls", "mixed", "--principle", "kind", "--json", cwd=sample).stdout)) == 6
    assert json.loads(cli("rankings", "ls", "mixed", "--principle", "none", "--json", cwd=sample).stdout) == []


def test_rankings_export(sample: Path, cli: Cli, tmp_path: Path) -> None:
    out = {name: tmp_path / name for name in ("trl-kto", "jsonl", "parquet")}
    for name, path in out.items():
        assert cli("rankings", "export", "mixed", str(path), "--format", name, cwd=sample).returncode == 0
    unpaired, full = rows(out["trl-kto"]), rows(out["jsonl"])
    assert [row["label"] for row in unpaired] == [False] + [True, False] * 5
    assert list(unpaired[1]) == ["prompt", "completion", "label"]
    assert unpaired[1]["completion"] == [{"role": "assistant", "content": full[1]["answers"][0]}]
    assert unpaired[1]["prompt"] == full[1]["messages"]
    assert (full[1]["scores"], full[1]["win_rates"], full[1]["desirable"]) == ([0.9, -0.9], [0.7, 0.3], [True, False])
    table = pq.read_table(out["parquet"]).to_pylist()
    assert [row["answers"] for row in table] == [row["answers"] for row in full]
    assert table[1]["desirable"] == [True, False]


@pytest.mark.parametrize(
    ("kind", "format", "why"),
    [("rankings", "trl-kto", "only kto and bco label answers"), ("pairs", "trl", "round 1 holds rankings")],
)
def test_an_export_of_nothing_leaves_no_file(
    kind: str, format: str, why: str, sample: Path, cli: Cli, tmp_path: Path
) -> None:
    number = "2" if kind == "rankings" else "1"
    done = cli(kind, "export", "mixed", str(tmp_path / "out"), "--format", format, "--round", number, cwd=sample)
    assert done.returncode == 2
    assert why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_demonstrations_tell_where_an_answer_comes_from(sample: Path, cli: Cli) -> None:
    found = json.loads(cli("demonstrations", "ls", "mixed", "--json", cwd=sample).stdout)
    assert [row["origin"] for row in found] == ["revision 1", "sample 0", *["gold answer"] * 4]
    assert [row["num_tokens"] for row in found] == [4, 3, None, None, None, None]
    shown = cli("demonstrations", "show", "mixed", "0:0", cwd=sample).stdout
    assert "assistant  (revision 1, 4 tokens, stop)\nkinder " in shown
    assert "assistant  (gold answer)" in cli("demonstrations", "show", "mixed", "0:2", cwd=sample).stdout


def test_demonstrations_export(sample: Path, cli: Cli, tmp_path: Path) -> None:
    out = {name: tmp_path / name for name in ("trl", "jsonl", "parquet")}
    for name, path in out.items():
        assert cli("demonstrations", "export", "mixed", str(path), "--format", name, cwd=sample).returncode == 0
    plain, full = rows(out["trl"]), rows(out["jsonl"])
    assert list(plain[0]) == ["prompt", "completion"]
    assert plain[0]["completion"] == [{"role": "assistant", "content": full[0]["answer"]}]
    assert pq.read_table(out["parquet"]).column("answer").to_pylist() == [row["answer"] for row in full]
