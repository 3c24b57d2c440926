"""What a campaign will take: counted where it can be, measured by a probe where it may be, and said to be rough."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from selfalign.cli.doctor import total_memory
from selfalign.cli.models import ModelSize, read_size
from selfalign.cli.workload import PLACEHOLDERS, RoundWork, Workload, model_folder, phases
from selfalign.config import Campaign
from selfalign.constitution import Constitution
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.objective import hands_rewards, judge_rewards
from selfalign.records import Prompt
from selfalign.stages.judge import example_request, sampling_of

if TYPE_CHECKING:
    from selfalign.launch.local import LocalWorkers

PROBE_REQUESTS = 64
BYTES_PER_TOKEN_STORED = 12  # a token id and its share of the text, compressed
BYTES_PER_JUDGMENT = 120
STATE_BYTES = 16  # of training all weights: weight, gradient and two moments of Adam, in float32


@dataclass(frozen=True)
class Needs:
    """Memory and disk in bytes; None where the model's size is not known."""

    model: ModelSize | None
    disk: int | None
    engine: int | None
    trainer: int | None
    available: int
    device: str
    rollouts: bool = False

    @property
    def fits(self) -> bool | None:
        """On a GPU the engine sleeps while the trainer works, but a trainer that waits for rollouts keeps its memory.

        On a CPU both stay in memory.
        """
        if self.engine is None or self.trainer is None:
            return None
        apart = self.device == "GPU" and not self.rollouts
        peak = max(self.engine, self.trainer) if apart else self.engine + self.trainer
        return peak <= self.available


def count_needs(campaign: Campaign, work: Workload) -> Needs:
    """Memory and disk for a campaign, by the size of its policy."""
    folder = model_folder(campaign.policy.model)
    model = read_size(folder) if folder is not None else None
    gpu = gpu_memory()
    available, device = (gpu, "GPU") if gpu else (total_memory(), "CPU")
    if model is None:
        return Needs(None, None, None, None, available, device)
    width = 2 if device == "GPU" else 4
    stretches = [phase.settings for phase in phases(campaign)]
    trainer = max(_trainer_memory(settings, model, width) for settings in stretches)
    records = work.num_generations * campaign.generate.max_tokens * BYTES_PER_TOKEN_STORED
    records += work.num_judgments * BYTES_PER_JUDGMENT
    disk = campaign.num_rounds * model.num_parameters * width + records
    rollouts = any(settings.train.algorithm == "ppo" for settings in stretches)
    return Needs(model, disk, model.num_parameters * width, trainer, available, device, rollouts)


def _trainer_memory(settings: Campaign, policy: ModelSize, width: int) -> int:
    """Bytes of the weights that a round's trainer holds, and of what their training takes.

    PPO holds the frozen reward model beside the policy, unless rewards come from elsewhere, where all weights are
    trained a frozen reference, and for GAE a critic as large as the reward model, of which all weights are trained;
    where the judge rewards, the critic is as large as the policy.
    """
    processes = settings.train.num_processes if settings.train.accelerate_config else 1
    state, full = STATE_BYTES // processes, settings.policy.adapter is None
    trained = policy.num_parameters * (state if full else width)
    if settings.train.algorithm != "ppo":
        return trained
    judged = judge_rewards(settings.train, settings.ppo)
    size = policy.num_parameters if judged else _reward_parameters(settings, policy)
    reward = 0 if hands_rewards(settings) else size
    critic = size * state if settings.ppo.advantage == "gae" else 0
    return trained + full * policy.num_parameters * width + reward * width + critic


def _reward_parameters(settings: Campaign, policy: ModelSize) -> int:
    """The size of the reward model; the policy's where it starts from it, and where its own is not known."""
    own = settings.reward_model.model
    folder = None if own in ("base", "policy") else model_folder(own)
    found = read_size(folder) if folder is not None else None
    return (found or policy).num_parameters


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
    """What a short probe measured on this machine.

    `questions_read_per_second` is `judgments_per_second` but for the reasons that a judge may sample.
    """

    start_seconds: float
    sampled_tokens_per_second: float
    tokens_per_answer: float
    judgments_per_second: float
    questions_read_per_second: float

    def seconds(self, work: RoundWork, campaign: Workload) -> dict[str, float]:
        """Seconds of a round by stage; training is a guess from the judge's reading speed, as it cannot be probed."""
        answer = self.tokens_per_answer / self.sampled_tokens_per_second
        read_per_second = self.questions_read_per_second * campaign.judge_tokens
        forward = 1.0 / read_per_second if read_per_second else 0.0
        read = work.trained_answers * self.tokens_per_answer + work.trained_prompts * campaign.prompt_tokens
        return {
            "generate": work.candidates * answer,
            "revise": work.revisions * answer,
            "judge": work.judgments / self.judgments_per_second,
            "reward": work.reward_passes * (campaign.prompt_tokens + self.tokens_per_answer) * forward,
            "train": work.rollouts * answer
            + work.rollout_judgments / self.judgments_per_second
            + work.passes * read * forward,
            "evaluate": work.heldout * answer + work.heldout_judgments / self.judgments_per_second,
        }


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
        judged, read = _probe_judge(campaign, constitution, prompts, workers)
    return Speed(ready - started, sum(tokens) / (sampled - ready), fmean(tokens), judged, read)


def _probe_judge(
    campaign: Campaign, constitution: Constitution, prompts: Sequence[Prompt], workers: LocalWorkers
) -> tuple[float, float]:
    """Judgments a second, and questions read a second."""
    judge = campaign.judge
    own = judge.model in ("self", "base")
    if judge.model.startswith("openai:"):
        engine = workers.api(judge)
    elif own:
        engine = workers.engine(_path(campaign.policy.model), trust_remote_code=campaign.policy.trust_remote_code)
    else:
        engine = workers.engine(_path(judge.model), trust_remote_code=judge.trust_remote_code)
    asked = [
        replace(example_request(constitution, judge, prompt, PLACEHOLDERS), id=str(i))
        for i, prompt in enumerate(prompts)
    ]
    list(engine.choose(asked[:4]))
    started = time.monotonic()
    list(engine.choose(asked))
    read = time.monotonic()
    if judge.reasons:
        chains = (GenerateRequest(f"{a.id}-{n}", a.messages, n) for a in asked for n in range(judge.samples))
        list(engine.generate(chains, sampling_of(judge)))
    return len(asked) / (time.monotonic() - started), len(asked) / (read - started)


def _path(model: str) -> str:
    """The folder of a model on this machine, or its name on the Hub."""
    return str(model_folder(model) or model)
