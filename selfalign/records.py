"""What passes between stages, and how it is named.

Every record is a frozen dataclass. Its id is a hash of the fields that identify it, so that doing a piece of work
twice yields the same record and never a second one.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]
Verdict = Literal["first", "second", "tie", "not_applicable", "invalid"]
InvalidReason = Literal["", "refused", "truncated", "malformed", "contradictory", "forged", "empty", "error"]
FinishReason = Literal["stop", "length", "duplicate", "error"]
CheckpointKind = Literal["policy", "reward_model"]
GOLD = "gold"  # stands for the policy of answers that came with their prompts
WHOLE = "(whole)"  # stands for the principle of judgments by all principles at once; no file can name one so

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*fields: Any, size: int = 10) -> str:
    """Return a hexadecimal id of `2 * size` characters for JSON-serialisable fields.

    BLAKE2b over canonical JSON: field boundaries are kept, so ("ab", "c") and ("a", "bc") differ.
    """
    canonical = _CANONICAL.encode(fields)
    return hashlib.blake2b(canonical.encode("ascii"), digest_size=size).hexdigest()


def derived_seed(*fields: Any) -> int:
    """Return a seed in [0, 2**31) that depends on nothing but the given fields."""
    return int(digest(*fields, size=4), 16) & 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `content` is untrusted text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends where the policy is to answer. `response` is the gold answer, where there is one."""

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    split: str = "train"
    tags: tuple[str, ...] = ()
    response: str | None = None

    @staticmethod
    def make(
        messages: tuple[Message, ...],
        *,
        source: str = "",
        split: str = "train",
        tags: tuple[str, ...] = (),
        response: str | None = None,
    ) -> Prompt:
        """Build a prompt whose id is the hash of its messages alone: the same words are the same prompt."""
        identity = digest("prompt", [[m.role, m.content] for m in messages])
        return Prompt(identity, messages, source, split, tags, response)

    def gold(self) -> Candidate | None:
        """The gold answer as a candidate of no policy; it has no token ids until a tokenizer has seen it."""
        if self.response is None:
            return None
        return Candidate(digest("gold", self.id, self.response), self.id, GOLD, 0, 0, self.response, (), "stop")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer of one policy to one prompt.

    `token_ids` are the sampled tokens, with the end-of-turn token where one was sampled. `logprob` is the sum over
    them of the sampler's own log-probabilities, in nats, at temperature 1; `logprobs` are those of the single tokens,
    kept of rollouts alone. `duplicate_of` names the earlier candidate of the same prompt with the same text.
    """

    id: str
    prompt_id: str
    policy_id: str
    sample_index: int
    seed: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    logprob: float | None = None
    duplicate_of: str | None = None
    logprobs: tuple[float, ...] = ()

    @staticmethod
    def make_id(prompt_id: str, policy_id: str, sample_index: int, seed: int) -> str:
        return digest("candidate", prompt_id, policy_id, sample_index, seed)


@dataclass(frozen=True, slots=True)
class Judgment:
    """One verdict of one judge on two candidates, in the order in which they were shown, under one principle.

    For a pointwise judgment `second_id` is "" and `rating` holds the expected rating (1 to 5); the verdict is then
    "not_applicable" unless it is "invalid". `p_first` is the judge's probability that the first is better. `reason` is
    what the judge says for its verdict, by the methods that ask for it. `invalid_reason` says why a verdict is
    "invalid" and is "" for a valid one; "forged" is an object without the sign that its question asked for.
    """

    id: str
    prompt_id: str
    first_id: str
    second_id: str
    principle_id: str
    principle_hash: str
    judge_id: str
    template_hash: str
    verdict: Verdict
    p_first: float | None
    rating: float | None = None
    reason: str = ""
    raw: str = ""
    num_tokens: int = 0
    seconds: float = 0.0
    invalid_reason: InvalidReason = ""

    @staticmethod
    def make_id(
        prompt_id: str, first_id: str, second_id: str, principle_hash: str, judge_id: str, template_hash: str
    ) -> str:
        return digest("judgment", prompt_id, first_id, second_id, principle_hash, judge_id, template_hash)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: `p_chosen` in [0.5, 1] is the soft label, `margin` the judge's score gap, `weight` its worth."""

    prompt_id: str
    chosen_id: str
    rejected_id: str
    p_chosen: float
    margin: float
    weight: float = 1.0
    judgment_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.chosen_id == self.rejected_id:
            raise ValueError(f"prompt {self.prompt_id}: chosen and rejected are the same candidate {self.chosen_id}")
        if not (0.0 <= self.p_chosen <= 1.0 and math.isfinite(self.margin) and math.isfinite(self.weight)):
            values = f"p_chosen {self.p_chosen}, margin {self.margin}, weight {self.weight}"
            raise ValueError(f"prompt {self.prompt_id}: {values}")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates of one prompt, best first, and what the judge makes of each; all tuples are in the same order.

    `scores` are expected ratings, or Bradley-Terry log-strengths with mean 0. `win_rates`: the mean probability to beat
    a candidate drawn from all that were ranked, oneself included as 1/2 (Wu et al. 2024, SPPO). `desirable`, where
    answers are labelled one by one, says which of them are good.
    """

    prompt_id: str
    candidate_ids: tuple[str, ...]
    scores: tuple[float, ...]
    win_rates: tuple[float, ...]
    desirable: tuple[bool, ...] = ()
    weight: float = 1.0
    judgment_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = {len(self.candidate_ids), len(self.scores), len(self.win_rates)}
        if len(sizes) > 1 or len(set(self.candidate_ids)) < len(self.candidate_ids) or not self.candidate_ids:
            raise ValueError(
                f"prompt {self.prompt_id}: a ranking of {self.candidate_ids} with {len(self.scores)} scores"
            )
        if self.desirable and len(self.desirable) != len(self.candidate_ids):
            raise ValueError(f"prompt {self.prompt_id}: {len(self.desirable)} labels for {len(self.candidate_ids)}")
        if not all(map(math.isfinite, (*self.scores, *self.win_rates, self.weight))):
            raise ValueError(f"prompt {self.prompt_id}: scores {self.scores}, win rates {self.win_rates}")


@dataclass(frozen=True, slots=True)
class Revision:
    """An answer criticised under one principle, and rewritten. `step` counts from 1.

    `before_id` is what was criticised: the candidate `candidate_id` in step 1, the revision of the step before it
    later. `text` and `token_ids` are the revised answer; a critique that was cut off has `critique_finish` "length".
    """

    id: str
    prompt_id: str
    candidate_id: str
    step: int
    before_id: str
    principle_id: str
    principle_hash: str
    policy_id: str
    template_hash: str
    critique: str
    critique_finish: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str

    @staticmethod
    def make_id(candidate_id: str, step: int, principle_hash: str, template_hash: str, seed: int) -> str:
        return digest("revision", candidate_id, step, principle_hash, template_hash, seed)

    def candidate(self) -> Candidate:
        """The revised answer as a candidate: what a model is trained on."""
        return Candidate(
            self.id, self.prompt_id, self.policy_id, self.step, 0, self.text, self.token_ids, self.finish_reason
        )


@dataclass(frozen=True, slots=True)
class Scored:
    """`logp`: a policy's log-probability of a candidate that another policy sampled: the sum over its tokens, nats."""

    candidate_id: str
    policy_id: str
    logp: float


@dataclass(frozen=True, slots=True)
class Reward:
    """What a reward model makes of a candidate; only differences between candidates of one prompt have a meaning.

    `spread` is the standard deviation over the members of an ensemble. Where a judge rewards, `model_id` is the
    judge's, and the reward its rating from -1 to 1.
    """

    candidate_id: str
    model_id: str
    reward: float
    spread: float = 0.0


LabelVerdict = Literal["preferred", "tie", "both_bad", "not_applicable", "skipped"]


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said of two candidates of one prompt, shown without a word on where they come from.

    `preferred_id` is the better one where there is one; sides are kept to tell a liking for a side. `stratum` is why
    the two were shown: those of "random" are a fair sample of all comparisons, the others are not. `repeat`: it was
    shown before, to see whether the labeller agrees with themself. `seconds` is the time taken, 0 where nobody took it.
    `flagged` and `comment` are for whoever reads the labels: something is odd here, and in words what.
    """

    labeller: str
    prompt_id: str
    left_id: str
    right_id: str
    verdict: LabelVerdict
    preferred_id: str | None = None
    round: int | None = None
    stratum: str = "imported"
    repeat: bool = False
    seconds: float = 0.0
    time: float = 0.0
    flagged: bool = False
    comment: str = ""

    def __post_init__(self) -> None:
        if self.left_id == self.right_id:
            raise ValueError(f"prompt {self.prompt_id}: a label compares {self.left_id} with itself")
        expected = (self.left_id, self.right_id) if self.verdict == "preferred" else (None,)
        if self.preferred_id not in expected:
            raise ValueError(f"prompt {self.prompt_id}: verdict {self.verdict} with {self.preferred_id} preferred")

    @property
    def pair(self) -> tuple[str, str]:
        """Both candidates, the smaller id first."""
        return min(self.left_id, self.right_id), max(self.left_id, self.right_id)

    @property
    def lead(self) -> float | None:
        """1 where the first of `pair` is better, -1 where the second is, 0 for neither, None where nothing was said."""
        if self.verdict == "preferred":
            return 1.0 if self.preferred_id == self.pair[0] else -1.0
        return 0.0 if self.verdict in ("tie", "both_bad") else None


class Interval(NamedTuple):
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True, slots=True)
class Bin:
    """The forecasts in [low, high): their mean, what came of them on average, and its Wilson interval."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n: int
    interval: Interval

    @property
    def calibrated(self) -> bool:
        """Whether what came of them is within chance of what was said; of calibrated bins one in twenty is not."""
        return self.interval.low <= self.confidence <= self.interval.high


@dataclass(frozen=True, slots=True)
class BucketAccuracy:
    """How often a reward model is right on the `num_pairs` whose soft label is in [low, high); None is no bound."""

    low: float | None
    high: float | None
    accuracy: float
    interval: Interval
    num_pairs: int


@dataclass(frozen=True, slots=True)
class GoldAgreement:
    """How often a reward model puts a gold answer above an answer sampled to the same prompt, a tie counting half."""

    share: float
    interval: Interval
    num_answers: int
    num_prompts: int


@dataclass(frozen=True, slots=True)
class RewardReport:
    """What a round's reward model is worth on pairs held out by prompt, and whether a policy may follow it.

    `accuracy` and `baseline`, a model of nothing but lengths, are shares of pairs ordered as the judge ordered them.
    `agreement` is the chance that a verdict drawn by the judge's soft label is the model's, `agreement_most` what a
    model that is always right would reach. `ece`, `brier` and `bins` are of the gaps as they are, `ece_scaled` of the
    gaps over `temperature`, which is fitted on these pairs. `gold` is of the prompts held out that have gold answers.
    """

    round: int
    model_id: str
    go: bool
    reason: str
    num_trained: int
    num_pairs: int
    num_prompts: int
    accuracy: float
    interval: Interval
    by_label: tuple[BucketAccuracy, ...]
    baseline: float
    agreement: float
    agreement_most: float
    ece: float
    ece_by_chance: float
    ece_scaled: float
    brier: float
    temperature: float
    bins: tuple[Bin, ...]
    gold: GoldAgreement | None = None


@dataclass(frozen=True, slots=True)
class CanaryRate:
    """How often the judge prefers one kind of canary to a real answer, a tie counting half."""

    name: str
    rate: float
    interval: Interval
    num_comparisons: int


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """How often a round's judge prefers replies without content to real answers, a tie counting half."""

    round: int
    judge_ids: tuple[str, ...]
    rate: float
    interval: Interval
    num_comparisons: int
    num_prompts: int
    by_canary: tuple[CanaryRate, ...]
    stopped: str | None = None  # why the round ended with it, if it did


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk, and where it came from."""

    id: str
    parent_id: str | None
    kind: CheckpointKind
    path: str
    round: int | None
    digest: str


@dataclass(frozen=True, slots=True)
class WinRate:
    """How often one policy's answers are preferred to another's, over held-out prompts.

    `rate` is the mean over `n` prompts of the judge's probability (both orders averaged; identical texts count 0.5),
    `low` and `high` its 95% bootstrap interval over prompts. `length_controlled` is what the rate would be if both
    policies wrote answers of the same length. `wins`, `ties` and `losses` count prompts by their side of 0.5.
    """

    rate: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int
    length_controlled: float | None = None


@dataclass(frozen=True, slots=True)
class Kl:
    """KL(policy || base) in nats per response, estimated over `n` of the policy's own samples."""

    mean: float
    standard_error: float
    per_token: float
    n: int


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What one policy's held-out answers look like. All but the counts and `mean_tokens` are shares in [0, 1].

    `repetition`: repeated word 3-grams within an answer. `distinct_1`, `distinct_2`: different word n-grams over all
    n-grams of all answers. `refusal`: answers with a usual phrase of refusal in their opening.
    """

    num_candidates: int
    mean_tokens: float
    truncated: float
    empty: float
    refusal: float
    repetition: float
    distinct_1: float
    distinct_2: float


@dataclass(frozen=True, slots=True)
class JudgeHealth:
    """How far a judge can be trusted, seen without knowing the right answers. Shares in [0, 1], None if unmeasured.

    `swap_consistency`: comparisons in which both orders prefer the same candidate, of the `num_swapped` judged in both.
    `first_preferred`: decided comparisons that the first shown wins; 0.5 is a judge without a liking for a position.
    `longer_preferred`: decided comparisons of candidates of unequal length that the longer wins. `invalid_reasons`
    counts the invalid judgments by their `Judgment.invalid_reason`.
    """

    num_judgments: int
    invalid: float
    ties: float
    num_swapped: int
    swap_consistency: float | None
    first_preferred: float | None
    longer_preferred: float | None
    invalid_reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """What the evaluating judge says of the policy at an iteration's start: its win rate against the base, with 95%."""

    iteration: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Guarded:
    """How a round of PPO was watched. `best` is the iteration that the judge likes best; its weights are kept where
    training was `stopped`, for the reason given, in iteration `ended`.
    """

    looks: tuple[Look, ...]
    best: int
    stopped: str | None = None
    ended: int | None = None


@dataclass(frozen=True, slots=True)
class HumanAgreement:
    """How far a judge prefers what people prefer, over `num_pairs` that both spoke of, on `num_prompts` prompts.

    `raw` is the share on which they say the same, ties included, `kappa` Cohen's, with its 95% bootstrap interval over
    prompts; None where chance alone makes them agree.
    """

    num_pairs: int
    num_prompts: int
    labellers: tuple[str, ...]
    raw: float
    kappa: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """How far a judge agrees with labels that do not come from it: gold, or people's.

    `accuracy` is the share of pairs ordered as their labels order them, a tie of the judge counting half and ties of
    the labels left out; `kappa` (Cohen 1960) counts ties on both sides, the judge's being leads below
    `pairs.min_margin`. Intervals are of 95%, prompts resampled. `ece` and `bins` are of how sure the judge is.
    `longer_preferred` is the chance that of two answers that the labels find alike it prefers the longer, which is
    longer by the usual difference; None where all are of one length.
    """

    num_pairs: int
    num_prompts: int
    accuracy: float
    interval: Interval
    kappa: float | None
    kappa_interval: Interval | None
    ece: float
    ece_by_chance: float
    bins: tuple[Bin, ...]
    longer_preferred: float | None


@dataclass(frozen=True, slots=True)
class JudgeCard:
    """What is known of one judge from what it said in one round. `num_pairs` pairs of answers were put before it.

    `retest_difference` is the mean absolute difference of the probabilities that it gave an answer in the two orders,
    which are two wordings of one question; `retest_noise` the standard deviation of one such probability once the
    liking for a position is taken off. Both are None where nothing was asked twice. `invalid_kinds` counts invalid
    verdicts by what came instead. `kappa_with` is Cohen's kappa with each other judge of a panel, `panel_alpha`
    Krippendorff's alpha of all of them. Canaries are the whole panel's. Tokens are those read; `seconds_per_pair` is
    time by the clock, and cost is in the currency of the price per million tokens that was given.
    """

    round: int
    judge_id: str
    health: JudgeHealth
    num_pairs: int
    num_retested: int
    retest_difference: float | None
    retest_noise: float | None
    invalid_kinds: dict[str, int]
    tokens_per_pair: float | None
    seconds_per_pair: float | None
    cost_per_pair: float | None = None
    agreement: LabelAgreement | None = None
    canaries: CanaryReport | None = None
    kappa_with: dict[str, float | None] = field(default_factory=dict)
    panel_alpha: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a round's policy is accepted, and why, in words."""

    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One held-out prompt before and after. `p_policy`: probability that the new answer beats the previous one."""

    prompt_id: str
    messages: tuple[Message, ...]
    base: str
    previous: str
    policy: str
    p_policy: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What a round did and whether its policy is better: everything that the report pages show.

    Keys: `win_rates` "previous" and "base"; `by_principle` the same, then principle ids; `behaviour` "base",
    "previous" and "policy"; `judges` and `humans` "labelling" and "evaluating"; `candidates` and `discarded` the
    counts of what was sampled and of what was not trained on, `num_examples` of what was: `examples` says "pairs",
    "rankings", "demonstrations" or "rollouts"; `seconds` stages. `length_ratio` is the policy's mean number of tokens
    over the base's. `standard` names the constitution that the policy was judged by, where it is not `constitution`;
    `dollars` is what an API judge cost.
    """

    round: int
    policy_id: str
    parent_id: str | None
    constitution: str
    constitution_hash: str
    candidates: dict[str, int]
    examples: str
    num_examples: int
    discarded: dict[str, int]
    win_rates: dict[str, WinRate]
    by_principle: dict[str, dict[str, WinRate]]
    kl: Kl | None
    length_ratio: float | None
    behaviour: dict[str, Behaviour]
    judges: dict[str, JudgeHealth]
    gate: Gate
    samples: tuple[Sample, ...]
    seconds: dict[str, float]
    standard: str | None = None
    humans: dict[str, HumanAgreement] = field(default_factory=dict)
    dollars: float | None = None
