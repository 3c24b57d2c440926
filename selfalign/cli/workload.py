"""How much a campaign does, counted from its settings, its constitution and its prompts: round by round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any

from selfalign import resources
from selfalign.cli.models import token_counter
from selfalign.config import Campaign, Judge, in_round
from selfalign.constitution import Constitution
from selfalign.objective import judge_rewards, needs_reference, needs_rewards
from selfalign.records import Prompt
from selfalign.stages.examples import Kind, kind_of
from selfalign.stages.judge import example_request
from selfalign.stages.train import evaluating_judge

SAMPLE = 200  # prompts whose tokens are counted
PLACEHOLDERS = ("The first response stands here.", "The second response stands here.")


@dataclass(frozen=True)
class RoundWork:
    """What one round does. All counts are upper bounds: an answer may be discarded, a prompt may yield no example.

    `revisions` are generations, two for each answer rewritten. `trained_answers` is the number of answers that an
    epoch reads, `passes` what all epochs cost, in forward passes over them; `reward_passes` are forward passes of a
    reward model over single answers. `rollouts` are answers sampled while the policy is trained, of all iterations,
    to `rollout_prompts` prompts; PPO trains on them, and its `passes` count the other models' too. `rollout_judgments`
    are the judgments on them, where the judge rewards them itself. `chains` are the reasons that judges give for their
    judgments, those of all kinds.
    """

    round: int
    kind: Kind
    prompts: int = 0
    candidates: int = 0
    revisions: int = 0
    judgments: int = 0
    examples: int = 0
    replayed: int = 0
    rollout_prompts: int = 0
    rollouts: int = 0
    rollout_judgments: int = 0
    heldout: int = 0
    heldout_judgments: int = 0
    chains: int = 0
    trained_answers: int = 0
    passes: int = 0
    reward_passes: int = 0

    @property
    def generations(self) -> int:
        return self.candidates + self.revisions + self.rollouts + self.heldout

    @property
    def verdicts(self) -> int:
        return self.judgments + self.rollout_judgments + self.heldout_judgments

    @property
    def trained_prompts(self) -> int:
        """Prompts that an epoch reads."""
        return self.rollout_prompts or self.examples + self.replayed


@dataclass(frozen=True)
class Workload:
    """How much a campaign does. Tokens are bounds by length alone where `exact_tokens` is false."""

    rounds: tuple[RoundWork, ...]
    prompt_tokens: float
    judge_tokens: float  # of one judge prompt with full-length answers, at most
    exact_tokens: bool

    def total(self, count: Callable[[RoundWork], int]) -> int:
        return sum(map(count, self.rounds))

    @property
    def num_generations(self) -> int:
        """Texts to be sampled in a campaign, the base policy's held-out answers with them."""
        return self.total(lambda work: work.generations) + self.rounds[0].heldout

    @property
    def num_judgments(self) -> int:
        return self.total(lambda work: work.verdicts)


@dataclass(frozen=True)
class Phase:
    """A stretch of rounds with the same settings, and what it sets otherwise than the campaign does."""

    rounds: range
    settings: Campaign
    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        first, last = self.rounds[0], self.rounds[-1]
        return f"round {first}" if first == last else f"rounds {first} to {last}"

    @property
    def bootstraps(self) -> bool:
        return self.rounds[0] < self.settings.first_round


def phases(campaign: Campaign) -> list[Phase]:
    """The bootstrap, where there is one, and the phases of the schedule, or the one that all rounds are."""
    first, last = campaign.first_round, campaign.num_rounds
    planned = list(accumulate((phase.rounds for phase in campaign.schedule), initial=first)) or [first]
    stretches = [range(a, b) for a, b in pairwise(planned if campaign.schedule else [first, last])]
    changes = [
        {
            f"{section}.{name}": value
            for section in ("train", "pairs")
            for name, value in getattr(phase, section).items()
        }
        for phase in campaign.schedule
    ] or [{}]
    whole = zip([range(first), *stretches] if first else stretches, [{}, *changes] if first else changes, strict=True)
    return [Phase(rounds, in_round(campaign, rounds[0]), changed) for rounds, changed in whole]


def count_work(
    campaign: Campaign,
    prompts: Mapping[str, Sequence[Prompt]],
    constitution: Constitution,
    standard: Constitution | None = None,
) -> Workload:
    """Count what a campaign does. `prompts` by split: "train", "heldout", and of the bootstrap "revise", "helpful".

    `standard` is what the evaluation judges by, by default the constitution.
    """
    train = prompts.get("train", [])
    count, exact = token_counter(model_folder(campaign.policy.model))
    sample = list(train[:SAMPLE])
    rendered = [count(render_example(campaign, constitution, prompt)) for prompt in sample[:20]]
    shown = 1 if campaign.judge.pointwise else 2
    return Workload(
        rounds=tuple(_rounds(campaign, prompts, constitution, standard or constitution)),
        prompt_tokens=fmean(sum(count(m.content) for m in p.messages) for p in sample) if sample else 0.0,
        judge_tokens=(fmean(rendered) if rendered else 0.0) + shown * campaign.generate.max_tokens,
        exact_tokens=exact,
    )


def render_example(campaign: Campaign, constitution: Constitution, prompt: Prompt) -> str:
    """A judge prompt as it will be sent, after its worked examples, with placeholders for the responses."""
    *examples, question = example_request(constitution, campaign.judge, prompt, PLACEHOLDERS).messages
    return "\n\n".join([*(f"{turn.role}:\n{turn.content}" for turn in examples), question.content])


def model_folder(model: str) -> Path | None:
    """The folder of a model, None where it is not on this machine."""
    return resources.find(resources.model(model))


def _rounds(
    campaign: Campaign,
    prompts: Mapping[str, Sequence[Prompt]],
    constitution: Constitution,
    standard: Constitution,
) -> Iterator[RoundWork]:
    done: list[RoundWork] = []
    for number in range(campaign.num_rounds):
        settings = in_round(campaign, number)
        made = (
            _bootstrap(settings, prompts) if number < campaign.first_round else _made(settings, prompts, constitution)
        )
        kind = kind_of(settings.train.algorithm)
        heldout, verdicts = _evaluation(settings, number, prompts.get("heldout", []), standard)
        work = RoundWork(round=number, kind=kind, heldout=heldout, heldout_judgments=verdicts, **made)
        replayed = _replayed(settings, work, done)
        answers = {"pairs": 2, "rankings": settings.generate.samples, "demonstrations": 1}[kind]
        trained = {"trained_answers": (work.examples + replayed) * answers, "passes": _passes(settings)}
        if settings.train.algorithm == "ppo":
            trained |= _rollouts(settings, work, constitution)
        if needs_rewards(settings.train, settings.ppo):
            trained["reward_passes"] = _reward_passes(settings, work, done)
        counted = RoundWork(**{**vars(work), "replayed": replayed, **trained})
        done.append(replace(counted, chains=_chains(settings, counted)))
        yield done[-1]


def _made(settings: Campaign, prompts: Mapping[str, Sequence[Prompt]], constitution: Constitution) -> dict[str, int]:
    """What a round samples, judges and learns."""
    train = prompts.get("train", [])
    num_prompts, learns_gold = settings.prompts.per_round or len(train), settings.train.algorithm == "sft"
    if judge_rewards(settings.train, settings.ppo):
        return {"prompts": num_prompts}
    spin = settings.train.algorithm == "dpo" and settings.pairs.strategy == "spin"
    candidates = 0 if learns_gold else num_prompts * settings.generate.samples
    judged = not (learns_gold or spin)
    golds = sum(prompt.response is not None for prompt in train) if train else num_prompts
    most = num_prompts if judged else min(num_prompts, golds)
    return {
        "prompts": num_prompts,
        "candidates": candidates,
        "judgments": num_prompts * _verdicts(settings, constitution) if judged else 0,
        "examples": most * (examples_per_prompt(settings) if judged else 1),
    }


def _bootstrap(settings: Campaign, prompts: Mapping[str, Sequence[Prompt]]) -> dict[str, int]:
    """Critique and revision: a first answer to each prompt, two generations a step, and the helpful answers."""
    revise, available = settings.revise, len(prompts.get("revise") or prompts.get("train", []))
    num_prompts = min(revise.num_prompts or available, available)
    rewritten = num_prompts * revise.steps
    helpful = min(len(prompts.get("helpful", [])), math.ceil(revise.helpful_ratio * rewritten))
    return {
        "prompts": num_prompts + helpful,
        "candidates": num_prompts + helpful,
        "revisions": 2 * rewritten,
        "examples": rewritten + min(helpful, round(revise.helpful_ratio * rewritten)),
    }


def examples_per_prompt(settings: Campaign) -> int:
    """The most examples that the judged candidates of one prompt make."""
    if settings.train.algorithm != "dpo":
        return 1
    compared, pairs = comparisons_per_prompt(settings.judge, settings.generate.samples), settings.pairs
    asked = {
        "all": pairs.max_per_prompt or compared,
        "random": pairs.max_per_prompt or 1,
        "margin-buckets": min(pairs.buckets, pairs.max_per_prompt or pairs.buckets),
    }
    return min(compared, asked.get(pairs.strategy, 1))


def comparisons_per_prompt(judge: Judge, samples: int) -> int:
    """How many pairs of a prompt's candidates are told apart; of ratings, all of them."""
    every = comb(samples, 2)
    if judge.comparisons in ("active", "random"):
        return min(judge.budget or samples, every)
    return samples if judge.comparisons == "ring" and samples > 3 else every


def _verdicts(settings: Campaign, constitution: Constitution) -> int:
    """Judgments on the candidates of one prompt."""
    judge, samples = settings.judge, settings.generate.samples
    if judge.pointwise:
        return samples * _panel(judge, constitution)
    return comparisons_per_prompt(judge, samples) * (2 if judge.both_orders else 1) * _panel(judge, constitution)


def _panel(judge: Judge, constitution: Constitution) -> int:
    """How many principles judge one comparison: all, or one that is drawn beside every hard constraint."""
    if judge.principles == "all":
        return len(constitution.active)
    constraints = sum(principle.kind == "hard_constraint" for principle in constitution.active)
    return constraints + (constraints < len(constitution.active))


def _evaluation(settings: Campaign, number: int, heldout: Sequence[Prompt], standard: Constitution) -> tuple[int, int]:
    """Held-out answers and the judgments on them; before the first round the previous policy is the base."""
    asked = min(settings.evaluate.prompts, len(heldout)) if heldout else settings.evaluate.prompts
    judge, opponents = evaluating_judge(settings), len(settings.evaluate.against) if number else 1
    each = _panel(judge, standard)
    if judge.pointwise:
        return asked, asked * (1 + opponents) * each
    return asked, asked * opponents * (2 if judge.both_orders else 1) * each


def _chains(settings: Campaign, work: RoundWork) -> int:
    """How often judges sample reasons: `judge.samples` times a judgment, where their method asks for them."""
    labelled = work.judgments + work.rollout_judgments
    asked = ((settings.judge, labelled), (evaluating_judge(settings), work.heldout_judgments))
    return sum(judge.samples * judgments for judge, judgments in asked if judge.reasons)


def _replayed(settings: Campaign, work: RoundWork, done: Sequence[RoundWork]) -> int:
    window = {"all": work.round, "last": 1}.get(settings.replay.rounds, settings.replay.rounds)
    there = sum(earlier.examples for earlier in done[max(0, work.round - window) :] if earlier.kind == work.kind)
    return min(round(settings.replay.ratio * work.examples), there)


def _reward_passes(settings: Campaign, work: RoundWork, done: Sequence[RoundWork]) -> int:
    """Answers read by the reward model: forward and backward of the pairs of its rounds, then every candidate once.

    A head for length asks for one more forward of each pair, before its step.
    """
    model = settings.reward_model
    window = {"all": work.round + 1, "last": 1}.get(model.data, model.data)
    earlier = done[max(0, work.round + 1 - window) :]
    pairs = work.examples + sum(before.examples for before in earlier if before.kind == "pairs")
    each = 4 if model.length_head else 3
    return model.ensemble * (each * model.train.epochs * 2 * pairs + work.candidates)


def _passes(settings: Campaign) -> int:
    """Forward and backward of the policy cost about three forwards, and the reference is asked once.

    Of rollouts policy, reference and reward model, where there is one, are asked once before the epochs; a critic is
    one more to ask and to train.
    """
    if settings.train.algorithm == "ppo":
        trained = 1 + (settings.ppo.advantage == "gae")
        return trained + 1 + needs_rewards(settings.train, settings.ppo) + 3 * settings.ppo.epochs * trained
    return 3 * settings.train.epochs + needs_reference(settings.train)


def _rollouts(settings: Campaign, work: RoundWork, constitution: Constitution) -> dict[str, int]:
    """What the iterations of a round sample, have judged and train on; each draws from the round's prompts."""
    prompts = settings.ppo.iterations * min(settings.ppo.prompts, work.prompts)
    answers = prompts * settings.ppo.samples
    judged = answers * _panel(settings.judge, constitution) if judge_rewards(settings.train, settings.ppo) else 0
    return {
        "rollout_prompts": prompts,
        "rollouts": answers,
        "rollout_judgments": judged,
        "trained_answers": answers,
    }
