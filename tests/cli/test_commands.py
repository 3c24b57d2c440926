"""Every command as a user calls it: what it prints where, and its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selfalign.store import Run
from tests.cli.conftest import Cli


def test_runs_ls_gives_state_rounds_and_win_rate(sample: Path, cli: Cli) -> None:
    done = cli("runs", "ls", "--json", cwd=sample)
    rows = {row["run"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert (rows["sample"]["state"], rows["sample"]["evaluated"], rows["sample"]["accepted"]) == ("done", 2, 2)
    assert rows["other"]["accepted"] == 1
    assert rows["sample"]["win_rate_vs_base"]["rate"] == pytest.approx(0.65)
    table = cli("runs", "ls", cwd=sample).stdout.splitlines()
    assert table[0].split()[:3] == ["run", "state", "rounds"]
    assert "runs/sample" in table[-1]


def test_status_tells_a_dead_run_from_a_finished_one(sample: Path, cli: Cli, tmp_path: Path) -> None:
    assert json.loads(cli("status", "sample", "--json", cwd=sample).stdout)["state"] == "done"
    shutil.copytree(sample / "runs" / "sample", tmp_path / "runs" / "killed")
    events = tmp_path / "runs" / "killed" / "events.jsonl"
    events.write_bytes(events.read_bytes().rsplit(b"\n", 2)[0] + b'\n{"time": 1, "eve')  # no campaign_done, a torn line
    found = json.loads(cli("status", "killed", "--json", cwd=tmp_path).stdout)
    assert (found["state"], found["round"], found["stage"], found["done"], found["total"]) == (
        "dead",
        1,
        "train",
        23,
        40,
    )
    assert found["stage_seconds_left"] is None
    shown = cli("status", "killed", cwd=tmp_path)
    assert "dead" in shown.stdout
    assert "selfalign run runs/killed" in shown.stderr


def test_pairs_ls_filters(sample: Path, cli: Cli) -> None:
    found = json.loads(
        cli("pairs", "ls", "sample", "--round", "1", "--min-margin", "0.35", "--json", cwd=sample).stdout
    )
    assert [row["id"] for row in found] == ["1:3", "1:4", "1:5"]
    assert json.loads(cli("pairs", "ls", "sample", "--principle", "none", "--json", cwd=sample).stdout) == []
    assert len(cli("pairs", "ls", "sample", "-n", "4", cwd=sample).stdout.splitlines()) == 5


def test_pairs_show_has_both_orders_and_lineage(sample: Path, cli: Cli) -> None:
    shown = cli("pairs", "show", "sample", "0:2", cwd=sample).stdout
    assert "shown chosen then rejected: chosen, p(first) 0.850" in shown
    assert "shown rejected then chosen: chosen, p(first) 0.250" in shown
    found = json.loads(cli("pairs", "show", "sample", "0:2", "--json", cwd=sample).stdout)
    assert found["lineage"]["trained"] is True
    assert {judgment["verdict"] for judgment in found["judgments"]} == {"first", "second"}


def test_pairs_export_writes_trl_formats(sample: Path, cli: Cli, tmp_path: Path) -> None:
    out = {name: tmp_path / f"{name}.out" for name in ("trl", "trl-implicit", "jsonl", "parquet")}
    for name, path in out.items():
        done = cli("pairs", "export", "sample", str(path), "--format", name, cwd=sample)
        assert (done.returncode, done.stdout.strip()) == (0, str(path))
    explicit, implicit, full = ([json.loads(line) for line in out[name].open()] for name in list(out)[:3])
    assert len(explicit) == len(implicit) == len(full) == 12
    assert list(explicit[0]) == ["prompt", "chosen", "rejected"]
    assert implicit[0]["chosen"] == explicit[0]["prompt"] + explicit[0]["chosen"]
    assert "\x1b]52" in full[0]["chosen"]  # a file keeps the text as it was
    assert pq.read_table(out["parquet"]).column("chosen").to_pylist() == [row["chosen"] for row in full]


def test_export_never_overwrites(sample: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    done = cli("pairs", "export", "sample", str(tmp_path / "kept"), "--format", "jsonl", cwd=sample)
    assert (done.returncode, (tmp_path / "kept").read_text()) == (2, "mine")


def test_verify_names_a_damaged_file(sample: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("verify", "sample", cwd=sample).returncode == 0
    shutil.copytree(sample / "runs", tmp_path / "runs")
    shard = tmp_path / "runs" / "sample" / "rounds" / "000" / "pairs" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"X")
    done = cli("verify", "sample", "--json", cwd=tmp_path)
    assert done.returncode == 1
    assert any("rounds/000/pairs" in problem["path"] for problem in json.loads(done.stdout)["problems"])


def test_branch_takes_the_rounds_and_the_new_settings(sample: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    done = cli("branch", "sample", "new", "--round", "0", "--set", "train.beta=0.3", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "runs/new")
    settings = json.loads(cli("config", "new", "--json", cwd=tmp_path).stdout)
    assert (settings["name"], settings["train.beta"]) == ("new", 0.3)
    assert cli("verify", "new", cwd=tmp_path).returncode == 0
    assert cli("branch", "sample", "late", "--round", "7", cwd=tmp_path).returncode == 2


def test_a_round_is_done_anew_in_a_run_of_its_own(sample: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    for number, kept in ((1, [0]), (0, [])):
        new = f"again{number}"
        done = cli("branch", "sample", new, "--rerun", str(number), cwd=tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, f"runs/{new}"), done.stderr
        assert Run.open(tmp_path / "runs" / new).rounds() == kept
        assert cli("verify", new, cwd=tmp_path).returncode == 0
    assert cli("verify", "sample", cwd=tmp_path).returncode == 0
    for wrong in ((), ("--round", "0", "--rerun", "0")):
        done = cli("branch", "sample", "x", *wrong, cwd=tmp_path)
        assert done.returncode == 2 and "with --round or with --rerun" in done.stderr
    assert "has no round 7" in cli("branch", "sample", "x", "--rerun", "7", cwd=tmp_path).stderr


def test_report_writes_both_pages_and_prints_their_paths(sample: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs/sample/gold.json").write_text('{"base": {"leaks": 0.73}, "round 0": {"leaks": 0.07}}')
    done = cli("report", "sample", cwd=tmp_path)
    assert done.stdout.splitlines() == ["runs/sample/report.md", "runs/sample/report.html"]
    assert "| leaks | 0.730 | 0.070 |" in (tmp_path / "runs/sample/report.md").read_text()
    assert cli("report", "sample", "--open", cwd=tmp_path).stdout == "runs/sample/report.html\n"
    assert [found["round"] for found in json.loads(cli("report", "sample", "--json", cwd=tmp_path).stdout)] == [0, 1]
    assert cli("report", "sample", "--round", "5", cwd=tmp_path).returncode == 2


def test_init_writes_a_campaign_that_config_reads(cli: Cli, tmp_path: Path) -> None:
    done = cli("init", "mine", cwd=tmp_path)
    assert done.stdout.split() == ["mine.yaml", "mine.constitution.yaml"]
    settings = json.loads(cli("config", "mine.yaml", "--json", cwd=tmp_path).stdout)
    assert settings["name"] == "mine"
    assert settings["constitution"].endswith("mine.constitution.yaml")
    assert "\n# ppo: {" in (tmp_path / "mine.yaml").read_text(), "what nothing reads yet is there to be asked for"
    text = (tmp_path / "mine.yaml").read_text().replace("# ppo:", "ppo:").replace("# reward_model:", "reward_model:")
    (tmp_path / "asked.yaml").write_text(text.replace("train: {beta", "train: {algorithm: ppo, beta"))
    assert cli("config", "asked.yaml", "--json", cwd=tmp_path).returncode == 0
    again = cli("init", "mine", cwd=tmp_path)
    assert again.returncode == 2
    assert "nothing was written" in again.stderr


def test_config_tells_origins_and_prints_the_schema(sample: Path, cli: Cli) -> None:
    done = cli(
        "config", "sample.yaml", "--set", "train.beta=0.1", "--origin", "--json", cwd=sample, SELFALIGN_ROUNDS="3"
    )
    origins = {row["name"]: row["origin"] for row in json.loads(done.stdout)}
    assert origins["train.beta"] == "--set"
    assert origins["rounds"] == "SELFALIGN_ROUNDS"
    assert origins["seed"] == "sample.yaml:3"
    assert origins["train.loss"] == "default"
    assert json.loads(cli("config", "--schema", cwd=sample).stdout)["title"] == "selfalign campaign"


def test_plan_offline_counts_and_shows_a_judge_prompt(sample: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(sample, tmp_path, dirs_exist_ok=True)
    text = (
        (tmp_path / "sample.yaml")
        .read_text()
        .replace("model: model", "model: owner/model")
        .replace("name: sample", "name: fresh")
    )
    (tmp_path / "fresh.yaml").write_text(text)
    done = cli("plan", "fresh.yaml", "--offline", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    first, second, third = found["work"]["rounds"]
    assert (first["candidates"], first["examples"]) == (6 * 4, 6)
    assert first["judgments"] == 6 * 6 * 2  # six comparisons of four candidates, in both orders
    assert first["heldout_judgments"] == 2 * 2  # the previous policy is the base
    assert second["heldout_judgments"] == third["heldout_judgments"] == 2 * 2 * 2
    assert found["work"]["total"]["candidates"] == 3 * 6 * 4
    assert [phase["rounds"] for phase in found["phases"]] == [[0, 1, 2]]
    assert "The first response stands here." in found["judge_prompt"]
    assert found["probe"] is None
    assert "unknown" in cli("plan", "fresh.yaml", "--offline", cwd=tmp_path).stderr
    assert not (tmp_path / "runs" / "fresh").exists()


def test_doctor_and_env(cli: Cli, tmp_path: Path) -> None:
    checks = json.loads(cli("doctor", "--json", cwd=tmp_path).stdout)
    assert {"python", "torch", "disk", "memory"} <= {check["name"] for check in checks}
    assert all(check["fix"] for check in checks if check["state"] != "ok")
    assert json.loads(cli("env", "--json", cwd=tmp_path).stdout)["torch"]
    faulty = cli("doctor", str(tmp_path), cwd=tmp_path)
    assert faulty.returncode == 1
    assert "fix:" in faulty.stderr
