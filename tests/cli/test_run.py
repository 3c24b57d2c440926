"""Signals, locks and stops: what `run`, `status` and `stop` do with a live writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfalign.cli.errors import CommandError
from selfalign.cli.run import resume_command, signals
from selfalign.cli.targets import check_name, find_campaign, hold_to_frozen
from tests.cli.conftest import REPOSITORY, Cli, environment
from tests.cli.fabricate import make_run

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
