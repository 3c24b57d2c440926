"""One frozen tree of settings for a campaign: what each means, its default, and what is refused.

The tree is the only place where a setting is defined; the JSON Schema for editors is generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """LoRA (Hu et al. 2021): W + (alpha / rank) B A."""

    rank: Count = 32
    alpha: Positive | None = None  # default: 2 x rank
    dropout: Fraction = 0.0
    target_modules: str | list[str] = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The model that the campaign improves. Without an adapter, all weights are trained."""

    model: str = ""
    revision: str | None = None
    adapter: Adapter | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Where prompts come from: paths, globs, or `datasets:NAME`. Train and held-out prompts must not overlap."""

    train: str | list[str] = ""
    heldout: str | list[str] = ""
    per_round: Count | None = None  # default: all of them


@dataclass(frozen=True, kw_only=True)
class Generate:
    samples: Annotated[int, Meta(ge=2)] = 4
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    max_tokens: Count = 512
    shard_prompts: Count = 64


@dataclass(frozen=True, kw_only=True)
class Judge:
    """`model: self` judges with the round's own policy; `base` with the campaign's first; `openai:NAME` over the API."""

    model: str = "self"
    revision: str | None = None
    method: Literal["pairwise-logprob", "pointwise-logprob"] = "pairwise-logprob"
    both_orders: bool = True
    principles: Literal["sample", "all"] = "sample"
    comparisons: Literal["all", "ring"] = "all"  # which candidate pairs of a prompt: all k(k-1)/2, or a random cycle of k
    labels_pairwise: tuple[str, str] = ("A", "B")
    labels_pointwise: tuple[str, ...] = ("1", "2", "3", "4", "5")
    tie_margin: Fraction = 0.0  # |p_first - 0.5| at or under this is a tie
    max_invalid: Fraction = 0.1  # above this share of invalid verdicts the stage stops
    base_url: str | None = None
    max_concurrency: Count = 16
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Pairs:
    strategy: Literal["best-worst", "all", "random"] = "best-worst"
    min_margin: NonNegative = 0.1
    max_per_prompt: Count | None = None
    labels: Literal["soft", "hard"] = "soft"
    rating_scale: Positive = 1.0  # pointwise: p_chosen = sigmoid(rating_scale * rating difference)


@dataclass(frozen=True, kw_only=True)
class Train:
    algorithm: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    beta: Positive = 0.1
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    learning_rate: Positive = 5e-6
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Fraction = 0.1
    epochs: Count = 1
    batch_size: Count = 64  # pairs per optimizer step, over all processes
    max_tokens_per_batch: Count = 8192  # packed positions per forward, per process
    max_length: Count = 2048  # prompt and one completion
    weight_decay: NonNegative = 0.0
    max_grad_norm: Positive = 1.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    checkpoint_every: Count | None = None  # optimizer steps; default: none
    num_processes: Count = 1
    accelerate_config: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateJudge:
    """The judge of the held-out evaluation; every field left out is the labelling judge's."""

    model: str | None = None
    revision: str | None = None
    base_url: str | None = None
    method: Literal["pairwise-logprob", "pointwise-logprob"] | None = None
    principles: Literal["sample", "all"] | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    judge: EvaluateJudge = field(default_factory=EvaluateJudge)
    prompts: Count = 256
    against: tuple[Literal["previous", "base"], ...] = ("previous", "base")
    temperature: NonNegative = 1.0
    bootstrap: Count = 1000


@dataclass(frozen=True, kw_only=True)
class Accept:
    """The gate. A limit of null is not checked."""

    win_rate_lower_bound: Fraction | None = 0.5  # lower end of the 95% interval against the previous policy
    max_kl: Positive | None = 20.0  # nats per response, to the base policy
    max_length_ratio: Positive | None = 1.5  # mean response length over the base policy's


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Count | None = None
    gpu_memory_utilization: Annotated[float, Meta(gt=0, le=1)] = 0.85
    cpu_kv_cache_gib: Count = 1
    enforce_eager: bool | None = None  # default: on a CPU
    tensor_parallel_size: Count = 1
    max_num_seqs: Count = 256
    max_logprob_difference: Positive | None = None  # stale-policy bound, mean nats per token; default by dtype


@dataclass(frozen=True, kw_only=True)
class Launch:
    backend: Literal["local"] = "local"


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """A campaign: `rounds` times prompts -> candidates -> judgments -> pairs -> training -> report -> accept or stop."""

    name: str = ""
    seed: int = 17
    rounds: Count = 3
    constitution: str = ""
    policy: Policy = field(default_factory=Policy)
    reference: str | int = "previous"  # previous | base | a round's number
    prompts: Prompts = field(default_factory=Prompts)
    generate: Generate = field(default_factory=Generate)
    judge: Judge = field(default_factory=Judge)
    pairs: Pairs = field(default_factory=Pairs)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    accept: Accept = field(default_factory=Accept)
    engine: EngineSettings = field(default_factory=EngineSettings)
    launch: Launch = field(default_factory=Launch)
