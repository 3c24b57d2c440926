"""What a campaign will take: counted where it can be, measured by a probe where it may be, and said to be rough."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from selfalign import resources
from selfalign.cli.doctor import total_memory
from selfalign.cli.models import ModelSize, read_size, token_counter
from selfalign.config import Campaign
from selfalign.constitution import Constitution
from selfalign.engines.base import ChoiceRequest, GenerateRequest, Sampling
from selfalign.records import Message, Prompt
from selfalign.stages.judge import render_pairwise, render_pointwise

if TYPE_CHECKING:
    from selfalign.launch.local import LocalWorkers

SAMPLE = 200  # prompts whose tokens are counted
PROBE_REQUESTS = 64
BYTES_PER_TOKEN_STORED = 12  # a token id and its share of the text, compressed
BYTES_PER_JUDGMENT = 120
STATE_BYTES = 16  # of training all weights: weight, gradient and two moments of Adam, in float32
PLACEHOLDERS = ("The first response stands here.", "The second response stands here.")


@dataclass(frozen=True)
class Workload:
    """How much a campaign does. The counts are exact upper bounds; tokens are bounds where `exact_tokens` is false."""

    rounds: int
    prompts: int
    candidates: int
    judgments: int
    pairs: int
    heldout: int
    heldout_judgments: int
    prompt_tokens: float
    judge_tokens: float  # of one judge prompt with full-length answers, at most
    exact_tokens: bool

    @property
    def num_answers(self) -> int:
        """Answers to be sampled in a campaign, the baseline's with them."""
        return self.rounds * (self.candidates + self.heldout) + self.heldout


def count_work(
    campaign: Campaign, train: Sequence[Prompt], heldout: Sequence[Prompt], constitution: Constitution
) -> Workload:
    """Count what a campaign does, by its settings and prompts."""
    generate, judge = campaign.generate, campaign.judge
    num_prompts = campaign.prompts.per_round or len(train)
    num_heldout = min(campaign.evaluate.prompts, len(heldout)) if heldout else campaign.evaluate.prompts
    k = generate.samples
    panel = len(constitution.active) if judge.principles == "all" else 1
    comparisons = k if judge.comparisons == "ring" and k > 3 else k * (k - 1) // 2
    orders = 2 if judge.both_orders else 1
    pairwise = judge.method == "pairwise-logprob"
    count, exact = token_counter(_folder(campaign.policy.model))
    sample = list(train[:SAMPLE])
    prompt_tokens = fmean(sum(count(m.content) for m in p.messages) for p in sample) if sample else 0.0
    rendered = [count(render_example(campaign, constitution, prompt)) for prompt in sample[:20]]
    answers = (2 if pairwise else 1) * generate.max_tokens
    per_prompt = {"best-worst": 1, "best-random": 1, "random": campaign.pairs.max_per_prompt or 1}
    return Workload(
        rounds=campaign.rounds,
        prompts=num_prompts,
        candidates=num_prompts * k,
        judgments=num_prompts * panel * (comparisons * orders if pairwise else k),
        pairs=num_prompts
        * min(comparisons, per_prompt.get(campaign.pairs.strategy, campaign.pairs.max_per_prompt or comparisons)),
        heldout=num_heldout,
        heldout_judgments=num_heldout * len(campaign.evaluate.against) * panel * 2,
        prompt_tokens=prompt_tokens,
        judge_tokens=(fmean(rendered) if rendered else 0.0) + answers,
        exact_tokens=exact,
    )


def render_example(campaign: Campaign, constitution: Constitution, prompt: Prompt) -> str:
    """A judge prompt as it will be sent, with placeholders for the responses."""
    principle = constitution.active[0]
    preamble = constitution.preamble
    if campaign.judge.method == "pointwise-logprob":
        labels = campaign.judge.labels_pointwise
        return render_pointwise(prompt.messages, PLACEHOLDERS[0], principle.norm(), preamble=preamble, labels=labels)
    labels = campaign.judge.labels_pairwise
    return render_pairwise(prompt.messages, *PLACEHOLDERS, principle.comparison(), preamble=preamble, labels=labels)


@dataclass(frozen=True)
class Needs:
    """Memory and disk in bytes; None where the model's size is not known."""

    model: ModelSize | None
    disk: int | None
    engine: int | None
    trainer: int | None
    available: int
    device: str

    @property
    def fits(self) -> bool | None:
        """On a GPU the engine sleeps while the trainer works; on a CPU both stay in memory."""
        if self.engine is None or self.trainer is None:
            return None
        peak = max(self.engine, self.trainer) if self.device == "GPU" else self.engine + self.trainer
        return peak <= self.available


def count_needs(campaign: Campaign, work: Workload) -> Needs:
    """Memory and disk for a campaign, by the size of its policy."""
    folder = _folder(campaign.policy.model)
    model = read_size(folder) if folder is not None else None
    gpu = gpu_memory()
    available, device = (gpu, "GPU") if gpu else (total_memory(), "CPU")
    if model is None:
        return Needs(None, None, None, None, available, device)
    width = 2 if device == "GPU" else 4
    processes = campaign.train.num_processes if campaign.train.accelerate_config else 1
    full = campaign.policy.adapter is None
    trainer = model.num_parameters * (STATE_BYTES // processes if full else width)
    records = work.num_answers * campaign.generate.max_tokens * BYTES_PER_TOKEN_STORED
    records += campaign.rounds * (work.judgments + work.heldout_judgments) * BYTES_PER_JUDGMENT
    disk = campaign.rounds * model.num_parameters * width + records
    return Needs(model, disk, model.num_parameters * width, trainer, available, device)


def gpu_memory() -> int | None:
    """The memory of the first NVIDIA GPU in bytes, or None."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return int(done.stdout.split()[0]) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class Speed:
    """What a short probe measured on this machine."""

    start_seconds: float
    sampled_tokens_per_second: float
    tokens_per_answer: float
    judgments_per_second: float

    def seconds(self, work: Workload) -> dict[str, float]:
        """Seconds of a round by stage; training is a guess from the judge's reading speed, as it cannot be probed."""
        generate = work.candidates * self.tokens_per_answer / self.sampled_tokens_per_second
        judge = work.judgments / self.judgments_per_second
        evaluate = work.heldout * self.tokens_per_answer / self.sampled_tokens_per_second
        evaluate += work.heldout_judgments / self.judgments_per_second
        read_per_second = self.judgments_per_second * work.judge_tokens
        pair_tokens = work.prompt_tokens + 2 * self.tokens_per_answer
        # forward and backward of the policy and a forward of the reference cost about four forwards
        train = 4 * work.pairs * pair_tokens / read_per_second if read_per_second else 0.0
        return {"generate": generate, "judge": judge, "train": train, "evaluate": evaluate}


def probe(campaign: Campaign, constitution: Constitution, train: Sequence[Prompt], folder: Path) -> Speed:
    """Load the models and time a few requests. `folder` takes the worker's log."""
    from selfalign.launch.local import LocalWorkers

    prompts = [train[index % len(train)] for index in range(PROBE_REQUESTS)]
    with LocalWorkers(campaign, folder) as workers:
        started = time.monotonic()
        engine = workers.engine(_path(campaign.policy.model), trust_remote_code=campaign.policy.trust_remote_code)
        sampling = Sampling(campaign.generate.temperature, campaign.generate.top_p, campaign.generate.max_tokens)
        asked = [GenerateRequest(str(i), prompt.messages, i) for i, prompt in enumerate(prompts)]
        list(engine.generate(asked[:4], sampling))
        ready = time.monotonic()
        tokens = [len(generation.token_ids) for generation in engine.generate(asked, sampling)]
        sampled = time.monotonic()
        judgments_per_second = _probe_judge(campaign, constitution, prompts, workers)
    return Speed(ready - started, sum(tokens) / (sampled - ready), fmean(tokens), judgments_per_second)


def _probe_judge(
    campaign: Campaign, constitution: Constitution, prompts: Sequence[Prompt], workers: LocalWorkers
) -> float:
    judge = campaign.judge
    own = judge.model in ("self", "base")
    if judge.model.startswith("openai:"):
        engine = workers.api(judge)
    elif own:
        engine = workers.engine(_path(campaign.policy.model), trust_remote_code=campaign.policy.trust_remote_code)
    else:
        engine = workers.engine(_path(judge.model), trust_remote_code=judge.trust_remote_code)
    labels = judge.labels_pointwise if judge.method == "pointwise-logprob" else judge.labels_pairwise
    texts = [render_example(campaign, constitution, prompt) for prompt in prompts]
    asked = [ChoiceRequest(str(i), (Message("user", text),), tuple(labels)) for i, text in enumerate(texts)]
    list(engine.choose(asked[:4]))
    started = time.monotonic()
    list(engine.choose(asked))
    return len(asked) / (time.monotonic() - started)


def _path(model: str) -> str:
    """The folder of a model on this machine, or its name on the Hub."""
    return str(_folder(model) or model)


def _folder(model: str) -> Path | None:
    return resources.find(resources.model(model))
