"""What a stream of events says about a campaign: where it stands, how fast it goes, how long it will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from selfalign.config import Campaign, in_round
from selfalign.objective import judge_rewards, needs_rewards
from selfalign.store import Holder

STAGES = ("prompts", "generate", "revise", "judge", "pairs", "reward", "train", "evaluate")
OPTIONAL = ("revise", "reward")  # stages that only some campaigns have
RECENT_EVENTS = 5
STALL_FLOOR = 300.0  # seconds without an event; loading a large model may take that long
STALL_FACTOR = 5.0  # times the longest pause so far


@dataclass(slots=True)
class StageProgress:
    """One stage of one round. `reused` units were durable before this session began; rates leave them out."""

    round: int | None
    name: str
    started: float
    total: int = 0
    unit: str = ""
    done: int = 0
    reused: int = 0
    seconds: float | None = None  # when finished; summed over the steps of the stage
    skipped: bool = False
    counts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    updated: float = 0.0
    first: tuple[float, int] | None = None  # when this session's first units were done, and how many then were
    lap: tuple[float, int] | None = None  # the same of the latest iteration, where steps come in iterations
    steps: dict[str, float] = field(default_factory=dict)  # finished steps of the stage and their seconds

    @property
    def finished(self) -> bool:
        return self.skipped or self.seconds is not None

    @property
    def fraction(self) -> float:
        if self.finished:
            return 1.0
        return min(1.0, self.done / self.total) if self.total else 0.0

    def rate(self, now: float) -> float | None:
        """Units per second since the first of this session, without the time in which models load; None before.

        Steps that wait for rollouts come in bursts, so that only whole iterations tell their rate.
        """
        if self.first is None:
            return None
        until, done = self.lap or (max(self.updated, now), self.done)
        fresh, elapsed = done - self.first[1], until - self.first[0]
        return fresh / elapsed if fresh > 0 and elapsed > 0 else None

    def advance(self, done: int, time: float) -> None:
        """`done` units are finished at `time`."""
        self.done, self.updated = done, time
        if self.first is None:
            self.first = (time, done)

    def eta(self, now: float) -> float | None:
        """Seconds left in the stage, or None where nothing tells."""
        rate = self.rate(now)
        if self.finished:
            return 0.0
        return max(0.0, (self.total - self.done) / rate) if rate and self.total else None


def works_of(campaign: Campaign) -> list[str]:
    """A word for what each round does, the same for rounds that will take about the same time."""

    def work(number: int) -> str:
        settings = in_round(campaign, number)
        if number < campaign.first_round:
            return "revise"
        if settings.train.algorithm == "sft":
            return "learn"
        if settings.train.algorithm == "ppo":
            judged = judge_rewards(settings.train, settings.ppo)
            return "roll out and judge" if judged else "judge, reward and roll out"
        spin = settings.train.algorithm == "dpo" and settings.pairs.strategy == "spin"
        return "sample" if spin else "judge and reward" if needs_rewards(settings.train, settings.ppo) else "judge"

    return [work(number) for number in range(campaign.num_rounds)]


class Progress:
    """Folds the events of a run, in order, into where the campaign stands. Every face reads this one object.

    `works` has a word for what each round does (see `works_of`); without it all rounds are taken to do the same.
    """

    def __init__(self, works: Sequence[str] = ()) -> None:
        self.works = works
        self.name = ""
        self.rounds: int | None = None
        self.round: int | None = None
        self.state = "not started"  # running | done | interrupted | stopped as asked | failed | stopped by a gate
        self.stages: dict[tuple[int | None, str], StageProgress] = {}
        self.current: StageProgress | None = None
        self.gates: dict[int, Mapping[str, Any]] = {}
        self.proofs: dict[int, Mapping[str, Any]] = {}
        self.reward_models: dict[int, Mapping[str, Any]] = {}
        self.looks: dict[int, Mapping[str, Any]] = {}  # by round the last one of PPO's guard
        self.canaries: dict[int, Mapping[str, Any]] = {}
        self.train_history: dict[int, deque[Mapping[str, Any]]] = {}  # of steps, or the first steps of iterations
        self.finished_rounds: set[int] = set()
        self.warnings: list[str] = []
        self.failure = ""
        self.last_time: float | None = None
        self.longest_pause = 0.0  # seconds between two events of one session
        self.recent: deque[Mapping[str, Any]] = deque(maxlen=RECENT_EVENTS)
        self._sessions: list[list[float]] = []
        self._skipped: set[tuple[int | None, str, str]] = set()
        self._resumed: list[StageProgress] = []

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event. Unknown events and missing fields are passed over: a newer writer must not break a reader."""
        time = float(event.get("time") or 0.0)
        if self.last_time is not None and event.get("event") != "campaign_started":
            self.longest_pause = max(self.longest_pause, time - self.last_time)
        self.last_time = time
        self.recent.append(event)
        if self._sessions and event.get("event") != "campaign_started":
            self._sessions[-1][1] = time
        method = getattr(self, f"_on_{event.get('event')}", None)
        if method is not None:
            method(event, time)

    @staticmethod
    def of(events: Iterable[Mapping[str, Any]], works: Sequence[str] = ()) -> Progress:
        """The progress that a run's events so far amount to."""
        progress = Progress(works)
        for event in events:
            progress.handle(event)
        return progress

    def state_of(self, holder: Holder | None, now: float) -> str:
        """In words, as a reader sees the run: running, stalled (alive but silent for long), dead (died while running),
        or how it ended. `holder` is who writes to it at this moment.
        """
        if holder is None:
            return "dead" if self.state == "running" else self.state
        silence = now - (self.last_time or now)
        return "stalled" if silence > max(STALL_FLOOR, STALL_FACTOR * self.longest_pause) else "running"

    def in_training(self, round: Any) -> StageProgress | None:
        """The stage that a training step of a round belongs to: that of its reward model, or of its policy."""
        rewarding = self.current is not None and (self.current.round, self.current.name) == (round, "reward")
        return self.current if rewarding else self.stages.get((round, "train"))

    def elapsed(self, now: float | None = None) -> float:
        """Seconds in which a writer was at work, over all sessions of the run."""
        total = sum(end - start for start, end in self._sessions)
        if now is not None and self.state == "running" and self._sessions:
            total += max(0.0, now - self._sessions[-1][1])
        return total

    def usual_seconds(self, round: int) -> dict[str, float] | None:
        """Mean seconds by stage of the finished rounds that do what this one does; None where nothing tells."""
        alike = [other for other in self.finished_rounds if self._work_of(other) == self._work_of(round)]
        found: dict[str, list[float]] = {name: [] for other, name in self.stages if other in alike}
        for (other, name), stage in self.stages.items():
            if other in alike and stage.seconds is not None and not stage.reused:
                found[name].append(stage.seconds)
        return {name: fmean(seconds) for name, seconds in found.items()} if found and all(found.values()) else None

    def campaign_eta(self, now: float) -> float | None:
        """Seconds to the end of the last round, by the times of earlier rounds like those to come; None without any."""
        if self.rounds is None or self.round is None:
            return None
        later = [self.usual_seconds(number) for number in range(self.round + 1, self.rounds)]
        left = 0.0 if self.round in self.finished_rounds else self._left_in_round(now)
        if left is None or any(usual is None for usual in later):
            return None
        return left + sum(sum(usual.values()) for usual in later if usual is not None)

    def eta_known_after(self) -> int:
        """The round after which the times of all kinds of rounds will be known."""
        kinds = [self._work_of(number) for number in range(self.rounds or 0)]
        return max((kinds.index(kind) for kind in kinds), default=0)

    def reused_stages(self) -> int:
        """How many steps of this session were found finished."""
        return len(self._skipped)

    def reused_parts(self) -> list[StageProgress]:
        """The stages of this session that found a part of their work done."""
        return list(self._resumed)

    def _work_of(self, round: int) -> str:
        return self.works[round] if round < len(self.works) else ""

    def _left_in_round(self, now: float) -> float | None:
        """Seconds to the end of the round in hand; without a like before it, only its last stage can tell."""
        usual, current = self.usual_seconds(self.round), self.current
        if usual is None:
            last = current is not None and current.round == self.round and current.name == STAGES[-1]
            return current.eta(now) if last else None
        pending = [stage for stage in usual if not self._finished(self.round, stage)]
        return sum(self._left(stage, usual[stage], now) for stage in pending)

    def _left(self, stage: str, expected: float, now: float) -> float:
        current = self.current
        if current is None or current.name != stage or current.round != self.round:
            return expected
        spent = sum(current.steps.values()) + now - current.started
        return max(current.eta(now) or 0.0, expected - spent)

    def _finished(self, round: int | None, stage: str) -> bool:
        progress = self.stages.get((round, stage))
        return round in self.finished_rounds or (progress is not None and progress.finished)

    def _on_campaign_started(self, event: Mapping[str, Any], time: float) -> None:
        self.rounds = event.get("rounds", self.rounds)
        self.name = str(event.get("name", self.name))
        self.state, self.failure = "running", ""
        self._sessions.append([time, time])
        self.warnings.clear()
        self._skipped.clear()
        self._resumed.clear()

    def _on_round_started(self, event: Mapping[str, Any], time: float) -> None:
        self.round = event.get("round")

    def _on_stage_started(self, event: Mapping[str, Any], time: float) -> None:
        reused = int(event.get("reused") or event.get("done") or 0)
        stage = StageProgress(
            event.get("round"),
            str(event.get("stage")),
            time,
            total=int(event.get("total") or 0),
            unit=str(event.get("unit") or ""),
            done=reused,
            reused=reused,
            updated=time,
        )
        if (before := self.stages.get((stage.round, stage.name))) is not None:
            stage.steps = before.steps  # a stage of several steps, as the evaluation is
        self.stages[stage.round, stage.name] = self.current = stage
        if reused:
            self._resumed.append(stage)

    def _on_progress(self, event: Mapping[str, Any], time: float) -> None:
        stage = self.stages.get((event.get("round"), str(event.get("stage"))))
        if stage is not None:
            stage.advance(int(event.get("done") or 0), time)
            stage.total = int(event.get("total") or stage.total)
            stage.unit = str(event.get("unit") or stage.unit)

    def _on_stage_done(self, event: Mapping[str, Any], time: float) -> None:
        key = (event.get("round"), str(event.get("stage")))
        stage = self.stages.setdefault(key, StageProgress(key[0], key[1], time))
        stage.steps[str(event.get("step", ""))] = float(event.get("seconds") or 0.0)
        stage.seconds = sum(stage.steps.values())
        stage.counts = event.get("counts") or {}
        stage.done, stage.updated = stage.total, time

    def _on_stage_skipped(self, event: Mapping[str, Any], time: float) -> None:
        key = (event.get("round"), str(event.get("stage")))
        before = self.stages.get(key)
        if before is None or not before.finished:
            self.stages[key] = StageProgress(key[0], key[1], time, skipped=True, counts=event.get("counts") or {})
        self._skipped.add((*key, str(event.get("step", ""))))

    def _on_train_step(self, event: Mapping[str, Any], time: float) -> None:
        round = event.get("round")
        stage = self.in_training(round)
        metrics = event.get("metrics") or {}
        if stage is None:
            return
        begins = metrics.get("iteration") != stage.metrics.get("iteration")
        if isinstance(round, int) and stage.name == "train" and (begins or "iteration" not in metrics):
            self.train_history.setdefault(round, deque(maxlen=200)).append(metrics)
        stage.total, stage.unit, stage.metrics = int(event.get("total") or stage.total), "steps", metrics
        stage.advance(int(event.get("step") or 0), time)
        if begins:
            stage.lap = (time, stage.done)

    def _on_proof(self, event: Mapping[str, Any], time: float) -> None:
        if isinstance(event.get("round"), int):
            self.proofs[event["round"]] = event

    def _on_reward_model(self, event: Mapping[str, Any], time: float) -> None:
        if isinstance(event.get("round"), int):
            self.reward_models[event["round"]] = event

    def _on_guard(self, event: Mapping[str, Any], time: float) -> None:
        if isinstance(event.get("round"), int):
            self.looks[event["round"]] = event

    def _on_canaries(self, event: Mapping[str, Any], time: float) -> None:
        if isinstance(event.get("round"), int):
            self.canaries[event["round"]] = event

    def _on_warning(self, event: Mapping[str, Any], time: float) -> None:
        self.warnings.append(str(event.get("message")))

    def _on_gate(self, event: Mapping[str, Any], time: float) -> None:
        if isinstance(event.get("round"), int):
            self.gates[event["round"]] = event
        if not event.get("accepted", True):
            self.state = "stopped by a gate"

    def _on_round_done(self, event: Mapping[str, Any], time: float) -> None:
        if isinstance(event.get("round"), int):
            self.finished_rounds.add(event["round"])

    def _on_campaign_done(self, event: Mapping[str, Any], time: float) -> None:
        self.state, self.current = "done" if self.state == "running" else self.state, None

    def _on_campaign_stopped(self, event: Mapping[str, Any], time: float) -> None:
        self.state, self.current = "stopped by a gate", None

    def _on_interrupted(self, event: Mapping[str, Any], time: float) -> None:
        self.state = "interrupted"

    def _on_stopped_after_round(self, event: Mapping[str, Any], time: float) -> None:
        self.state, self.current = "stopped as asked", None

    def _on_failed(self, event: Mapping[str, Any], time: float) -> None:
        self.state, self.failure = "failed", str(event.get("message"))
