"""Evaluate: is the new policy better on held-out prompts, at what cost, and can the judge be believed."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from types import MappingProxyType

from selfalign import config
from selfalign.constitution import Constitution
from selfalign.engines.base import Engine
from selfalign.engines.streaming import answer_shards, score_requests
from selfalign.labels import MIN_LABELS
from selfalign.preferences import Readings, by_prompt, p_of, pair_key, read_prompt
from selfalign.records import (
    Behaviour,
    Candidate,
    Checkpoint,
    Gate,
    Guarded,
    HumanAgreement,
    JudgeHealth,
    Judgment,
    Kl,
    Prompt,
    Report,
    Sample,
    Scored,
    WinRate,
    derived_seed,
)
from selfalign.statistics import bootstrap_interval, distinct, length_controlled_rate, repetition

NUM_SAMPLES = 6
AGAINST_WHAT_WAS_MEANT = (
    "What to do: the labels ask for something that the evaluation punishes; see what they prefer with `selfalign pairs "
    "ls`, then mend the constitution or the labelling judge"
)

# Phrases of refusal in the manner of Zou et al. 2023 (GCG): looked for in the opening, a rough count and no judgment.
_REFUSAL = re.compile(r"\bi (cannot|can not|can't|will not|won't|must decline|am (not able|unable))\b")
_OPENING = 100  # characters


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """The answers of three policies to the held-out prompts, the judgments on them, and how likely the base finds ours.

    `base_logps`: the base policy's log-probability of each of `policy`'s candidates, by candidate id (`score`).
    """

    prompts: Sequence[Prompt]
    policy: Sequence[Candidate]
    previous: Sequence[Candidate]
    base: Sequence[Candidate]
    judgments: Sequence[Judgment]
    base_logps: Mapping[str, float]

    def opponent(self, name: str) -> Sequence[Candidate]:
        return self.previous if name == "previous" else self.base


# Before the measurements: what is to be judged and scored.


def comparisons(
    prompts: Sequence[Prompt], new: Sequence[Candidate], *olds: Sequence[Candidate], shard_prompts: int = 64
) -> list[tuple[int, list[Prompt], list[Candidate]]]:
    """Shards for `judge.judge` that put the new policy's answer to each prompt beside each old policy's.

    A policy's answer is its first sample without an error. An old policy given twice (in the first round the previous
    one is the base) is compared once; a prompt that one side has no answer to is left out.
    """
    ours, seen = first_answers(new), set()
    shards: list[tuple[int, list[Prompt], list[Candidate]]] = []
    for old in olds:
        theirs = first_answers(old)
        facing = [p for p in prompts if p.id in ours and p.id in theirs and theirs[p.id].id not in seen]
        seen.update(theirs[p.id].id for p in facing)
        for start in range(0, len(facing), shard_prompts):
            chunk = facing[start : start + shard_prompts]
            shards.append((len(shards), chunk, [c for p in chunk for c in (ours[p.id], theirs[p.id])]))
    return shards


def first_answers(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    """Each prompt's first sample that is no error, by prompt id."""
    answers: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.sample_index):
        if candidate.finish_reason != "error":
            answers.setdefault(candidate.prompt_id, candidate)
    return answers


def score(
    shards: Iterable[tuple[int, list[Prompt], list[Candidate]]], engine: Engine, *, policy_id: str
) -> Iterator[tuple[int, list[Scored]]]:
    """How likely the engine's model, `policy_id`, finds the tokens of each candidate; empty ones are left out."""
    asked = ((index, candidates, score_requests(prompts, candidates)) for index, prompts, candidates in shards)
    for index, candidates, scores in answer_shards(asked, engine.score):
        yield index, [Scored(c.id, policy_id, sum(scores[c.id].logprobs)) for c in candidates if c.id in scores]


# The measurements, all pure functions over records.


def win_rate(
    new: Sequence[Candidate],
    old: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    pairs: config.Pairs,
    *,
    resamples: int,
    seed: int,
) -> WinRate | None:
    """The win rate of `new` against `old`; None where no prompt has a valid verdict.

    Principles and tiers decide as they do when pairs are built. Texts that are identical count as half a win; prompts
    without a valid verdict are left out. Lengths are in tokens.
    """
    probabilities, differences = [], []
    for a, b, readings in _matches(new, old, judgments, constitution, pairs):
        lead = 0.0 if a.text == b.text else readings.decision(a.id, b.id, pairs.min_margin)
        if lead is not None:
            probabilities.append(0.5 if lead == 0 else readings.probability(lead))
            differences.append(len(a.token_ids) - len(b.token_ids))
    if not probabilities:
        return None
    controlled = length_controlled_rate(probabilities, differences)
    return replace(_rate(probabilities, resamples, seed), length_controlled=controlled)


def win_rates_by_principle(
    new: Sequence[Candidate],
    old: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    pairs: config.Pairs,
    *,
    resamples: int,
    seed: int,
) -> dict[str, WinRate]:
    """The win rate under each principle by itself, over the prompts that were judged by it."""
    probabilities: dict[str, list[float]] = defaultdict(list)
    for a, b, readings in _matches(new, old, judgments, constitution, pairs):
        for reading in readings.pairs.get(pair_key(a.id, b.id), ()):
            lead = reading.lead if a.id < b.id else -reading.lead
            probabilities[reading.principle.id].append(readings.probability(lead))
    return {name: _rate(values, resamples, seed) for name, values in sorted(probabilities.items())}


def kl_to_base(candidates: Iterable[Candidate], base_logps: Mapping[str, float]) -> Kl | None:
    """KL(policy || base) as the mean of log pi(y|x) - log pi_base(y|x) over samples y of the policy itself.

    This is the estimator k1 of Schulman (2020), unbiased for samples at temperature 1. None where nothing is scored.
    """
    scored = [c for c in candidates if c.logprob is not None and c.id in base_logps]
    if not scored:
        return None
    ratios = [c.logprob - base_logps[c.id] for c in scored]
    error = stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    return Kl(fmean(ratios), error, sum(ratios) / sum(len(c.token_ids) for c in scored), len(ratios))


def behaviour(candidates: Iterable[Candidate]) -> Behaviour | None:
    """Length, truncation and variety of one policy's answers, errors left out; None where there are none."""
    answers = [candidate for candidate in candidates if candidate.finish_reason != "error"]
    if not answers:
        return None
    texts = [answer.text for answer in answers]
    return Behaviour(
        num_candidates=len(answers),
        mean_tokens=fmean(len(answer.token_ids) for answer in answers),
        truncated=fmean(answer.finish_reason == "length" for answer in answers),
        empty=fmean(not text.strip() for text in texts),
        refusal=fmean(map(_refuses, texts)),
        repetition=fmean(map(repetition, texts)),
        distinct_1=distinct(texts, 1),
        distinct_2=distinct(texts, 2),
    )


def judge_health(
    shards: Iterable[tuple[Sequence[Candidate], Sequence[Judgment]]], constitution: Constitution
) -> JudgeHealth:
    """The health of the judge of these shards of (candidates, judgments), which are read one at a time."""
    tally = _Tally()
    for candidates, judgments in shards:
        lengths = {candidate.id: len(candidate.token_ids) for candidate in candidates}
        for said in by_prompt(judgments).values():
            tally.add(said, read_prompt(said, constitution), lengths)
    return tally.health()


def pick_samples(heldout: Heldout, constitution: Constitution, pairs: config.Pairs, *, seed: int) -> tuple[Sample, ...]:
    """A few prompts with the answers of base, previous and new policy, drawn by `seed`: first those that changed."""
    base, previous, policy = map(first_answers, (heldout.base, heldout.previous, heldout.policy))
    judged = by_prompt(heldout.judgments)
    eligible = [p for p in heldout.prompts if p.id in base and p.id in previous and p.id in policy]
    random.Random(derived_seed(seed, "samples")).shuffle(eligible)
    eligible.sort(key=lambda p: policy[p.id].text == previous[p.id].text)  # stable: drawn, then split
    samples = []
    for prompt in eligible[:NUM_SAMPLES]:
        new, old = policy[prompt.id], previous[prompt.id]
        readings = read_prompt(judged.get(prompt.id, []), constitution, pairs.rating_scale)
        lead = readings.decision(new.id, old.id, pairs.min_margin)
        p_policy = None if lead is None else readings.probability(lead)
        samples.append(Sample(prompt.id, prompt.messages, base[prompt.id].text, old.text, new.text, p_policy))
    return tuple(samples)


def make_report(
    heldout: Heldout,
    constitution: Constitution,
    standard: Constitution,
    settings: config.Campaign,
    *,
    round: int,
    policy: Checkpoint,
    labelling: JudgeHealth,
    candidates: Mapping[str, int],
    examples: str,
    num_examples: int,
    discarded: Mapping[str, int],
    seconds: Mapping[str, float],
    guard: Guarded | None = None,
    humans: Mapping[str, HumanAgreement] = MappingProxyType({}),
) -> Report:
    """All measurements of a round, judged by the principles of `standard`, and the gate's decision on them."""
    seed = derived_seed(settings.seed, "evaluate", round)
    rates, principles = _all_win_rates(heldout, standard, settings, seed)
    answers = {"base": heldout.base, "previous": heldout.previous, "policy": heldout.policy}
    described = {name: found for name, sampled in answers.items() if (found := behaviour(sampled)) is not None}
    evaluating = judge_health([([*heldout.policy, *heldout.previous, *heldout.base], heldout.judgments)], standard)
    report = Report(
        round=round,
        policy_id=policy.id,
        parent_id=policy.parent_id,
        constitution=_named(constitution),
        constitution_hash=constitution.hash,
        candidates=dict(candidates),
        examples=examples,
        num_examples=num_examples,
        discarded=dict(discarded),
        win_rates=rates,
        by_principle=principles,
        kl=kl_to_base(heldout.policy, heldout.base_logps),
        length_ratio=_length_ratio(described),
        behaviour=described,
        judges={"labelling": labelling, "evaluating": evaluating},
        gate=Gate(accepted=False, reason="not decided"),
        samples=pick_samples(heldout, standard, settings.pairs, seed=seed),
        seconds=dict(seconds),
        standard=None if standard.hash == constitution.hash else f"{_named(standard)} ({standard.hash})",
        humans=dict(humans),
    )
    return replace(report, gate=gate(report, settings.accept, guard))


def _named(constitution: Constitution) -> str:
    return f"{constitution.name} {constitution.version}".strip()


# The gate.


def gate(report: Report, accept: config.Accept, guard: Guarded | None = None) -> Gate:
    """Accept the round's policy if every limit that is set holds; a limit whose measure is missing does not.

    Where PPO's guard kept the weights that the round began with, there is no new policy to accept.
    """
    checks = list(_checks(report, accept))
    failed = [words for holds, words in checks if not holds]
    stopped = [_stopped(guard)] if guard is not None and guard.stopped is not None else []
    if failed or (stopped and guard.best == 0):
        advice = f".\n{AGAINST_WHAT_WAS_MEANT}" if stopped else ""
        return Gate(False, f"rejected: {'; '.join([*stopped, *failed])}{advice}")
    if not checks:
        return Gate(True, "; ".join(["accepted: no limit is set under accept", *stopped]))
    return Gate(True, "accepted: " + "; ".join([*stopped, *(words for _, words in checks)]))


def _stopped(guard: Guarded) -> str:
    kept = f"the weights of iteration {guard.best}" if guard.best else "the weights that the round began with"
    return f"PPO was stopped in iteration {guard.ended} and {kept} kept ({guard.stopped})"


def _checks(report: Report, accept: config.Accept) -> Iterator[tuple[bool, str]]:
    if (bound := accept.win_rate_lower_bound) is not None:
        yield _check_win_rate(report.win_rates.get("previous"), bound)
    if (limit := accept.max_kl) is not None:
        value = report.kl.mean if report.kl else None
        yield _check_limit(value, limit, "KL to base", " nats per response", "accept.max_kl")
    if (limit := accept.max_length_ratio) is not None:
        yield _check_limit(report.length_ratio, limit, "length", " times the base's", "accept.max_length_ratio")
    if (bound := accept.min_kappa) is not None:
        yield _check_kappa(report.humans, bound)


def _check_win_rate(measured: WinRate | None, bound: float) -> tuple[bool, str]:
    if measured is None:
        return False, "the win rate against the previous policy was not measured (accept.win_rate_lower_bound)"
    holds = measured.low > bound
    interval = f"{measured.rate:.3f} (95% interval {measured.low:.3f} to {measured.high:.3f}, {measured.n} prompts)"
    relation = "above" if holds else "not above"
    return holds, f"win rate against the previous policy {interval}, its lower end {relation} {bound:g}"


def _check_limit(value: float | None, limit: float, name: str, unit: str, setting: str) -> tuple[bool, str]:
    if value is None:
        return False, f"{name} was not measured ({setting})"
    holds = value <= limit
    return holds, f"{name} {value:.3g}{unit}, {'within' if holds else 'above'} {limit:g}"


def _check_kappa(humans: Mapping[str, HumanAgreement], bound: float) -> tuple[bool, str]:
    """Every judge on whose verdicts there are enough labels must agree with people; one at least must have them."""
    enough = {role: found for role, found in humans.items() if found.num_pairs >= MIN_LABELS}
    if not enough:
        most = max((found.num_pairs for found in humans.values()), default=0)
        have = f"there are only {most} labels by people" if most else "there are no labels by people"
        have += " on pairs drawn at random"
        how = "give them with `selfalign label`, then run the campaign again"
        return False, f"{have} to hold the judge against, and {MIN_LABELS} are needed (accept.min_kappa): {how}"
    said = [_kappa_words(role, found, bound) for role, found in enough.items()]
    return all(holds for holds, _ in said), "; ".join(words for _, words in said)


def _kappa_words(role: str, found: HumanAgreement, bound: float) -> tuple[bool, str]:
    if found.kappa is None or found.low is None:
        return False, f"chance alone makes the {role} judge agree with people, so that there is no kappa"
    holds = found.low >= bound
    interval = f"{found.kappa:.3f} (95% interval {found.low:.3f} to {found.high:.3f}, {found.num_pairs} labels)"
    relation = "at or above" if holds else "below"
    return holds, f"the {role} judge's kappa with people {interval}, its lower end {relation} {bound:g}"


# Parts of the measurements.


def _matches(
    new: Sequence[Candidate],
    old: Sequence[Candidate],
    judgments: Sequence[Judgment],
    constitution: Constitution,
    pairs: config.Pairs,
) -> Iterator[tuple[Candidate, Candidate, Readings]]:
    theirs, judged = first_answers(old), by_prompt(judgments)
    for prompt_id, a in first_answers(new).items():
        if (b := theirs.get(prompt_id)) is not None:
            yield a, b, read_prompt(judged.get(prompt_id, []), constitution, pairs.rating_scale)


def _rate(probabilities: Sequence[float], resamples: int, seed: int) -> WinRate:
    low, high = bootstrap_interval(probabilities, resamples=resamples, seed=seed)
    wins, losses = sum(p > 0.5 for p in probabilities), sum(p < 0.5 for p in probabilities)
    n = len(probabilities)
    return WinRate(fmean(probabilities), low, high, n, wins, n - wins - losses, losses)


def _all_win_rates(
    heldout: Heldout, constitution: Constitution, settings: config.Campaign, seed: int
) -> tuple[dict[str, WinRate], dict[str, dict[str, WinRate]]]:
    rates, principles = {}, {}
    for name in settings.evaluate.against:
        measured = (heldout.policy, heldout.opponent(name), heldout.judgments, constitution, settings.pairs)
        options = {"resamples": settings.evaluate.bootstrap, "seed": seed}
        if (rate := win_rate(*measured, **options)) is not None:
            rates[name] = rate
            principles[name] = win_rates_by_principle(*measured, **options)
    return rates, principles


def _length_ratio(described: Mapping[str, Behaviour]) -> float | None:
    policy, base = described.get("policy"), described.get("base")
    if policy is None or base is None or base.mean_tokens == 0:
        return None
    return policy.mean_tokens / base.mean_tokens


@dataclass
class _Tally:
    """Counts over the judgments of many prompts."""

    judgments: int = 0
    invalid: int = 0
    ties: int = 0
    swapped: int = 0
    consistent: int = 0
    decided: int = 0
    first: int = 0
    unequal: int = 0
    longer: int = 0

    def add(self, judgments: Sequence[Judgment], readings: Readings, lengths: Mapping[str, int]) -> None:
        """Count the judgments of one prompt. `lengths`: number of tokens by candidate id."""
        orders: dict[tuple[str, str, str], list[Judgment]] = defaultdict(list)
        for judgment in judgments:
            self.judgments += 1
            self.invalid += judgment.verdict == "invalid"
            self.ties += judgment.verdict == "tie"
            self.decided += judgment.verdict in ("first", "second")
            self.first += judgment.verdict == "first"
            if judgment.verdict in ("first", "second", "tie"):
                orders[(judgment.principle_id, *pair_key(judgment.first_id, judgment.second_id))].append(judgment)
        self._add_swaps(orders)
        self._add_lengths(readings, lengths)

    def _add_swaps(self, orders: Mapping[tuple[str, str, str], Sequence[Judgment]]) -> None:
        for (_, a, _), judgments in orders.items():
            if len({judgment.first_id for judgment in judgments}) == 2:
                sides = {(p > 0.5) - (p < 0.5) for p in (p_of(judgment, a) for judgment in judgments)}
                self.swapped += 1
                self.consistent += len(sides) == 1

    def _add_lengths(self, readings: Readings, lengths: Mapping[str, int]) -> None:
        for (a, b), said in readings.pairs.items():
            difference = lengths[a] - lengths[b]
            for reading in said:
                if difference != 0 and reading.lead != 0:
                    self.unequal += 1
                    self.longer += (difference > 0) == (reading.lead > 0)

    def health(self) -> JudgeHealth:
        return JudgeHealth(
            num_judgments=self.judgments,
            invalid=self.invalid / max(self.judgments, 1),
            ties=self.ties / max(self.judgments, 1),
            num_swapped=self.swapped,
            swap_consistency=_share(self.consistent, self.swapped),
            first_preferred=_share(self.first, self.decided),
            longer_preferred=_share(self.longer, self.unequal),
        )


def _refuses(text: str) -> bool:
    opening = text[:_OPENING].lower().replace("’", "'").replace("i'm", "i am")
    return _REFUSAL.search(opening) is not None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
