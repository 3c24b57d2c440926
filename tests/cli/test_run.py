"""Signals, locks and stops: what `run`, `status` and `stop` do with a live writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfalign import config
from selfalign.cli.errors import CommandError
from selfalign.cli.run import resume_command, signals
from selfalign.cli.targets import check_name, find_campaign, hold_to_frozen
from selfalign.config import Campaign
from selfalign.launch.local import WorkerDied
from selfalign.store import Run
from tests.cli.conftest import REPOSITORY, Cli, environment
from tests.cli.fabricate import make_run
from tests.scripted import ScriptedWorkers, write_campaign, write_rewards

WRITER = """
import signal, sys
from selfalign.store import Run
with Run.open(sys.argv[1]).lock() as run:
    run.emit("campaign_started", rounds=3)
    run.emit("round_started", round=0)
    run.emit("stage_started", round=0, stage="judge", total=100, unit="judgments")
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
print("stopped", flush=True)
"""


@contextmanager
def writer(run: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a run until it gets SIGTERM."""
    code = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n" + WRITER
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True, env=environment(), cwd=REPOSITORY
    )
    try:
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_stop_asks_the_writer_and_status_sees_it(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path, finished=False)
    with writer(run.path) as child:
        found = json.loads(cli("status", "sample", "--json", cwd=tmp_path).stdout)
        assert (found["state"], found["stage"], found["writer"]["pid"]) == ("running", "judge", child.pid)
        assert f"process {child.pid}" in cli("status", "sample", cwd=tmp_path).stdout
        done = cli("stop", "sample", cwd=tmp_path)
        assert done.returncode == 0
        assert child.wait(timeout=30) == 0
        assert child.stdout.read() == "stopped\n"
    assert "nothing is running" in cli("stop", "sample", cwd=tmp_path).stderr


def test_stop_after_the_round_is_asked_shown_and_taken_back(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path, finished=False)
    assert "nothing is running" in cli("stop", "sample", "--after", "round", cwd=tmp_path).stderr
    assert run.stop_asked() is None
    with writer(run.path) as child:
        holder = json.loads((run.path / "lock.json").read_text())
        (run.path / "lock.json").write_text(json.dumps({**holder, "host": "elsewhere"}))
        done = cli("stop", "sample", "--after", "round", cwd=tmp_path)
        assert done.returncode == 0 and "on elsewhere to stop after round 1" in done.stderr
        assert "it will stop after round 1, as asked" in cli("status", "sample", cwd=tmp_path).stderr
        assert json.loads(cli("status", "sample", "--json", cwd=tmp_path).stdout)["stop_after_round"] == 1
        assert cli("verify", "sample", cwd=tmp_path).returncode == 0
        assert "goes on after round 1" in cli("stop", "sample", "--withdraw", cwd=tmp_path).stderr
        assert "no stop after a round" in cli("stop", "sample", "--withdraw", cwd=tmp_path).stderr
        assert child.poll() is None


def test_stop_leaves_a_foreign_process_alone(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path, finished=False)
    with writer(run.path), subprocess.Popen(["sleep", "60"]) as foreign:
        holder = json.loads((run.path / "lock.json").read_text())
        for change, code in (({"pid": foreign.pid}, 1), ({"host": "elsewhere"}, 1)):
            (run.path / "lock.json").write_text(json.dumps({**holder, **change}))
            done = cli("stop", "sample", cwd=tmp_path)
            assert (done.returncode, done.stderr.startswith("error: ")) == (code, True)
        assert foreign.poll() is None
        foreign.kill()


def test_a_locked_run_is_refused_and_its_report_still_read(tmp_path: Path, cli: Cli) -> None:
    run = make_run(tmp_path)
    with writer(run.path) as child:
        done = cli("report", "sample", cwd=tmp_path)
        assert (done.returncode, "going on" in done.stderr) == (0, True)
        assert done.stdout.splitlines() == ["runs/sample/report.md", "runs/sample/report.html"]
        campaign = tmp_path / "runs" / "sample" / "campaign.yaml"
        campaign.write_text(campaign.read_text().replace("model: model", "model: owner/model"))
        done = cli("run", "sample", cwd=tmp_path)
        assert done.returncode == 1
        assert f"process {child.pid}" in done.stderr


def test_the_first_signal_asks_and_the_second_stops() -> None:
    asked = []
    with pytest.raises(KeyboardInterrupt), signals(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked == [1]
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nohup_keeps_ignoring_hang_ups() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals(lambda: None):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_keeps_its_settings_but_a_new_name_begins_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    hold_to_frozen(find_campaign("sample", ["train.beta=0.1"]))
    with pytest.raises(CommandError, match="other settings"):
        hold_to_frozen(find_campaign("sample.yaml", ["train.beta=0.2"]))
    renamed = find_campaign("sample", ["train.beta=0.2", "name=second"])
    hold_to_frozen(renamed)
    assert (renamed.folder, renamed.exists, renamed.loaded.campaign.train.beta) == (Path("runs/second"), False, 0.2)
    assert resume_command(renamed, Path("runs")) == "selfalign run second"
    assert resume_command(renamed, Path("else where")) == "selfalign run runs/second"


@pytest.mark.parametrize("name", ["..", "a/b", "", "-rf", ".hidden", "a\nb", "\u202ex", "x" * 101])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(CommandError):
        check_name(name, "run")


# A whole campaign through the command line, with scripted models.


class Workers(ScriptedWorkers):
    """Scripted workers where the command line expects those of this machine."""

    script: Callable[[Workers], None] = staticmethod(lambda workers: None)

    def __init__(self, settings: Campaign, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        type(self).script(self)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stop_training(self) -> None:
        pass


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A campaign file `kindness.yaml` over a scripted model."""
    settings = write_campaign(tmp_path)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    (tmp_path / "base" / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    (tmp_path / "kindness.yaml").write_text(config.to_yaml(settings))
    monkeypatch.setattr("selfalign.launch.local.LocalWorkers", Workers)
    monkeypatch.setattr(Workers, "script", staticmethod(lambda workers: None))
    return tmp_path


def scripted(monkeypatch: pytest.MonkeyPatch, on_train: Callable[[], None]) -> None:
    monkeypatch.setattr(Workers, "script", staticmethod(lambda workers: setattr(workers, "on_train", on_train)))


def last_event(folder: Path) -> str:
    return list(Run.open(folder / "runs" / "kindness").events())[-1]["event"]


def test_a_campaign_ends_with_a_table_and_running_again_reuses_it(campaign: Path, cli: Cli) -> None:
    done = cli("run", "kindness.yaml", cwd=campaign)
    assert done.returncode == 0, done.stderr
    title, header, first, second = done.stdout.splitlines()
    assert title.strip() == "runs/kindness"
    assert header.split()[:3] == ["round", "gate", "examples"]
    assert first.split()[:2] == ["0", "accepted"]
    assert second.split()[-1] == "rounds/001/policy"
    assert "round 1  generate  " in done.stderr
    assert "next:  selfalign report" in done.stderr
    again = cli("run", "kindness", cwd=campaign)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "reused 18 finished steps" in again.stderr
    assert (campaign / "runs/kindness/report.html").exists()
    assert cli("verify", "kindness", cwd=campaign).returncode == 0


def test_a_rejected_round_exits_with_4_and_keeps_the_last_good_policy(campaign: Path, cli: Cli) -> None:
    done = cli("run", "kindness.yaml", "--set", "accept.win_rate_lower_bound=0.95", cwd=campaign)
    assert done.returncode == 4
    assert "stopped by the gate" in done.stderr
    assert "the base policy" in done.stderr
    assert "REJECTED" in done.stdout
    assert json.loads(cli("status", "kindness", "--json", cwd=campaign).stdout)["state"] == "stopped by a gate"


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_saves_exits_with_130_and_names_the_command_to_go_on(
    campaign: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    scripted(monkeypatch, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(times)])
    done = cli("run", "kindness.yaml", cwd=campaign)
    assert (done.returncode, done.stdout) == (130, "")
    assert "selfalign run kindness\n" in done.stderr
    assert last_event(campaign) == "interrupted"
    scripted(monkeypatch, lambda: None)
    resumed = cli("run", "kindness", cwd=campaign)
    assert resumed.returncode == 0, resumed.stderr
    assert cli("verify", "kindness", cwd=campaign).returncode == 0


def test_a_stop_after_the_round_exits_with_130_and_is_no_gate(
    campaign: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask() -> None:
        if not asked:
            asked.append(cli("stop", "kindness", "--after", "round", cwd=campaign).stderr)

    scripted(monkeypatch, ask)
    done = cli("run", "kindness.yaml", cwd=campaign)
    assert "to stop after round 0" in asked[0]
    assert (done.returncode, done.stdout) == (130, "")
    assert "stopped after round 0, as asked. To go on:\n  selfalign run kindness\n" in done.stderr
    status = cli("status", "kindness", cwd=campaign)
    assert "stopped as asked" in status.stdout
    assert "stopped after round 0, as asked; to go on:  selfalign run runs/kindness" in status.stderr
    resumed = cli("run", "kindness", cwd=campaign)
    assert resumed.returncode == 0, resumed.stderr
    assert last_event(campaign) == "campaign_done"


def test_a_run_that_is_taken_up_says_that_a_stop_is_still_asked_for(
    campaign: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_and_leave() -> None:
        Run.open(campaign / "runs/kindness").ask_stop(0)
        os.kill(os.getpid(), signal.SIGINT)

    scripted(monkeypatch, ask_and_leave)
    assert cli("run", "kindness.yaml", cwd=campaign).returncode == 130
    scripted(monkeypatch, lambda: None)
    done = cli("run", "kindness", cwd=campaign)
    assert "it will stop after round 0, as asked; to take that back: selfalign stop" in done.stderr
    assert done.returncode == 130 and "stopped after round 0, as asked" in done.stderr


def test_a_failing_trainer_is_told_in_its_own_words(campaign: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise WorkerDied("the trainer of round 0 ended with status 1\nlast lines of its log:\nout of memory")

    scripted(monkeypatch, fail)
    done = cli("run", "kindness.yaml", cwd=campaign)
    assert done.returncode == 3
    assert "error: the trainer of round 0 ended with status 1\n" in done.stderr
    assert "out of memory" in done.stderr
    assert "selfalign run kindness" in done.stderr
    assert "Traceback" not in done.stderr
    assert last_event(campaign) == "failed"
    status = cli("status", "kindness", cwd=campaign)
    assert "failed: WorkerDied" in status.stdout


def test_a_reward_model_that_is_not_to_be_followed_stops_with_4(
    campaign: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.scripted.write_rewards", lambda job: write_rewards(job, right=5))
    asked = ("--set", "train.reward_weight=true", "--set", "prompts.per_round=60")
    few = cli("run", "kindness.yaml", *asked, cwd=campaign)
    assert few.returncode == 2
    assert (
        "reward_model.holdout: holds out about 6 of a round's 60 prompts; a reward model is judged on 30" in few.stderr
    )
    done = cli("run", "kindness.yaml", *asked, "--set", "reward_model.holdout=0.5", cwd=campaign)
    assert done.returncode == 4, done.stderr
    assert "right on 50.0% of 40 held-out pairs (3" in done.stderr and "length alone on 50.0%; calib" in done.stderr
    assert ": NO-GO\n" in done.stderr and "stopped by the gate: no-go: held-out accuracy" in done.stderr
    assert "the policy stays: the base policy" in done.stderr
    pages = cli("report", "kindness", "--round", "0", cwd=campaign)
    assert pages.returncode == 0 and "rounds/000/report.html" in pages.stdout
    status = cli("status", "kindness", cwd=campaign)
    assert "stopped by a gate" in status.stdout and "NO-GO" in status.stdout


def test_each_display_tells_the_same_campaign(campaign: Path, cli: Cli) -> None:
    said = {}
    for name in ("plain", "log", "rich"):
        done = cli("run", "kindness.yaml", "--display", name, "--set", f"name={name}", cwd=campaign)
        assert done.returncode == 0, done.stderr
        said[name] = done.stderr
    assert "round 0  gate      accepted" in said["plain"]
    assert " gate round=0 accepted=true " in said["log"]
    assert "accepted" in said["rich"]
