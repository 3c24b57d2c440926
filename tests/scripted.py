"""A campaign without models: a policy that is kind with a certain skill, a judge that knows, a trainer that teaches.

The seam is `steps.Workers`. Everything else is the product's own: config, prompts, store, stages, campaign, report.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from selfalign import config
from selfalign.engines.base import (
    Choice,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    Rewarded,
    Sampling,
    Score,
    ScoreRequest,
)
from selfalign.records import Candidate, Pair, Prompt, Ranking, derived_seed
from selfalign.stages.examples import kind_of
from selfalign.stages.judge.replies import full_reply
from selfalign.steps import Answer, Work
from selfalign.store import Run, atomic_write, read_records
from selfalign.training.job import HeldOut, TrainJob

CONSTITUTION = """\
schema: selfalign.constitution/v1
name: kindness
version: 1.0.0
principles:
  - id: kind
    compare: Choose the kinder response.
"""
RESPONSES = re.compile(r"response A>\n(.*?)\n<\w+ response B>\n(.*?)\n<\w+ end>", re.DOTALL)
SIGN = re.compile(r'"id": "([0-9a-f]+)"')
RESPONSE = re.compile(r"response>\n(.*?)\n<\w+ end>", re.DOTALL)


def write_model(folder: Path, skill: float) -> None:
    """A folder that passes for a model: `skill` in [0, 1] is the share of its answers that are kind."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "config.json", json.dumps({"skill": skill}).encode())
    atomic_write(folder / "model.safetensors", f"weights {skill}".encode())


class KindEngine:
    """Serves a model folder made by `write_model`."""

    dtype = "float32"

    def __init__(self, model: str) -> None:
        self.skill = json.loads((Path(model) / "config.json").read_text())["skill"]

    def generate(self, requests: Iterable[GenerateRequest], sampling: Sampling) -> Iterator[Generation]:
        for request in requests:
            asked = request.messages[-1].content
            kind = "rewritten response alone" in asked or derived_seed("kind", request.seed) / 2**31 < self.skill
            text = f"{'kind' if kind else 'rude'} words number {request.seed % 50}"
            if sampling.schema:
                text = full_reply(SIGN.search(asked).group(1), "Kind words count.", "A")
            yield Generation(request.id, text, (1 + request.seed % 50, 2, 3, 4 + kind), "stop", -4.0, 5, (-1.0,) * 4)

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for request in requests:
            asked = request.messages[-1].content
            if len(request.labels) > 2:
                kind = RESPONSE.search(asked).group(1).startswith("kind")
                yield Choice(request.id, (0.0, 0.2, 0.0, 0.8, 0.0) if kind else (0.0, 0.8, 0.0, 0.2, 0.0), "", 5, 0.0)
                continue
            first, second = RESPONSES.search(asked).groups()
            lead = first.startswith("kind") - second.startswith("kind")
            p = 0.5 + 0.4 * lead
            yield Choice(request.id, (p, 1 - p), "", 5, 0.0)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Score]:
        for request in requests:
            yield Score(request.id, tuple(self.logprobs(request.token_ids)))

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        for request in requests:
            yield Rewarded(request.id, float(request.token_ids[-1] == 5))

    def logprobs(self, token_ids: Sequence[int]) -> list[float]:
        return [-1.0 - self.skill] * len(token_ids)

    def check_labels(self, labels: Sequence[str]) -> None:
        pass


class ScriptedWorkers:
    """`learns`: how much skill a round of training adds, if all chosen answers are kind."""

    def __init__(self, learns: float = 0.3, *, stale: bool = False) -> None:
        self.learns, self.stale = learns, stale
        self.served: list[str] = []
        self.jobs: list[TrainJob] = []
        self.reward_jobs: list[TrainJob] = []
        self.rollouts: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self.on_train: Callable[[], None] = lambda: None
        self._engine: KindEngine | None = None

    def engine(self, model: str, *, trust_remote_code: bool = False) -> KindEngine:
        self.served.append(model)
        if self._engine is None or not self.stale:
            self._engine = KindEngine(model)
        return self._engine

    def train(self, job: TrainJob, emit: Callable[..., None], answer: Answer | None = None) -> None:
        self.on_train()
        if job.algorithm == "reward_model":
            self.reward_jobs.append(job)
            write_rewards(job)
            return
        self.jobs.append(job)
        if answer is not None:
            self.learn_from_rollouts(job, emit, answer)
            return
        preferred = preferred_texts(job)
        share = sum(text.startswith("kind") for text in preferred) / len(preferred)
        before = KindEngine(job.policy_path)
        write_model(Path(job.output_dir), max(0.0, min(1.0, before.skill + self.learns * share)))
        emit("train_step", step=1, total=1, metrics={"loss": 0.6931, "rewards/margins": 0.0})
        write_probes(job, job.policy_path, job.output_dir)

    def learn_from_rollouts(self, job: TrainJob, emit: Callable[..., None], answer: Answer) -> None:
        """Every iteration adds a part of the skill; the weights on the way are proven to the engine as at the end."""
        model, skill = None, KindEngine(job.policy_path).skill
        skills = [skill]
        for iteration in range(job.ppo.iterations):
            reply = answer(iteration, model, [float(number) for number in range(iteration)])
            if reply["stop"] is not None:
                self.stopped, skill = reply["stop"], skills[reply["best"]]
                break
            self.rollouts.append(reply)
            write_metrics(job, iteration, emit)
            skill = min(1.0, max(0.0, skill + self.learns / job.ppo.iterations))
            skills.append(skill)
            before = model or job.policy_path
            model = str(Path(job.output_dir) / f"rollout-{iteration + 1}")
            write_model(Path(model), skill)
            write_probes(job, before, model)
        write_model(Path(job.output_dir), skill)
        write_probes(job, job.policy_path, job.output_dir)
        (Path(job.output_dir) / "training.json").write_text(json.dumps({"stopped": self.stopped}))
        shutil.rmtree(model)


def write_metrics(job: TrainJob, iteration: int, emit: Callable[..., None]) -> None:
    """One optimizer step an iteration, told and recorded as a trainer does."""
    metrics = {"loss": 0.1, "iteration": iteration, "objective/scores": 0.2 * iteration, "objective/kl": 1.5}
    metrics |= {"objective/rlhf_reward": 0.1 * iteration, "policy/approxkl": 0.01, "rollout/mean_tokens": 4.0}
    with (Path(job.output_dir) / "metrics.jsonl").open("a") as file:
        file.write(f"{json.dumps({'step': iteration + 1, **metrics})}\n")
    emit("train_step", step=iteration + 1, total=job.ppo.iterations, metrics=metrics)


def write_probes(job: TrainJob, before: str, after: str) -> None:
    said = {
        name: [KindEngine(model).logprobs(probe.token_ids) for probe in job.probes]
        for name, model in (("before", before), ("after", after))
    }
    atomic_write(Path(after) / "probes.json", json.dumps(said).encode())


def preferred_texts(job: TrainJob) -> list[str]:
    """The texts that a job would make more likely: chosen answers, the best of rankings, demonstrations."""
    texts = {c.id: c.text for c in records_in(job.candidates_dirs, Candidate)}
    golds = (prompt.gold() for prompt in records_in(job.prompts_dirs, Prompt))
    texts |= {gold.id: gold.text for gold in golds if gold is not None}
    kind = kind_of(job.algorithm)
    if kind == "demonstrations":
        return [c.text for c in records_in(job.examples_dirs, Candidate)]
    if kind == "rankings":
        return [texts[ranking.candidate_ids[0]] for ranking in records_in(job.examples_dirs, Ranking)]
    return [texts[pair.chosen_id] for pair in records_in(job.examples_dirs, Pair)]


def write_rewards(job: TrainJob, right: int = 9) -> None:
    """What a trainer of a reward model leaves: one that knows what is kind, right on `right` of 10 pairs."""
    write_model(Path(job.output_dir), 0.0)
    golds = [gold for prompt in records_in(job.prompts_dirs, Prompt) if (gold := prompt.gold()) is not None]
    answers = [*records_in(job.rewarded_dirs, Candidate), *golds]
    rewards = {answer.id: float(answer.text.startswith("kind")) for answer in answers}
    rewards_of_chosen = ([1.0] * right + [-1.0] * (10 - right)) * 4
    names, labels, lengths = [f"prompt {i}" for i in range(40)], [0.9] * 40, [1, -1] * 20
    held = HeldOut(
        prompt_ids=names, chosen=rewards_of_chosen, rejected=[0.0] * 40, p_chosen=labels, lengths=lengths,
        trained_p_chosen=labels, trained_lengths=lengths,
    )  # fmt: skip
    atomic_write(Path(job.output_dir) / "rewards.json", json.dumps(rewards).encode())
    atomic_write(Path(job.output_dir) / "heldout.json", msgspec.json.encode(held))


def records_in(folders: Iterable[str], record_type: type) -> list[Any]:
    return [record for folder in folders for record in read_records(Path(folder), record_type)]


def write_campaign(folder: Path, **overrides: Any) -> config.Campaign:
    """A small campaign's files in `folder`, and its settings. Overrides are given as section__key."""
    write_model(folder / "base", 0.4)
    (folder / "constitution.yaml").write_text(CONSTITUTION)
    for split, count in (("train", 60), ("heldout", 24)):
        rows = (json.dumps({"prompt": f"{split} question {i}", "response": f"kind gold {i}"}) for i in range(count))
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    settings = {
        "name": "kindness", "rounds": 2, "constitution": str(folder / "constitution.yaml"),
        "policy.model": str(folder / "base"), "judge.model": "base",
        "prompts.train": str(folder / "train.jsonl"), "prompts.heldout": str(folder / "heldout.jsonl"),
        "prompts.per_round": 20, "generate.shard_prompts": 8, "generate.samples": 3, "evaluate.prompts": 24,
        "accept.win_rate_lower_bound": "null", "accept.max_kl": "null",
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }  # fmt: skip
    return config.load(None, None, [f"{name}={value}" for name, value in settings.items()], {}).campaign


def start(folder: Path, settings: config.Campaign, workers: ScriptedWorkers) -> Work:
    """Open the run of these settings, or make it."""
    path = folder / "run"
    run = Run.open(path) if (path / "campaign.yaml").exists() else Run.create(path, config.to_yaml(settings))
    return Work(run, settings, workers)
