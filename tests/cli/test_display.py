"""The faces over one recorded stream of events, and what they say of time."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from selfalign.cli.display import Follower, LogDisplay, PlainDisplay, follow, open_display
from selfalign.cli.live import render
from selfalign.config import Campaign, Phase
from selfalign.progress import Progress, works_of
from selfalign.text import one_line
from selfalign.units import clock, duration, size, sparkline
from selfalign.words import metrics_text
from tests.cli.events import stream

PLAIN = """\
campaign: 3 rounds
base     generate  128 candidates  (5.6 s)
round 0  prompts   256 prompts  (0.2 s)
round 0  generate  96/256 prompts  38%  7.8/s  20 s left
round 0  generate  192/256 prompts  75%  7.8/s  8.2 s left
round 0  generate  1,024 candidates, 31 duplicates  (33 s)
round 0  judge     1,500/6,000 judgments  25%  119/s  38 s left
round 0  judge     3,000/6,000 judgments  50%  119/s  25 s left
round 0  judge     4,500/6,000 judgments  75%  119/s  13 s left
round 0  judge     6,000/6,000 judgments  100%  119/s  0.0 s left
round 0  judge     6,000 judgments, 12 invalid  (50 s)
round 0  pairs     201 pairs, discarded: 41 small margin, 14 tie  (0.4 s)
round 0  train     10/40 steps  25%  0.9/s  loss 0.603  accuracy 0.600  margin 0.200  33 s left
"""


def progress_after(count: int) -> Progress:
    progress = Progress()
    for event in list(stream())[:count]:
        progress.handle(event)
    return progress


def test_plain_lines() -> None:
    out = io.StringIO()
    display = PlainDisplay(out)
    for event in stream():
        display.handle(event)
    printed = out.getvalue()
    assert printed.startswith(PLAIN)
    assert "round 1  judge     reused 4,120 of 6,000 judgments\n" in printed
    assert "round 0  reload    the engine holds the new weights (log-prob difference 0.0004, bound 0.02)\n" in printed
    assert "round 0  gate      accepted: win rate 0.61 (0.55 to 0.67) against the previous policy\n" in printed
    assert printed.endswith("warning: chosen rewards fall while the margin rises [/INST] [bold]not markup[/] txt\n")


def test_log_has_one_ascii_line_an_event() -> None:
    out = io.StringIO()
    display = LogDisplay(out)
    events = list(stream())
    for event in events:
        display.handle(event)
    lines = out.getvalue().splitlines()
    assert len(lines) == len(events)
    assert lines[0] == "2023-11-14T22:13:20Z campaign_started rounds=3"
    assert out.getvalue().isascii()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_live_screen_fits_and_says_what_matters(width: int) -> None:
    progress = progress_after(10_000)
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, markup=False)
    console.print(render(progress, "selfalign run pocket", progress.last_time + 1))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= 24
    text = "\n".join(lines)
    for said in (
        "running",
        "left",
        "✓ accepted",
        "round 1 · train",
        "23/40 steps",
        "loss 0.486",
        "warning: chosen rewards",
    ):
        assert said in text


def test_live_screen_says_what_it_waits_for() -> None:
    started = next(e for e in stream() if e["event"] == "stage_started" and e["stage"] == "judge" and e["round"] == 0)
    progress = Progress.of([{"event": "campaign_started", "time": started["time"], "rounds": 3}, started])
    out = io.StringIO()
    Console(file=out, width=120, markup=False).print(render(progress, "x", started["time"] + 7))
    assert "loading models, 7.0 s so far" in out.getvalue()


def test_live_screen_needs_no_unicode() -> None:
    out = io.StringIO()
    progress = progress_after(10_000)
    progress.warnings.clear()
    Console(file=out, width=100, markup=False).print(render(progress, "x", progress.last_time, unicode=False))
    assert set("▁█✓▸") & set(out.getvalue()) == set()


def test_rate_leaves_reused_work_out() -> None:
    events = [event for event in stream() if event.get("stage") == "judge" and event.get("round") == 1]
    progress = Progress()
    for event in events[:5]:
        progress.handle(event)
    stage = progress.current
    assert (stage.reused, stage.done) == (4120, 5060)
    assert stage.rate(stage.updated) == pytest.approx(940 / (4 * 6.3))
    assert stage.eta(stage.updated) == pytest.approx(940 / (940 / (4 * 6.3)))


def test_campaign_eta_comes_from_earlier_rounds() -> None:
    events = list(stream())
    start_of_round_1 = next(
        i for i, event in enumerate(events) if event["event"] == "round_started" and event["round"] == 1
    )
    before, after = progress_after(start_of_round_1 - 40), progress_after(start_of_round_1 + 1)
    assert before.campaign_eta(before.last_time) is None
    seconds = {name: stage.seconds for (round, name), stage in after.stages.items() if round == 0}
    assert after.campaign_eta(after.last_time) == pytest.approx(2 * sum(seconds.values()))


def one_round(number: int, seconds: dict[str, float]) -> list[dict]:
    """The events of a whole round, its stages one after the other from `number` x 1000 on."""
    time, events = 1000.0 * number, [{"event": "round_started", "round": number}]
    for stage, taken in seconds.items():
        where = {"round": number, "stage": stage, "step": stage}
        events += [{"event": "stage_started", **where, "total": 1}, {"event": "stage_done", **where, "seconds": taken}]
    return [{"time": time, **event} for event in (*events, {"event": "round_done", "round": number})]


def test_the_time_left_comes_from_rounds_that_do_the_same() -> None:
    campaign = Campaign(
        rounds=4, bootstrap="critique-revision", schedule=(Phase(rounds=3), Phase(rounds=1, pairs={"strategy": "spin"}))
    )
    works = works_of(campaign)
    assert works == ["revise", "judge", "judge", "judge", "sample"]
    start = {"time": 0.0, "event": "campaign_started", "rounds": 5}
    bootstrap = one_round(0, {"generate": 5.0, "revise": 50.0, "train": 10.0, "evaluate": 5.0})
    usual = one_round(1, {"generate": 20.0, "judge": 30.0, "pairs": 1.0, "train": 40.0, "evaluate": 5.0})
    progress = Progress.of([start, *bootstrap, *usual], works)
    assert progress.usual_seconds(2) == {"generate": 20.0, "judge": 30.0, "pairs": 1.0, "train": 40.0, "evaluate": 5.0}
    assert progress.usual_seconds(4) is None
    assert progress.campaign_eta(2000.0) is None
    assert progress.eta_known_after() == 4
    progress = Progress.of([{**start, "rounds": 4}, *bootstrap, *usual], works[:4])
    assert progress.campaign_eta(2000.0) == 2 * 96.0
    progress.handle({"time": 2000.0, "event": "round_started", "round": 2})
    assert progress.campaign_eta(2000.0) == 2 * 96.0


def test_a_round_of_ppo_takes_a_time_of_its_own() -> None:
    schedule = (Phase(rounds=1), Phase(rounds=1, train={"algorithm": "ppo"}))
    before, after = works_of(Campaign(rounds=2, schedule=schedule))
    assert before != after


def test_the_live_screen_has_a_column_for_revisions_where_there_are_some() -> None:
    out = io.StringIO()
    events = [{"time": 0.0, "event": "campaign_started", "rounds": 2}, *one_round(0, {"revise": 50.0})]
    Console(file=out, width=80, markup=False).print(render(Progress.of(events, ["revise", "judge"]), "x", 60.0))
    assert out.getvalue().splitlines()[0].endswith("time left: known after round 1")
    assert out.getvalue().splitlines()[2].split()[:4] == ["round", "prompts", "generate", "revise"]
    progress = progress_after(10_000)
    out = io.StringIO()
    Console(file=out, width=80, markup=False).print(render(progress, "x", progress.last_time))
    assert "revise" not in out.getvalue()


@pytest.mark.parametrize(
    ("stage", "step", "line"),
    [
        ("revise", "rounds/000/steps/2/revisions", "round 0  revise    step 2: 20 answers  (2.0 s)"),
        ("pairs", "rounds/000/replay/pairs", "round 0  pairs     replayed: 20 answers  (2.0 s)"),
        ("reward", "rounds/000/rewards", "round 0  reward    rewards: 20 answers  (2.0 s)"),
        ("pairs", "rounds/000/rankings", "round 0  pairs     20 answers  (2.0 s)"),
    ],
)
def test_a_finished_step_is_named_where_its_stage_has_several(stage: str, step: str, line: str) -> None:
    out = io.StringIO()
    display = PlainDisplay(out)
    where = {"time": 0.0, "round": 0, "stage": stage, "step": step}
    display.handle({**where, "event": "stage_started", "total": 1})
    display.handle({**where, "event": "stage_done", "seconds": 2.0, "counts": {"answers": 20}})
    assert out.getvalue() == line + "\n"


def test_steps_of_a_reward_model_are_not_the_policys() -> None:
    progress = Progress()
    for event in (
        {"event": "stage_started", "stage": "reward", "step": "rounds/000/reward_model", "unit": "steps"},
        {"event": "train_step", "step": 3, "total": 9, "metrics": {"loss": 0.6}},
    ):
        progress.handle({"time": 0.0, "round": 0, **event})
    assert (progress.current.done, progress.current.total, progress.current.metrics) == (3, 9, {"loss": 0.6})
    assert progress.train_history == {}
    out = io.StringIO()
    Console(file=out, width=100, markup=False).print(render(progress, "x", 1.0))
    assert "round 0 · reward" in out.getvalue()
    assert "loss 0.600" in out.getvalue()
    display = PlainDisplay(out)
    display.handle({"time": 0.0, "event": "reward_model", "round": 0, "accuracy": 0.825, "pairs": 40})
    assert out.getvalue().endswith("round 0  reward    the reward model is right on 82.5% of 40 held-out pairs\n")
    found = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "baseline": 0.52, "ece": 0.1234, "pairs": 40, "go": False}
    display.handle({"time": 0.0, "event": "reward_model", "round": 0, **found})
    words = "(40.0% to 60.0%), length alone on 52.0%; calibration error 0.123: NO-GO\n"
    assert out.getvalue().endswith(words)
    gold = {"gold": 0.75, "gold_low": 0.6, "gold_high": 0.86}
    display.handle({"time": 0.0, "event": "reward_model", "round": 0, **found, **gold})
    assert "; gold answers above 75.0% of sampled ones (60.0% to 86.0%): NO-GO\n" in out.getvalue()
    progress.handle({"time": 0.0, "event": "reward_model", "round": 0, **found})
    out = io.StringIO()
    Console(file=out, width=200, markup=False).print(render(progress, "x", 1.0))
    assert "round 0 the reward model is right on 50.0% of 40" in out.getvalue() and "NO-GO" in out.getvalue()


def test_a_look_of_the_guard_is_told_beside_the_best_so_far() -> None:
    out, progress = io.StringIO(), Progress()
    display = PlainDisplay(out, progress)
    look = {"time": 0.0, "event": "guard", "round": 0, "win_rate": {"mean": 0.6, "low": 0.55, "high": 0.65}}
    display.handle({**look, "iteration": 4, "best": 4})
    assert out.getvalue() == (
        "round 0  guard     iteration 4: held-out win rate 0.600 (0.550 to 0.650) against the base, the best so far\n"
    )
    display.handle({**look, "iteration": 8, "best": 4})
    assert out.getvalue().endswith("against the base; iteration 4 is the best so far\n")
    display.handle({"time": 0.0, "event": "guard", "round": 0, "win_rate": "?"})
    assert out.getvalue().endswith("round 0  guard     the held-out judge has looked\n")
    progress.handle({**look, "iteration": 8, "best": 4})
    out = io.StringIO()
    Console(file=out, width=200, markup=False).print(render(progress, "x", 1.0))
    assert "round 0 iteration 8: held-out win rate 0.600" in out.getvalue()


def on_rollouts(iterations: int) -> list[dict]:
    """The events of training on rollouts: 20 seconds for rollouts, then four steps of a second each."""
    events = [{"time": 0.0, "event": "stage_started", "stage": "train", "step": "rounds/000/policy"}]
    for step in range(4 * iterations):
        iteration, inner = divmod(step, 4)
        found = {"loss": 0.1 * inner, "objective/scores": 0.5 * iteration, "objective/kl": 2.0, "iteration": iteration}
        time = 24.0 * iteration + 20.0 + inner
        events.append({"time": time, "event": "train_step", "step": step + 1, "total": 40, "metrics": found})
    return [{"round": 0, **event} for event in events]


def test_only_whole_iterations_tell_how_fast_training_on_rollouts_is() -> None:
    progress = Progress.of(on_rollouts(1))
    assert progress.current.rate(23.0) is None and progress.current.eta(23.0) is None
    progress = Progress.of(on_rollouts(3))
    assert (progress.current.done, progress.current.total) == (12, 40)
    assert progress.current.rate(71.0) == pytest.approx(4 / 24)
    assert progress.current.eta(71.0) == pytest.approx(28 * 6)
    resumed = Progress.of([*on_rollouts(1), *({**event, "time": event["time"] + 500} for event in on_rollouts(1))])
    assert resumed.current.rate(525.0) is None


def test_training_on_rollouts_shows_iteration_score_and_kl() -> None:
    progress, out = Progress.of(on_rollouts(3)), io.StringIO()
    assert [metrics["iteration"] for metrics in progress.train_history[0]] == [0, 1, 2]
    Console(file=out, width=100, markup=False).print(render(progress, "x", 71.0))
    assert "iteration 2  score 1.000  KL 2.000  ▁▅█" in out.getvalue()
    assert "loss" not in out.getvalue()
    out = io.StringIO()
    display = PlainDisplay(out)
    for event in on_rollouts(2):
        display.handle(event)
    lines = out.getvalue().splitlines()
    assert lines[0] == "round 0  train     1/40 steps  2%  iteration 0  score 0.000  KL 2.000"
    assert lines[1] == "round 0  train     5/40 steps  12%  10.0/min  iteration 1  score 0.500  KL 2.000  3:30 min left"


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"loss": 0.5, "rewards/accuracies": 0.6, "rewards/margins": 0.1}, "loss 0.500  accuracy 0.600  margin 0.100"),
        ({"loss": 0.5, "rewards/margins": 0.1, "logps/chosen": -9.0, "shift": 0.0}, "loss 0.500  margin 0.100"),
        ({"loss": 0.5, "logps/chosen": -9.0}, "loss 0.500  log-prob -9.000"),
        (
            {"loss": 0.5, "iteration": 3, "objective/scores": 0.25, "objective/kl": 1.5, "objective/entropy": 9.0},
            "iteration 3  score 0.250  KL 1.500",
        ),
        ({"iteration": 3}, "iteration 3"),
    ],
)
def test_metrics_of_any_algorithm_in_words(metrics: dict, words: str) -> None:
    assert metrics_text(metrics) == words


def test_elapsed_leaves_out_the_time_between_sessions() -> None:
    progress = Progress()
    for time, event in (
        (0, "campaign_started"),
        (10, "interrupted"),
        (1000, "campaign_started"),
        (1005, "campaign_done"),
    ):
        progress.handle({"time": time, "event": event})
    assert progress.elapsed() == 15
    assert progress.state == "done"


def test_a_stage_of_several_steps_adds_their_seconds() -> None:
    progress = Progress()
    for step, seconds in (("a", 2.0), ("b", 3.0)):
        where = {"time": 0, "round": 0, "stage": "evaluate", "step": step}
        progress.handle({**where, "event": "stage_started", "total": 1})
        progress.handle({**where, "event": "stage_done", "seconds": seconds, "counts": {}})
    assert progress.stages[0, "evaluate"].seconds == 5.0


def test_unknown_events_and_missing_fields_are_passed_over() -> None:
    progress, display = Progress(), PlainDisplay(io.StringIO())
    names = [name.removeprefix("_on_") for name in dir(Progress) if name.startswith("_on_")]
    for name in (*names, "of a later version"):
        progress.handle({"event": name})
        display.handle({"event": name})
    assert progress.state == "interrupted" or progress.state


def test_follower_delivers_all_that_was_written_and_skips_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "campaign_started", "rounds": 1, "time": 1}\n')
    out = io.StringIO()
    with Follower(path, PlainDisplay(out)), path.open("a") as file:
        file.write('{"event": "warning", "message": "one", "time"')
        file.flush()
        file.write(': 2}\n{"torn\n[1]\n{"event": "warning", "message": "two", "time": 3}\n')
    assert out.getvalue() == "warning: one\nwarning: two\n"


def test_follow_reads_what_was_there_before_stop(tmp_path: Path) -> None:
    path, stop = tmp_path / "events.jsonl", threading.Event()
    stop.set()
    assert list(follow(path, stop)) == []
    path.write_text('{"event": "a"}\n{"event": "b"}\n{"event": "c"')
    assert [event["event"] for event in follow(path, stop)] == ["a", "b"]


def test_a_pipe_and_no_color_get_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_display(None, "x"), PlainDisplay)  # the tests' stderr is no terminal
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(open_display(None, "x"), PlainDisplay)


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [(0.04, "0.0 s", "0.0s"), (9.96, "10.0 s", "10.0s"), (59.6, "1:00 min", "1:00"), (245, "4:05 min", "4:05"),
     (7620, "2 h 07 m", "2h07"), (273600, "3 d 4 h", "76h00")],
)  # fmt: skip
def test_durations(seconds: float, long: str, short: str) -> None:
    assert (duration(seconds), clock(seconds)) == (long, short)


def test_small_printers() -> None:
    assert duration(None) == "–"
    assert size(1536) == "1.5 KiB"
    assert sparkline([1.0, None, 3.0]) == "▁ █"
    assert sparkline([2.0, 2.0], unicode=False) == "__"
    assert sparkline([]) == ""
    assert one_line("a\n b\x1b[31m", 3) == "a b"
    assert one_line("abcdef", 3) == "ab…"


def test_how_a_judge_took_canaries_is_told() -> None:
    out, progress = io.StringIO(), Progress()
    display = PlainDisplay(out, progress)
    event = {"time": 0.0, "event": "canaries", "round": 0, "rate": 0.125, "low": 0.05, "high": 0.25, "comparisons": 48}
    for found in ({**event, "go": True}, {**event, "go": False}, {"event": "canaries", "round": 1, "rate": "x"}):
        display.handle(found)
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("canaries win 12.5% of 48 comparisons (5.0% to 25.0%)")
    assert lines[1].endswith("NO-GO") and lines[2].endswith("canaries were judged")
    out = io.StringIO()
    Console(file=out, width=100, markup=False).print(render(progress, "run", 0.0))
    assert "round 1 canaries were judged" in out.getvalue()
