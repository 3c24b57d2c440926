"""Settings that are each allowed but make no sense together: what no single setting shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from selfalign import objective, source
from selfalign.config.tree import Campaign, EngineSettings, Judge, Pairs, RewardModel, in_round

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def contradictions(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    """Every contradiction of a campaign, as (setting, what and why, fix)."""
    yield from _missing(campaign)
    yield from _sampling(campaign)
    yield from _judging(campaign)
    yield from _training(campaign)
    yield from _engine(campaign.engine)


def unread(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    """Sections that nothing in the campaign reads, whatever stands in them, as (section, why, fix)."""
    rounds = _rounds(campaign)
    if campaign.bootstrap == "none":
        yield "revise", "it is read by the bootstrap alone", "Remove it, or add `bootstrap: critique-revision`."
    if not any(objective.needs_rewards(settings.train, settings.ppo) for settings in rounds):
        judged = any(objective.judge_rewards(settings.train, settings.ppo) for settings in rounds)
        why = "the judge gives the rewards (ppo.reward)" if judged else "no round asks for rewards"
        fix = "Remove it, or add a distill term to train.loss, or set train.reward_weight."
        yield "reward_model", why, fix
    if not any(settings.train.algorithm == "ppo" for settings in rounds):
        yield "ppo", "no round trains by PPO", "Remove it, or set `train: {algorithm: ppo}`."


def _rounds(campaign: Campaign) -> list[Campaign]:
    """The settings of each round that learns preferences."""
    return [in_round(campaign, number) for number in range(campaign.first_round, campaign.num_rounds)]


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
    if judge.calibration and pointwise:
        why = "ratings are shown in no order, and a calibration is of a pairwise judge"
        yield "judge.calibration", why, "Remove it, or use pairwise-logprob."
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
    default = Campaign()
    yield from (found for found in unread(campaign) if getattr(campaign, found[0]) != getattr(default, found[0]))
    yield from _reward_model(campaign)
    yield from _ppo(campaign)


def _reward_model(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    model = campaign.reward_model
    if model.ensemble == 1 and model.combine != RewardModel.combine:
        yield "reward_model.combine", "there is only one reward model", "Remove it, or set `ensemble: 4`."
    if model.length_head and model.train.batch_size == 1:
        why = "two answers always correlate with their lengths by 1 or -1: steps of one pair tell nothing of length"
        yield "reward_model.length_head", why, "Set reward_model.train.batch_size to 16 or more."
    if model.combine != "mean-variance" and model.variance_weight != RewardModel.variance_weight:
        why = f"`combine: {model.combine}` does not read it"
        yield "reward_model.variance_weight", why, "Remove it, or write `combine: mean-variance`."

    rounds = _rounds(campaign)
    if model.scorer == "engine" and not any(s.train.algorithm == "ppo" and s.ppo.reward == "model" for s in rounds):
        why = "the engine scores rollouts, and no round has any that a reward model rewards"
        yield "reward_model.scorer", why, "Remove it."
    if model.scorer == "engine" and model.ensemble > 1:
        yield (
            "reward_model.scorer",
            "the engine holds one reward model, no ensemble",
            "Remove it, or set `ensemble: 1`.",
        )


def _ppo(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    rounds = _rounds(campaign)
    asked = any(settings.train.algorithm == "ppo" for settings in rounds)
    if asked and campaign.reference == "ema":
        why = "PPO keeps its reference in memory, and averages none"
        yield "reference", why, "Write previous, base, or a round's number."
    if asked and campaign.ppo.reward == "judge":
        yield from _judged(campaign, rounds)
    if asked and campaign.policy.adapter and campaign.policy.adapter.dropout:
        why = "PPO compares log-probabilities before and after a step, and dropout would make them differ by chance"
        yield "policy.adapter.dropout", why, "Remove it."
    if campaign.ppo.sampler_clip is not None and campaign.generate.temperature != 1.0:
        why = "engines record log-probabilities at temperature 1, and rollouts are sampled at another"
        yield "ppo.sampler_clip", why, "Remove it, or set `generate: {temperature: 1}`."
    if campaign.ppo.stop_disagreement is not None and campaign.reward_model.ensemble == 1:
        why = "one reward model has nobody to disagree with"
        yield "ppo.stop_disagreement", why, "Remove it, or set `reward_model: {ensemble: 4}`."
    if campaign.ppo.advantage in ("rloo", "grpo") and campaign.ppo.samples < 2:
        why = f"{campaign.ppo.advantage} compares the answers to one prompt, and there is one"
        yield "ppo.samples", why, "Set it to 2 or more, such as 4."


def _judged(campaign: Campaign, rounds: Sequence[Campaign]) -> Iterator[tuple[str, str, str]]:
    """What the judge of rollouts cannot do, and what nobody reads where all rounds are rewarded by it."""
    if campaign.judge.method == "pairwise-logprob":
        why = "a pairwise judge says which of two answers is better, and rewards no single one"
        yield "ppo.reward", why, "Set `judge: {method: pointwise-logprob}`, or remove it for a reward model."
    if all(objective.judge_rewards(settings.train, settings.ppo) for settings in rounds):
        for name in ("strategy", "max_per_prompt", "length_balance", "labels"):
            if getattr(campaign.pairs, name) != getattr(Pairs, name):
                yield f"pairs.{name}", "the judge rewards single answers (ppo.reward): there are no pairs", "Remove it."


def _engine(engine: EngineSettings) -> Iterator[tuple[str, str, str]]:
    if engine.backend != "transformers":
        return
    for name in ("gpu_memory_utilization", "cpu_kv_cache_gib", "enforce_eager", "tensor_parallel_size", "max_num_seqs"):
        if getattr(engine, name) != getattr(EngineSettings, name):
            yield f"engine.{name}", f"engine.{name} is for vLLM, and engine.backend is transformers", "Remove it."
