"""`label`, `labels` and `judge` as people type them."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfalign import config, labels
from selfalign.campaign import run_campaign
from selfalign.compared import comparisons
from selfalign.labels import MIN_LABELS
from selfalign.records import Label
from selfalign.store import Run
from tests.cli.conftest import Cli, environment
from tests.cli.fabricate import make_run
from tests.cli.test_hostile import assert_harmless
from tests.scripted import ScriptedWorkers, start, write_campaign


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A run of hostile texts: two rounds, six comparisons each."""
    make_run(tmp_path)
    return tmp_path


@pytest.fixture
def kindness(tmp_path: Path) -> Path:
    """A finished run of the scripted campaign, under runs/kindness."""
    work = start(tmp_path, write_campaign(tmp_path, rounds=1), ScriptedWorkers())
    with work.run.lock():
        run_campaign(work)
    (tmp_path / "runs").mkdir()
    (tmp_path / "run").rename(tmp_path / "runs" / "kindness")
    return tmp_path


@pytest.fixture
def press(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """Label with these keys on standard input, one a line."""

    def call(keys: str, *arguments: str, cwd: Path):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{key}\n" for key in keys)))
        return cli("label", *arguments, cwd=cwd)

    return call


def said(root: Path, run: str = "sample", labeller: str = "ann") -> list[Label]:
    return labels.read(root / "runs" / run).get(labeller, [])


def gold(root: Path, count: int | None = None) -> None:
    """Labels by whoever knows which answers of the scripted campaign are kind."""
    run = Run.open(root / "runs/kindness")
    settings = config.load(run.path / "campaign.yaml").campaign
    rows = []
    for one in comparisons(run, 0, "training", settings):
        kind = [answer.id for answer in (one.a, one.b) if answer.text.startswith("kind")]
        winner = kind[0] if len(kind) == 1 else None
        verdict = "preferred" if winner else "tie"
        rows.append(Label("gold", one.prompt.id, one.a.id, one.b.id, verdict, winner, round=0))
    labels.write(run.path, "gold", rows[:count])


# label


def test_keys_are_read_by_line_and_a_session_goes_on(sample: Path, press) -> None:
    done = press("12", "sample", "--labeller", "ann", cwd=sample)
    assert done.returncode == 0
    assert "2 labels" in done.stdout and "[1] left" in done.stdout and "The response is kind." in done.stdout
    assert [label.preferred_id == label.left_id for label in said(sample)] == [True, False]
    done = press("0u9q1", "sample", "--labeller", "ann", cwd=sample)
    assert "going on: 2 of" in done.stderr
    assert [label.verdict for label in said(sample)] == ["preferred", "preferred", "both_bad"]
    assert {label.round for label in said(sample)} == {1}


def test_a_labeller_learns_nothing_of_judge_and_policy(sample: Path, press) -> None:
    done = press("1", "sample", "--labeller", "ann", cwd=sample)
    for word in ("policy0", "policy1", "0.85", "judge says", "random", "swap"):
        assert word not in done.stdout + done.stderr


def test_agreement_with_the_judge_is_told_only_from_thirty_labels_on(kindness: Path, press) -> None:
    few = press("1" * (MIN_LABELS - 1), "kindness", "--labeller", "ann", cwd=kindness)
    assert f"told from {MIN_LABELS} labels on" in few.stdout and "kappa" not in few.stdout
    more = press("1" * 10, "kindness", "--labeller", "ann", cwd=kindness)
    assert "the labelling judge says the same of" in more.stdout and "kappa" in more.stdout
    assert "of the random sample alone" in more.stdout
    assert "pairs shown twice you said the same of" in more.stdout


def test_heldout_answers_can_be_labelled(kindness: Path, press) -> None:
    done = press("1", "kindness", "--of", "heldout", "--labeller", "ann", cwd=kindness)
    assert done.returncode == 0 and "heldout question" in done.stdout


def test_a_wrong_key_is_said_and_nothing_is_saved(sample: Path, press) -> None:
    done = press("7", "sample", "--labeller", "ann", cwd=sample)
    assert "'7' is no key" in done.stderr and said(sample) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--of", "heldout"], "there is nothing to label"),
        (["sample", "--round", "9"], "has no round 9"),
        (["sample", "--labeller", "../x"], "cannot be the name of a labeller"),
        (["nowhere"], "there is no run"),
    ],
)
def test_what_cannot_be_labelled_is_said(sample: Path, press, arguments: list[str], words: str) -> None:
    done = press("1", *arguments, cwd=sample)
    assert done.returncode == 2 and words in done.stderr


@pytest.fixture
def terminal(sample: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`selfalign label sample` on a terminal of its own."""
    leader, follower = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS="100", LINES="40")
    command = [sys.executable, "-m", "selfalign", "label", "sample", "--labeller", "ann"]
    child = subprocess.Popen(
        command, cwd=sample, env=env, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    yield leader, child
    child.kill()
    child.wait()
    os.close(leader)


def until(leader: int, words: bytes, times: int = 1, timeout: float = 60.0) -> bytes:
    received, end = b"", time.monotonic() + timeout
    while received.count(words) < times:
        assert time.monotonic() < end, received
        if select.select([leader], [], [], 0.2)[0]:
            received += os.read(leader, 65536)
    return received


def test_single_keys_on_a_terminal_are_saved_before_the_next_pair_is_shown(
    sample: Path, terminal: tuple[int, subprocess.Popen[bytes]]
) -> None:
    leader, child = terminal
    received = until(leader, b"q quit", times=2)
    os.write(leader, b"1")
    received += until(leader, b"--- 2 of")
    assert len(said(sample)) == 1
    child.kill()  # kill -9: the label stands
    child.wait()
    assert len(said(sample)) == 1
    assert_harmless(received)
    assert b"[/INST]" in received


# labels


def test_who_labelled_what_is_listed(sample: Path, press, cli: Cli) -> None:
    assert "nobody has labelled" in cli("labels", "ls", "sample", cwd=sample).stderr
    press("1" * 6, "sample", "--labeller", "ann", cwd=sample)
    press("1100xs", "sample", "--labeller", "bob", cwd=sample)
    done = cli("labels", "ls", "sample", cwd=sample)
    assert "ann" in done.stdout and "kappa" in done.stdout and "Krippendorff's alpha" in done.stderr
    found = json.loads(cli("labels", "ls", "sample", "--json", cwd=sample).stdout)
    ann, bob = found["labellers"]
    assert (bob["labeller"], bob["neither"], bob["skipped"]) == ("bob", 2, len(said(sample, labeller="bob")) - 4)
    assert found["between"][0]["labellers"] == ["ann", "bob"] and ann["labels"] == len(said(sample))
    fair = json.loads(cli("labels", "ls", "sample", "--json", "--stratum", "random", cwd=sample).stdout)
    assert all(one["labels"] == one["random"] for one in fair["labellers"])


@pytest.mark.parametrize("format", ["label-studio", "argilla", "icai", "jsonl"])
def test_labels_go_out_and_come_back(sample: Path, press, cli: Cli, format: str) -> None:
    press("12", "sample", "--labeller", "ann", cwd=sample)
    done = cli("labels", "export", "sample", "out", "--format", format, cwd=sample)
    assert done.returncode == 0 and done.stdout == "out\n"
    again = cli("labels", "export", "sample", "out", "--format", format, cwd=sample)
    assert again.returncode == 2 and "out exists" in again.stderr
    done = cli("labels", "import", "sample", "out", "--format", format, "--labeller", "team", cwd=sample)
    assert done.returncode == 0 and "2 labels of team-ann" in done.stderr
    back = said(sample, labeller="team-ann")
    assert {(one.pair, one.preferred_id) for one in back} == {(one.pair, one.preferred_id) for one in said(sample)}
    assert {one.labeller for one in back} == {"team-ann"}


def test_pairs_to_label_go_out_without_labels(sample: Path, cli: Cli) -> None:
    cli("labels", "export", "sample", "tasks.json", "--format", "label-studio", cwd=sample)
    tasks = json.loads((sample / "tasks.json").read_text())
    assert tasks and not any(task["annotations"] or task["predictions"] for task in tasks)
    done = cli("labels", "export", "sample", "none.csv", "--format", "icai", cwd=sample)
    assert done.returncode == 2 and "no such pairs" in done.stderr and not (sample / "none.csv").exists()


def test_a_file_that_cannot_be_read_is_named_by_its_line_and_leaves_nothing(sample: Path, cli: Cli) -> None:
    (sample / "people.csv").write_text("text_a,text_b,preferred_text\nno,such,text_a\n")
    done = cli("labels", "import", "sample", "people.csv", "--format", "icai", cwd=sample)
    assert done.returncode == 2 and "people.csv:2" in done.stderr
    assert labels.read(sample / "runs/sample") == {}


# judge


def test_a_judge_is_calibrated_and_a_campaign_takes_the_file(kindness: Path, cli: Cli) -> None:
    gold(kindness)
    done = cli("judge", "calibrate", "kindness", "--out", "calibration.json", cwd=kindness)
    assert done.returncode == 0, done.stderr
    assert "kappa" in done.stdout and "ECE" in done.stdout and "how sure" in done.stdout
    assert "temperature" in done.stderr and "judge.calibration=calibration.json" in done.stderr
    found = json.loads(cli("judge", "calibrate", "kindness", "--json", "--labeller", "gold", cwd=kindness).stdout)
    file = json.loads((kindness / "calibration.json").read_text())
    assert file["temperature"] == found["temperature"] < 1  # a judge that says .9 and is always right
    assert abs(found["bias"]) < 0.1
    assert found["after"]["ece"] < found["before"]["ece"]
    assert found["after"]["accuracy"] == 1.0 and file["run"] == "kindness" and file["labellers"] == ["gold"]
    overrides = ["--set", "judge.calibration=calibration.json", "--set", "name=mended"]
    shown = cli("config", "runs/kindness/campaign.yaml", *overrides, "--json", cwd=kindness)
    assert shown.returncode == 0 and "calibration.json" in shown.stdout, shown.stderr


def test_agreement_with_the_judge_is_listed_once_there_are_enough_labels(kindness: Path, press, cli: Cli) -> None:
    gold(kindness)
    press("1" * (MIN_LABELS - 1), "kindness", "--labeller", "ann", cwd=kindness)
    listed = json.loads(cli("labels", "ls", "kindness", "--json", cwd=kindness).stdout)["judges"]
    assert [(one["labeller"], one["judge"], one["agreement"]["kappa"]) for one in listed] == [
        ("gold", "labelling", 1.0)
    ]
    shown = cli("labels", "ls", "kindness", cwd=kindness).stdout
    assert len([line for line in shown.splitlines() if "labelling" in line]) == 1


def test_too_few_labels_calibrate_nothing(kindness: Path, cli: Cli) -> None:
    gold(kindness, count=MIN_LABELS - 1)
    done = cli("judge", "calibrate", "kindness", cwd=kindness)
    assert done.returncode == 2 and "29 labels are too few" in done.stderr and "selfalign label" in done.stderr
    done = cli("judge", "calibrate", "kindness", "--labeller", "eve", cwd=kindness)
    assert done.returncode == 2 and "nobody called 'eve'" in done.stderr and "labels of gold" in done.stderr


def test_a_calibration_file_that_is_missing_or_wrong_is_refused_before_a_run(kindness: Path, cli: Cli) -> None:
    (kindness / "wrong.json").write_text("{}")
    for name, words in (("wrong.json", "is no calibration"), ("none.json", "there is no file")):
        overrides = ["--set", f"judge.calibration={name}", "--set", "name=mended"]
        done = cli("plan", "runs/kindness/campaign.yaml", *overrides, "--offline", cwd=kindness)
        assert done.returncode == 2 and words in done.stderr, done.stderr
