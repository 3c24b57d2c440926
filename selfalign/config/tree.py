"""What can be set: one frozen tree of dataclasses, each setting with its meaning and its default."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from selfalign.objective import FDivergence, LossName
from selfalign.settings import merge

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
    """`model: self` judges with the round's own policy, `base` with the campaign's first, `openai:NAME` over an API."""

    model: str = "self"
    revision: str | None = None
    method: Literal["pairwise-logprob", "pointwise-logprob"] = "pairwise-logprob"
    both_orders: bool = True
    principles: Literal["sample", "all"] = "sample"
    comparisons: Literal["all", "ring", "random", "active"] = "all"  # all k(k-1)/2 pairs, a random cycle, or budget
    budget: Count | None = None  # active, random: comparisons a prompt; active spends them where they tell most
    labels_pairwise: tuple[str, str] = ("A", "B")
    labels_pointwise: tuple[str, ...] = ("1", "2", "3", "4", "5")
    tie_margin: Fraction = 0.0  # |p_first - 0.5| at or under this is a tie
    calibration: str | None = None  # a file of `selfalign judge calibrate`: how verdicts are read when pairs are made
    max_invalid: Fraction = 0.1  # above this share of invalid verdicts the stage stops
    base_url: str | None = None
    max_concurrency: Count = 16
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Pairs:
    strategy: Literal["best-worst", "best-random", "all", "random", "rso", "margin-buckets", "spin"] = "best-worst"
    min_margin: NonNegative = 0.1
    max_per_prompt: Count | None = None
    rso_beta: Positive = 0.5  # rso: candidates are kept as if from pi exp(log-odds / beta)
    buckets: Annotated[int, Meta(ge=2)] = 3  # margin-buckets: ranges of margin, one pair drawn from each
    length_balance: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0  # rho: among the near-best the shortest is chosen
    labels: Literal["soft", "hard"] = "soft"
    rating_scale: Positive = 1.0  # pointwise: p_chosen = sigmoid(rating_scale * rating difference)
    desirable_above: float | None = None  # kto, bco: the rating between bad and good; default: the prompt's mean


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What training makes more likely, and by which loss."""

    algorithm: Literal["dpo", "kto", "bco", "sppo", "ranking", "raft", "sft", "ppo"] = "dpo"
    loss: LossName | dict[LossName, float] = "sigmoid"  # one, or several with their weights: {sigmoid: 1, nll: 0.2}
    beta: Positive = 0.1
    label_smoothing: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0
    length_average: bool = False  # ipo: log-ratios per token; the paper's are of whole answers
    simpo_gamma: NonNegative = 0.5  # simpo: the margin to reach, gamma
    discopop_temperature: Positive = 0.05
    desirable_weight: Positive = 1.0  # kto: lambda_D
    undesirable_weight: Positive = 1.0  # kto: lambda_U
    f_divergence: FDivergence = "reverse_kl"
    f_alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.5  # f_divergence alpha
    ld_alpha: Fraction | None = None  # LD-DPO: what a token past the shorter answer's length counts
    wpo: bool = False  # weigh pairs by how likely the policy is to say them
    reward_weight: bool = False  # weigh pairs by how sure a reward model is of them


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How training steps are made."""

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
class Train(Optimizer, Objective):
    """The training of a round."""

    @staticmethod
    def of(algorithm: str, optimizer: Optimizer) -> Train:
        """An algorithm that has no settings of its own, with these steps."""
        return Train(algorithm=algorithm, **vars(optimizer))


@dataclass(frozen=True, kw_only=True)
class RewardModel:
    """A Bradley-Terry model of the pairs, a scalar head on the policy before the round; read by what needs rewards."""

    model: str = "base"  # what it starts from: base, policy (the round's own), or a model folder
    data: Literal["all", "last"] | Count = "last"  # the rounds whose pairs it learns: all so far, this one, the last k
    adapter: Adapter | None = None
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.1  # of the prompts, 30 or more: their pairs test it
    centering: NonNegative = 0.01  # weight of (r(w) + r(l))^2, which keeps rewards about 0
    margin: NonNegative = 0.0  # what the gap of a pair is to exceed, times 2 p - 1
    length_head: NonNegative = 0.0  # a second head takes what length explains (ODIN, Chen et al. 2024); theirs is 1
    min_accuracy: Fraction = 0.55  # on held-out pairs; below it the round stops
    ensemble: Count = 1  # so many models, which differ by their seeds
    combine: Literal["mean", "min", "mean-variance"] = "mean"  # of an ensemble's rewards (Coste et al. 2023)
    variance_weight: NonNegative = 0.5  # mean-variance: lambda in mean - lambda x variance
    scorer: Literal["trainer", "engine"] = "trainer"  # of rollouts: in PPO's trainer, or in the inference worker
    train: Optimizer = field(default_factory=lambda: Optimizer(learning_rate=1e-5))


@dataclass(frozen=True, kw_only=True)
class Ppo:
    """Policy gradients on rollouts, in place of pairs; read with `train: {algorithm: ppo}`.

    Each iteration samples `prompts` of the round's prompts afresh, rewards the answers, and makes `epochs` passes over
    them in `minibatches` optimizer steps each; `train` says how steps are made.

    With `reward: judge` there is no reward model and there are no pairs: the judge's expected rating of each answer,
    from -1 to 1, is its reward (d-RLAIF, Lee et al. 2023). The guard is then only independent of the reward if
    `evaluate.judge` is another judge than `judge`.
    """

    reward: Literal["model", "judge"] = "model"  # judge: a pointwise one, and no reward model

    iterations: Count = 20
    prompts: Count = 64
    samples: Count = 1  # answers a prompt; rloo and grpo compare them, and need two or more
    epochs: Count = 4
    minibatches: Count = 1
    advantage: Literal["gae", "rloo", "grpo", "reinforce"] = "gae"
    kl_coef: NonNegative = 0.05
    kl_estimator: Literal["k1", "k3"] = "k1"
    kl_target: Positive | None = None  # nats per answer; then kl_coef is steered towards it
    kl_horizon: Positive = 10_000.0  # answers
    gamma: Fraction = 1.0
    lam: Fraction = 0.95
    cliprange: Positive = 0.2
    dual_clip: Annotated[float, Meta(gt=1)] | None = None
    value_cliprange: Positive = 0.2
    value_coef: NonNegative = 0.1
    entropy_coef: NonNegative = 0.0  # what a nat of entropy per token is worth
    sampler_clip: Annotated[float, Meta(ge=1)] | None = None  # most that trainer / engine may weigh a token with
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    whitening: Literal["population", "bessel"] = "population"
    missing_eos: Literal["keep", "replace", "subtract"] = "replace"  # of the score of an answer that was cut off
    missing_eos_value: float = 1.0  # replace: minus this is the score; subtract: this is taken off
    reward_clip: Positive | None = None
    shift_rewards: bool = True  # so that the first rollouts average 0
    max_approxkl: Positive | None = None  # nats per token; past it the iteration ends
    stop_kl: Positive | None = None  # nats per answer; past this or any other limit the phase ends
    stop_repetition: Fraction | None = None  # share of repeated word 3-grams in an answer
    stop_length: Annotated[float, Meta(gt=1)] | None = None  # mean tokens, over those of the first rollouts
    stop_entropy: Fraction | None = None  # nats per token, over those of the first rollouts: below this it ends
    stop_spread: Fraction | None = None  # the same of the standard deviation of scores
    stop_disagreement: Annotated[float, Meta(gt=1)] | None = None  # how far an ensemble's members are apart, as length
    guard_every: Count | None = 5  # iterations between looks by the evaluating judge; null: none
    guard_prompts: Count = 64  # held-out prompts that it looks at


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Examples of earlier rounds that are trained on again: off-policy, but more of them."""

    rounds: Literal["all", "last"] | Count = "all"  # last: the round before; a number: so many rounds before
    ratio: NonNegative = 0.0  # of earlier rounds' examples to this round's


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of rounds with settings of its own; what is left out is the campaign's."""

    rounds: Count
    train: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Revise:
    """Critique and revision before the first round (SL-CAI, Bai et al. 2022); read with `bootstrap: critique-revision`.

    The policy answers, criticises its answer under a principle drawn at random and rewrites it, `steps` times with a
    fresh principle each. It is then trained on the revisions of all steps, mixed with its own answers to the prompts
    under `helpful`.
    """

    prompts: str | list[str] = ""  # such as prompts/redteam/*.jsonl; default: prompts.train
    num_prompts: Count | None = None  # default: all of them
    steps: Count = 4
    examples: Whole = 1  # of a principle's examples, shown before each request
    helpful: str | list[str] = ""  # prompts whose answers are kept as they are
    helpful_ratio: NonNegative = 0.25  # helpful answers for each revision trained on
    train: Optimizer = field(default_factory=Optimizer)


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
    constitution: str | None = None  # the principles that evaluation and guard judge by; default: the campaign's
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
    min_kappa: Fraction | None = None  # lower end of the 95% interval of the judge's agreement with the run's labels


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
    max_logprob_difference: Positive | None = None  # stale-policy bound, mean nats per token; default by the dtype


@dataclass(frozen=True, kw_only=True)
class Launch:
    backend: Literal["local"] = "local"


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """`rounds` times: prompts -> candidates -> judgments -> pairs -> training -> report -> accept or stop."""

    name: str = ""
    seed: int = 17
    rounds: Count = 3
    constitution: str = ""
    policy: Policy = field(default_factory=Policy)
    bootstrap: Literal["none", "critique-revision"] = "none"  # what round 0 is; the others then count from 1
    revise: Revise = field(default_factory=Revise)
    schedule: tuple[Phase, ...] = ()  # phases of rounds, in order, with their own `train` and `pairs`
    reference: str | int = "previous"  # previous | base | ema | a round's number | none, for a loss without one
    reference_decay: Annotated[float, Meta(gt=0, lt=1)] = 0.5  # ema: what the average so far counts
    prompts: Prompts = field(default_factory=Prompts)
    generate: Generate = field(default_factory=Generate)
    judge: Judge = field(default_factory=Judge)
    pairs: Pairs = field(default_factory=Pairs)
    replay: Replay = field(default_factory=Replay)
    reward_model: RewardModel = field(default_factory=RewardModel)
    ppo: Ppo = field(default_factory=Ppo)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)
    accept: Accept = field(default_factory=Accept)
    engine: EngineSettings = field(default_factory=EngineSettings)
    launch: Launch = field(default_factory=Launch)

    @property
    def first_round(self) -> int:
        """The number of the first round of preferences: 1 where round 0 is the bootstrap."""
        return 0 if self.bootstrap == "none" else 1

    @property
    def num_rounds(self) -> int:
        return self.first_round + self.rounds


def in_round(campaign: Campaign, number: int) -> Campaign:
    """The settings of one round: the campaign's, but for what its phase of the schedule sets, or the bootstrap does.

    Raises msgspec.ValidationError for overrides that `load` would refuse.
    """
    if number < campaign.first_round:
        return dataclasses.replace(campaign, train=Train.of("sft", campaign.revise.train))
    ends = itertools.accumulate((phase.rounds for phase in campaign.schedule), initial=campaign.first_round)
    phases = zip(itertools.islice(ends, 1, None), campaign.schedule, strict=True)
    phase = next((phase for end, phase in phases if number < end), None)
    if phase is None:
        return campaign
    train, pairs = (_overridden(getattr(campaign, name), getattr(phase, name)) for name in ("train", "pairs"))
    return dataclasses.replace(campaign, train=train, pairs=pairs)


def _overridden(section: Any, values: Mapping[str, Any]) -> Any:
    return msgspec.convert(merge(msgspec.to_builtins(section), values), type(section)) if values else section
