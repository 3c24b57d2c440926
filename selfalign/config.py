"""One frozen tree of settings for a campaign: what each means, its default, and what is refused.

The tree is the only place where a setting is defined; the JSON Schema for editors is generated from it.
`load` fills it, in falling precedence, from `--set` flags, SELFALIGN_ variables, the campaign's file, a recipe, and the
defaults below, and remembers for each value where it came from.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from selfalign import objective, resources, source
from selfalign.objective import FDivergence, LossName
from selfalign.settings import Builder, Layer, Setting, flag_layer, leaves, merge, origin_layer, problem_at
from selfalign.source import InputError, Problem

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
class Train:
    algorithm: Literal["dpo", "kto", "bco", "sppo", "ranking", "raft", "sft"] = "dpo"
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
    train: Train = field(default_factory=lambda: Train(algorithm="sft"))


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
        return dataclasses.replace(campaign, train=campaign.revise.train)
    ends = itertools.accumulate((phase.rounds for phase in campaign.schedule), initial=campaign.first_round)
    phases = zip(itertools.islice(ends, 1, None), campaign.schedule, strict=True)
    phase = next((phase for end, phase in phases if number < end), None)
    if phase is None:
        return campaign
    train, pairs = (_overridden(getattr(campaign, name), getattr(phase, name)) for name in ("train", "pairs"))
    return dataclasses.replace(campaign, train=train, pairs=pairs)


def _overridden(section: Any, values: Mapping[str, Any]) -> Any:
    return msgspec.convert(merge(msgspec.to_builtins(section), values), type(section)) if values else section


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ENVIRONMENT_PREFIX = "SELFALIGN_"


class ConfigError(InputError):
    """The settings are refused. Each of `problems` has the file or flag, the line, what is wrong and what to write."""


@dataclass(frozen=True)
class Loaded:
    """A campaign's settings, and where each one came from."""

    campaign: Campaign
    layers: tuple[Layer, ...]  # from the strongest to the weakest
    file: Path | None
    recipe: str | None

    def origin(self, path: str) -> str:
        """The origin of a setting such as "train.beta".

        Returns "file:line", "--set", a variable's name, "recipe NAME" or "default".
        """
        setting = _setting(path)
        layer = origin_layer(self.layers, setting)
        return layer.origin(setting) if layer else "default"

    def problem(self, path: str, message: str, fix: str = "") -> Problem:
        """Something wrong with what a setting names, placed where the setting was given."""
        return problem_at(self.layers, _setting(path), message, fix)

    def settings(self) -> Iterator[tuple[str, Any, str]]:
        """Every setting as (dotted name, value, origin)."""
        for path, value in leaves(msgspec.to_builtins(self.campaign)):
            name = ".".join(path)
            yield name, value, self.origin(name)

    def to_yaml(self) -> str:
        """All settings, defaults written out: loading this text gives the same campaign."""
        return to_yaml(self.campaign)


def load(
    file: Path | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read, merge and validate the settings of a campaign; `check_files` of `preflight` then looks at what they name.

    `overrides` are "key=value" with a dotted key and a YAML value. A file may name its base with `recipe: NAME`; the
    argument wins. Paths of the user's own files come back absolute. Raises ConfigError with everything that is wrong.
    """
    layers = [*_flag_layers(overrides), *_environment_layers(environ or {})]
    if file is not None:
        layers.append(_file_layer(Path(file), str(file)))
    recipe = recipe or next((layer.values["recipe"] for layer in layers if "recipe" in layer.values), None)
    base = recipe
    while base is not None:  # a recipe may stand on another one
        layers.append(_recipe_layer(base, layers))
        base = layers[-1].values.get("recipe")
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = merge(values, layer.values)
    values.pop("recipe", None)
    campaign = _build(values, layers)
    return Loaded(_find_paths(campaign, Path(file).parent if file else None), tuple(layers), file, recipe)


def _build(values: Mapping[str, Any], layers: Sequence[Layer]) -> Campaign:
    builder = Builder(Campaign, layers)
    campaign = builder.build(values)
    if not builder.problems:
        for number, phase in enumerate(campaign.schedule):
            for name in ("train", "pairs"):
                whole = merge(msgspec.to_builtins(getattr(campaign, name)), getattr(phase, name))
                builder.check(type(getattr(campaign, name)), whole, ("schedule", number, name))
    if not builder.problems:
        for path, message, fix in contradictions(campaign):
            builder.refuse(_setting(path), message, fix)
    if builder.problems:
        raise ConfigError(builder.problems)
    return campaign


def _setting(dotted: str) -> Setting:
    """From "schedule.1.train.beta" to ("schedule", 1, "train", "beta")."""
    return tuple(int(key) if key.isdecimal() else key for key in dotted.split("."))


def to_yaml(campaign: Campaign) -> str:
    from ruamel.yaml import YAML

    stream, writer = io.StringIO(), YAML()
    writer.width = 4096
    writer.dump(msgspec.to_builtins(campaign), stream)
    return stream.getvalue()


def schema_text() -> str:
    """The JSON Schema of a campaign file: the text of schemas/campaign.schema.json."""
    schema = msgspec.json.schema(Campaign)
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
        definition.pop("required", None)
    schema["$defs"]["Campaign"]["properties"]["recipe"] = {"enum": resources.recipes()}
    for name in ("train", "pairs"):
        schema["$defs"]["Phase"]["properties"][name] = {"$ref": f"#/$defs/{name.capitalize()}"}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "selfalign campaign"} | schema
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# The layers.


def _flag_layers(overrides: Sequence[str]) -> list[Layer]:
    """One layer a flag; of two flags for one setting the later wins."""
    layers = []
    for text in reversed(overrides):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(Problem("--set", None, f"{text!r} is not key=value", "Write --set train.beta=0.2."))
        layers.append(flag_layer("--set", tuple(key.strip().split(".")), value, Campaign))
    return layers


def _environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """SELFALIGN_TRAIN__BETA sets train.beta. A variable that names no setting is refused, as any misspelling is."""
    names = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX))
    return [
        flag_layer(name, tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")), environ[name], Campaign)
        for name in names
    ]


def _file_layer(file: Path, label: str) -> Layer:
    try:
        document = source.read_yaml(source.read_text(file), str(file))
    except InputError as error:
        raise ConfigError(error.problems) from error
    if not isinstance(document.value, dict):
        raise ConfigError(document.problem((), "holds no settings", "Start with the line `recipe: pocket`."))
    return Layer(label, document)


def _recipe_layer(name: Any, layers: Sequence[Layer]) -> Layer:
    path = resources.recipe(name)
    if path is not None:
        return _file_layer(path, f"recipe {name}")
    message = f"there is no recipe {name!r}"
    fix = source.did_you_mean(name, resources.recipes()) or _known_recipes()
    naming = next((layer.document for layer in layers if layer.values.get("recipe") == name), None)
    raise ConfigError(naming.problem(("recipe",), message, fix) if naming else Problem("--recipe", None, message, fix))


def _known_recipes() -> str:
    return f"The recipes are {', '.join(resources.recipes())}."


# Where the files of a campaign are.


def _find_paths(campaign: Campaign, folder: Path | None) -> Campaign:
    """Make the paths of the user's files absolute; leave shipped files, Hub names and missing files as written."""

    def path(name: str | None) -> str | None:
        return name if name in (None, "self", "base") else _absolute(name, resources.find(name, folder))

    def patterns(names: str | list[str]) -> str | list[str]:
        return [pattern(name) for name in names] if isinstance(names, list) else pattern(names)

    def pattern(name: str) -> str:
        return name if name.startswith("datasets:") else _absolute(name, resources.find_pattern(name, folder))

    constitution = _absolute(campaign.constitution, resources.find_constitution(campaign.constitution, folder))
    replace, judge = dataclasses.replace, campaign.evaluate.judge
    return replace(
        campaign,
        constitution=constitution,
        policy=replace(campaign.policy, model=path(campaign.policy.model)),
        prompts=replace(
            campaign.prompts, train=patterns(campaign.prompts.train), heldout=patterns(campaign.prompts.heldout)
        ),
        revise=replace(
            campaign.revise, prompts=patterns(campaign.revise.prompts), helpful=patterns(campaign.revise.helpful)
        ),
        judge=replace(campaign.judge, model=path(campaign.judge.model)),
        evaluate=replace(campaign.evaluate, judge=replace(judge, model=path(judge.model))),
        train=replace(campaign.train, accelerate_config=path(campaign.train.accelerate_config)),
    )


def _absolute(name: str, found: Path | None) -> str:
    return name if found is None or resources.is_shipped(found) else str(found)


# What no single setting shows.


def contradictions(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    """Settings that are each allowed but make no sense together, as (setting, what and why, fix)."""
    yield from _missing(campaign)
    yield from _sampling(campaign)
    yield from _judging(campaign)
    yield from _training(campaign)
    yield from _engine(campaign.engine)


def _missing(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    if not campaign.name:
        yield "name", "name is missing: the run folder is called by it", "Add `name: my-campaign`."
    elif not NAME.fullmatch(campaign.name):
        fix = "Use 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit."
        yield "name", f"{campaign.name[:80]!r} cannot name a run folder", fix
    if not campaign.policy.model:
        yield "policy.model", "policy.model is missing: no model to improve", "Add `policy: {model: Qwen/Qwen3-4B}`."
    if not campaign.constitution:
        yield "constitution", "constitution is missing: no principles to judge by", "Name its file."
    for split in ("train", "heldout"):
        if not getattr(campaign.prompts, split):
            yield (
                f"prompts.{split}",
                f"prompts.{split} is missing",
                f"Add `prompts: {{{split}: prompts/{split}/*.jsonl}}`.",
            )


def _sampling(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    if campaign.generate.temperature == 0:
        yield "generate.temperature", "at temperature 0 all samples of a prompt are the same", "Set it above 0."
    if campaign.generate.max_tokens >= campaign.train.max_length:
        why = f"answers of {campaign.generate.max_tokens} tokens leave no room for a prompt in train.max_length"
        yield "generate.max_tokens", why, f"Set it below {campaign.train.max_length}, or raise train.max_length."
    length = campaign.engine.max_model_len
    if length is not None and campaign.generate.max_tokens >= length:
        why = f"answers of {campaign.generate.max_tokens} tokens leave no room for a prompt in engine.max_model_len"
        yield "generate.max_tokens", why, f"Set it below {length}, or raise engine.max_model_len."


def _judging(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    judge, pairs = campaign.judge, campaign.pairs
    pointwise = judge.method == "pointwise-logprob"
    for name in ("labels_pairwise", "labels_pointwise"):
        labels = getattr(judge, name)
        if len(set(labels)) < max(2, len(labels)):
            yield f"judge.{name}", "the labels must be at least two, and all different", 'Such as ["A", "B"].'
    if judge.tie_margin >= 0.5:
        yield "judge.tie_margin", "a margin of 0.5 or more makes every verdict a tie", "Set it below 0.5."
    most = len(judge.labels_pointwise) - 1 if pointwise else 1
    if pairs.min_margin >= most:
        why = f"no pair can reach a margin of {pairs.min_margin:g}: scores of {judge.method} differ by at most {most}"
        yield "pairs.min_margin", why, f"Set it below {most}."
    if pointwise and judge.comparisons != "all":
        yield "judge.comparisons", "a pointwise judge compares no candidates", "Remove it, or use pairwise-logprob."
    else:
        yield from _budget(judge, campaign.generate.samples)
    if not pointwise and pairs.rating_scale != Pairs.rating_scale:
        yield "pairs.rating_scale", "a pairwise judge gives no ratings to scale", "Remove it, or use pointwise-logprob."
    if pairs.desirable_above is not None and not pointwise:
        why = "a pairwise judge gives no ratings, only who is better than whom"
        yield "pairs.desirable_above", why, "Remove it, or use pointwise-logprob."
    elif pairs.desirable_above is not None and campaign.train.algorithm not in ("kto", "bco"):
        why = f"{campaign.train.algorithm} calls no single answer good or bad"
        yield "pairs.desirable_above", why, "Remove it, or use train.algorithm kto or bco."
    picks_best = pairs.strategy in ("best-worst", "best-random", "rso")
    one_a_prompt = picks_best or pairs.strategy == "spin"
    if one_a_prompt and (pairs.max_per_prompt or 1) > 1:
        why = f"{pairs.strategy} makes one pair a prompt"
        yield "pairs.max_per_prompt", why, "Remove it, or use strategy all or random."
    for name, strategy in (("rso_beta", "rso"), ("buckets", "margin-buckets")):
        if pairs.strategy != strategy and getattr(pairs, name) != getattr(Pairs, name):
            why = f"only strategy {strategy} reads it, and the strategy is {pairs.strategy}"
            yield f"pairs.{name}", why, f"Remove it, or use strategy {strategy}."
    if pairs.strategy == "spin":
        for name in ("min_margin", "rating_scale"):
            if getattr(pairs, name) != getattr(Pairs, name):
                why = "strategy spin prefers the gold answer whatever the judge says"
                yield f"pairs.{name}", why, "Remove it, or use strategy best-worst."
    if pairs.length_balance and not picks_best:
        why = f"strategy {pairs.strategy} picks no best candidate whose length could be balanced"
        yield "pairs.length_balance", why, "Remove it, or use strategy best-worst."
    if judge.base_url and not judge.model.startswith("openai:"):
        yield "judge.base_url", f"the judge {judge.model!r} is not reached over an API", "Use `model: openai:NAME`."
    if judge.revision and judge.model in ("self", "base"):
        yield "judge.revision", f"the judge is the policy ({judge.model}), which has its own", "Set policy.revision."


def _budget(judge: Judge, samples: int) -> Iterator[tuple[str, str, str]]:
    limited, most = judge.comparisons in ("active", "random"), samples * (samples - 1) // 2
    if limited and judge.budget is None:
        why = f"judge.comparisons is {judge.comparisons}, and nothing says how many"
        yield "judge.budget", why, f"Add `budget: {max(1, min(samples, most - 1))}` under judge: comparisons a prompt."
    elif not limited and judge.budget is not None:
        why = f"judge.comparisons is {judge.comparisons}, which has no budget"
        yield "judge.budget", why, "Remove it, or use `comparisons: active`."
    elif judge.budget is not None and judge.budget >= most:
        why = f"{samples} candidates make {most} comparisons, so a budget of {judge.budget} leaves nothing to choose"
        yield "judge.budget", why, "Set it lower, raise generate.samples, or use `comparisons: all`."


def _training(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    yield from _named_reference(campaign)
    yield from _schedule(campaign)
    train = campaign.train
    yield from objective.contradictions(train, campaign.pairs, campaign.reference)
    if train.max_length > train.max_tokens_per_batch:
        why = (
            f"a pair of {train.max_length} tokens does not fit train.max_tokens_per_batch, {train.max_tokens_per_batch}"
        )
        yield "train.max_length", why, "Lower it, or raise train.max_tokens_per_batch."
    against = campaign.evaluate.against
    if len(set(against)) < len(against):
        yield "evaluate.against", "the same policy stands twice", "Name each once."
    if campaign.accept.win_rate_lower_bound is not None and "previous" not in against:
        why = "the gate needs the win rate against the previous policy, which evaluate.against leaves out"
        yield "accept.win_rate_lower_bound", why, "Add previous to evaluate.against, or set this to null."


def _named_reference(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    reference, last = campaign.reference, campaign.num_rounds - 1
    known = ("previous", "base", "ema", "none")
    if isinstance(reference, str) and reference not in known:
        fix = source.did_you_mean(reference, known) or "Write previous, base, ema, or a round's number."
        yield "reference", f"reference is {reference[:60]!r}, not previous, base, ema or a round's number", fix
    if isinstance(reference, int) and not 0 <= reference < last:
        why = f"reference is round {reference}; in {last + 1} rounds, 0 to {last}, a later round must follow it"
        yield "reference", why, f"Write a number from 0 to {last - 1}." if last else "Write previous or base."
    if campaign.reference_decay != Campaign.reference_decay and reference != "ema":
        yield "reference_decay", f"the reference is {reference}, no average", "Remove it, or write `reference: ema`."


def _schedule(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    planned = sum(phase.rounds for phase in campaign.schedule)
    if campaign.schedule and planned != campaign.rounds:
        why = f"its phases are {planned} rounds, and the campaign has {campaign.rounds}"
        yield "schedule", why, f"Set `rounds: {planned}`, or change a phase."
    for number, phase in enumerate(campaign.schedule):
        before = sum(earlier.rounds for earlier in campaign.schedule[:number])
        settings = in_round(campaign, campaign.first_round + before)
        for path, why, fix in objective.contradictions(settings.train, settings.pairs, campaign.reference):
            section, _, name = path.partition(".")
            there = section in ("train", "pairs") and name in getattr(phase, section)
            yield f"schedule.{number}.{path}" if there else f"schedule.{number}", why, fix
    if campaign.bootstrap == "none" and campaign.revise != Revise():
        why = "it is read by the bootstrap alone"
        yield "revise", why, "Remove it, or add `bootstrap: critique-revision`."
    if campaign.bootstrap != "none" and campaign.revise.train.algorithm != "sft":
        yield "revise.train.algorithm", "revisions are answers to learn, not to compare", "Remove it: it is sft."


def _engine(engine: EngineSettings) -> Iterator[tuple[str, str, str]]:
    if engine.backend != "transformers":
        return
    for name in ("gpu_memory_utilization", "cpu_kv_cache_gib", "enforce_eager", "tensor_parallel_size", "max_num_seqs"):
        if getattr(engine, name) != getattr(EngineSettings, name):
            yield f"engine.{name}", f"engine.{name} is for vLLM, and engine.backend is transformers", "Remove it."
