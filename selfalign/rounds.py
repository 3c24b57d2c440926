"""The steps of a round: what each is made from, and who makes it. `campaign` tells in which order they come.

Shard i of a step is about the prompts of shard i, so that a stage reads, works and writes shard by shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from selfalign import config, judge_calibration, judge_card, labels, source
from selfalign import constitution as constitutions
from selfalign.constitution import Constitution
from selfalign.engines.base import Engine
from selfalign.heldout import judge_heldout, previous_answers, sample_heldout, score_heldout, write_prompts
from selfalign.judge_calibration import JudgeCalibration
from selfalign.judging import perform_judging
from selfalign.objective import judge_rewards, needs_rewards
from selfalign.people.compared import human_agreement, labelled
from selfalign.preferences import calibrated
from selfalign.records import Candidate, Checkpoint, HumanAgreement, Judgment, Prompt, Report, Scored, derived_seed
from selfalign.resources import find_constitution
from selfalign.roles import Baseline, JudgeModel, judge_model, policy_engine, probes, reference_policy
from selfalign.rollouts import count_rewarded, guard_policy, hand_out, in_training, judged_rollouts
from selfalign.stages import (
    evaluate,
    examples,
    generate,
    judge,
    outcome,
    pairs,
    prompts,
    report,
    revise,
    reward,
    train,
)
from selfalign.stages.judge.budget import spent
from selfalign.steps import NoGo, Shards, Work, nothing, only, perform, perform_training, records_of
from selfalign.store import Step
from selfalign.training.guards import Reading
from selfalign.training.job import is_held_out


def sample_baseline(work: Work) -> Baseline:
    """Before the first round: the base policy's answers to the held-out prompts."""
    settings = work.settings
    base = train.base_checkpoint(settings.policy.model, settings.policy.revision)
    heldout = prompts.load(settings.prompts.heldout, "heldout")
    drawn = prompts.draw(heldout, min(settings.evaluate.prompts, len(heldout)), settings.seed, 0)
    asked = write_prompts(work, "baseline/prompts", drawn, None)
    answers = sample_heldout(work, "baseline/candidates", asked, lambda: policy_engine(work, base, None), base, None)
    return Baseline(base, asked, answers)


def freeze_constitution(work: Work, number: int) -> Constitution:
    """The constitution as it was when the round began: later edits count from the next round on."""
    return _frozen(work, f"rounds/{number:03d}/constitution.yaml", work.settings.constitution)


def freeze_standard(work: Work, number: int) -> Constitution:
    """What evaluation and PPO's guard judge by: the round's constitution, or `evaluate.constitution`, frozen too."""
    other = work.settings.evaluate.constitution
    if other is None:
        return freeze_constitution(work, number)
    return _frozen(work, f"rounds/{number:03d}/evaluation.yaml", other)


def _frozen(work: Work, name: str, source: str) -> Constitution:
    if not (work.run.path / name).exists():
        work.run.write_text(name, constitutions.load(find_constitution(source)).to_yaml())
    return constitutions.load(work.run.path / name)


def freeze_calibration(work: Work, number: int) -> JudgeCalibration | None:
    """The judge's calibration as it was when the round first read verdicts; a later one counts from the next round."""
    if work.settings.judge.calibration is None:
        return None
    name = f"rounds/{number:03d}/calibration.json"
    if not (work.run.path / name).exists():
        work.run.write_text(name, source.read_text(Path(work.settings.judge.calibration)))
    return judge_calibration.parse(work.run.read_text(name), name)


def draw_prompts(work: Work, number: int) -> Step:
    """The round's prompts: drawn without replacement until all of them have been used."""
    settings = work.settings
    available = prompts.load(settings.prompts.train, "train")
    drawn = prompts.draw(available, settings.prompts.per_round, settings.seed, number - settings.first_round)
    return write_prompts(work, f"rounds/{number:03d}/prompts", drawn, number)


def generate_candidates(work: Work, number: int, drawn: Step, policy: Checkpoint, baseline: Baseline) -> Step:
    """Sample the policy on the round's prompts; nothing in a round that learns given answers, or rollouts alone."""
    settings, seed = work.settings.generate, derived_seed(work.settings.seed, "generate", number)
    unasked = work.settings.train.algorithm == "sft" or judge_rewards(work.settings.train, work.settings.ppo)

    def process(missing: list[int]) -> Shards:
        if unasked:
            return nothing(missing)
        engine = policy_engine(work, policy, baseline)
        return generate.generate(only(missing, drawn, Prompt), engine, settings, policy_id=policy.id, seed=seed)

    return perform(
        work, "generate", f"rounds/{number:03d}/candidates", process,
        after=[drawn], inputs={"policy": policy.digest},
        config=[settings, seed, unasked],
        count=lambda _, rows: generate.count_candidates(rows), round=number,
    )  # fmt: skip


def judge_candidates(
    work: Work,
    number: int,
    drawn: Step,
    candidates: Step,
    constitution: Constitution,
    policy: Checkpoint,
    baseline: Baseline,
) -> Step:
    """Let the judge compare the candidates under the constitution's principles, where that decides anything."""
    spin = work.settings.train.algorithm == "dpo" and work.settings.pairs.strategy == "spin"
    seed = derived_seed(work.settings.seed, "judge", number)

    def ask(missing: list[int], open_judge: Callable[[], Engine], settings: config.Judge, judge_id: str) -> Shards:
        if spin or not candidates.counts["candidates"]:
            return nothing(missing)
        shards = ((index, drawn.read(Prompt, index), candidates.read(Candidate, index)) for index in missing)
        return judge.judge(shards, open_judge(), constitution, settings, judge_id=judge_id, seed=seed)

    return perform_judging(
        work, "judge", f"rounds/{number:03d}/judgments", ask, replace(work.settings.judge, calibration=None), policy,
        baseline, after=[drawn, candidates], config=[seed, spin],
        inputs={"constitution": judge.words_hash(constitution, work.settings.judge)},
        num_shards=drawn.num_shards, round=number,
    )  # fmt: skip


def build_examples(
    work: Work, number: int, drawn: Step, candidates: Step, judgments: Step, constitution: Constitution
) -> Step:
    """Turn verdicts into what the algorithm trains on: pairs, rankings, or demonstrations.

    Verdicts are read as the judge's calibration, where there is one, puts them right: a changed one makes other pairs.
    What is discarded is counted by reason. Raises StageError where nothing is left to train on, unless the round needs
    nothing.
    """
    settings, seed = work.settings, derived_seed(work.settings.seed, "pairs", number)
    kind = examples.kind_of(settings.train.algorithm)
    calibration, tie_margin = freeze_calibration(work, number), settings.judge.tie_margin
    read_as = {} if calibration is None else {"calibration": calibration.digest}
    discarded: dict[int, dict[str, int]] = {}

    def process(missing: list[int]) -> Shards:
        for index in missing:
            sampled = candidates.read(Candidate, index)
            said = calibrated(judgments.read(Judgment, index), calibration, tie_margin)
            rows, discarded[index] = outcome.examples_of(
                drawn.read(Prompt, index), sampled, said, constitution, settings, seed
            )
            yield index, rows

    def count(index: int, rows: list[Any]) -> dict[str, int]:
        return {kind: len(rows), **discarded.pop(index)}

    built = perform(
        work, "pairs", f"rounds/{number:03d}/{kind}", process,
        after=[drawn, candidates, judgments], inputs={"constitution": constitution.hash, **read_as},
        config=[settings.pairs, settings.train.algorithm, seed, settings.judge.label_clamp], count=count, round=number,
    )  # fmt: skip
    if not judge_rewards(settings.train, settings.ppo):
        pairs.check_some(built.counts, kind)
    return built


def training_data(work: Work, number: int, drawn: Step, candidates: Step, built: Step) -> train.Data:
    """This round's examples, and those of earlier rounds that are replayed with them."""
    kind = examples.kind_of(work.settings.train.algorithm)
    window = {"all": number, "last": 1}.get(work.settings.replay.rounds, work.settings.replay.rounds)
    rounds = [f"rounds/{earlier:03d}" for earlier in range(max(0, number - window), number)]
    earlier = [step for name in rounds if (step := work.run.view(f"{name}/{kind}")) is not None]
    if not work.settings.replay.ratio or not earlier:
        return train.Data([drawn], [candidates], [built])
    again = replay(work, number, kind, built, earlier)
    before = {part: [work.run.view(f"{name}/{part}") for name in rounds] for part in ("prompts", "candidates")}
    found = {part: [step for step in steps if step is not None] for part, steps in before.items()}
    return train.Data([drawn, *found["prompts"]], [candidates, *found["candidates"]], [built, again])


def replay(work: Work, number: int, kind: examples.Kind, built: Step, earlier: list[Step]) -> Step:
    """Draw from earlier rounds' examples."""
    settings, seed = work.settings.replay, derived_seed(work.settings.seed, "replay", number)
    wanted, record = round(settings.ratio * built.counts[kind]), examples.RECORDS[kind]

    def process(missing: list[int]) -> Shards:
        rows = (row for step in earlier for _, shard in step.shards(record) for row in shard)
        yield 0, examples.replayed(rows, wanted, seed)

    return perform(
        work, "pairs", f"rounds/{number:03d}/replay/{kind}", process,
        num_shards=1, after=[built, *earlier], config=[settings, seed], round=number,
    )  # fmt: skip


def add_rewards(work: Work, number: int, data: train.Data, policy: Checkpoint, baseline: Baseline) -> train.Data:
    """Train a reward model on the pairs and let it reward every answer, where the loss asks for rewards.

    Raises NoGo where the reward model is not one to follow.
    """
    if not needs_rewards(work.settings.train, work.settings.ppo):
        return data
    trained, model = train_reward_model(work, number, data, policy, baseline)
    check_reward_model(work, number, data, trained, model)
    return replace(data, rewards=[reward_answers(work, number, data, trained, model)], reward_model=model)


def check_reward_model(work: Work, number: int, data: train.Data, trained: Step, model: Checkpoint) -> None:
    """Measure the reward model on prompts held out from it, record and tell what it is worth. Raises NoGo."""
    settings, seed = work.settings.reward_model, work.settings.seed
    prompts = (prompt for step in data.prompts for prompt in records_of(step, Prompt))
    held = [prompt for prompt in prompts if is_held_out(prompt.id, settings.holdout, seed)]
    sampled = (candidate for step in data.candidates for candidate in records_of(step, Candidate))
    gold = reward.agreement_with_gold(trained.path, held, sampled, seed)
    found = reward.measure(
        trained.path, settings.min_accuracy, round=number, model_id=model.id, seed=seed, gold=gold
    )  # fmt: skip
    report.write_reward_model(work.run, found)
    low, high = found.interval
    figures = {"accuracy": found.accuracy, "low": low, "high": high, "baseline": found.baseline, "ece": found.ece}
    if gold is not None:
        figures |= {"gold": gold.share, "gold_low": gold.interval.low, "gold_high": gold.interval.high}
    work.run.emit("reward_model", round=number, go=found.go, pairs=found.num_pairs, **figures)
    if not found.go:
        raise NoGo(found.reason)


def train_reward_model(
    work: Work, number: int, data: train.Data, policy: Checkpoint, baseline: Baseline
) -> tuple[Step, Checkpoint]:
    """The reward model of a round, on its pairs and those of rounds before it; `data` is what it is to reward."""
    settings = work.settings.reward_model
    own = {"base": baseline.policy, "policy": policy}
    start = own.get(settings.model) or train.base_checkpoint(settings.model, None)
    pairs = accumulated_pairs(work, number, data)
    trained = perform_training(
        work, number, f"rounds/{number:03d}/reward_model",
        after=pairs.steps, inputs={"start": start.digest}, config=[settings, work.settings.seed], stage="reward",
        job=lambda folder: train.make_reward_job(
            work.settings, number, folder, pairs, rewarded=data.candidates, start=start, sampler=policy
        ),
    )  # fmt: skip
    return trained, train.trained_checkpoint(trained.path, trained.digest, start, number, "reward_model")


def accumulated_pairs(work: Work, number: int, data: train.Data) -> train.Data:
    """This round's pairs and those of as many rounds before it as are asked for, beside all prompts and candidates."""
    asked = work.settings.reward_model.data
    window = {"all": number + 1, "last": 1}.get(asked, asked)
    names = [f"rounds/{earlier:03d}" for earlier in range(max(0, number + 1 - window), number)]
    paired = [name for name in names if work.run.view(f"{name}/pairs") is not None]

    def with_earlier(part: str, steps: Sequence[Step]) -> list[Step]:
        found = [*steps, *(work.run.view(f"{name}/{part}") for name in paired)]
        return list({step.name: step for step in found}.values())

    prompted, answered = with_earlier("prompts", data.prompts), with_earlier("candidates", data.candidates)
    return train.Data(prompted, answered, with_earlier("pairs", data.examples[:1]))


def reward_answers(work: Work, number: int, data: train.Data, trained: Step, model: Checkpoint) -> Step:
    """The rewards of candidates and gold answers: a shard for each step that they stand in."""
    sources = [*data.prompts, *data.candidates]

    def answers(step: Step) -> list[Candidate]:
        if step in data.candidates:
            return records_of(step, Candidate)
        return examples.gold_answers(records_of(step, Prompt))[0]

    def process(missing: list[int]) -> Shards:
        yield from ((i, reward.rewards_of(answers(sources[i]), trained.path, model.id)) for i in missing)

    return perform(
        work, "reward", f"rounds/{number:03d}/rewards", process,
        num_shards=len(sources), after=[trained, *sources], round=number,
    )  # fmt: skip


def train_policy(
    work: Work,
    number: int,
    data: train.Data,
    constitution: Constitution,
    standard: Constitution,
    policy: Checkpoint,
    baseline: Baseline,
) -> Checkpoint:
    """Train the policy on the examples. The trainer is a process of its own; it resumes where a crash left it.

    What learns from its own rollouts is watched by a judge that reads `standard`.
    """
    settings = work.settings

    readings: dict[int, Reading] = {}

    def rollouts(iteration: int, model: str | None, scores: Sequence[float]) -> dict[str, Any]:
        current = policy if model is None else in_training(model, policy, number)
        guard = guard_policy(work, number, iteration, current, scores, standard, policy, baseline, readings)
        if guard["stop"] is not None:
            return guard
        return guard | hand_out(work, number, iteration, data, constitution, current, baseline, rewarder)

    rewarder = rewarding_judge(work, policy, baseline)
    rules = {"constitution": constitution.hash, "judge": rewarder[0]} if rewarder else {}
    reference = reference_policy(work, number, policy, baseline)
    shares = {f"reference {share:g}": checkpoint.digest for checkpoint, share in reference}
    step = perform_training(
        work, number, f"rounds/{number:03d}/policy",
        after=data.steps, inputs={"policy": policy.digest, **shares, **rules},
        config=[settings.train, settings.policy.adapter, settings.seed, *ppo_settings(settings)],
        job=lambda folder: train.make_job(
            settings, number, folder, data, policy=policy, reference=reference, probes=probes(baseline)
        ),
        answer=rollouts if settings.train.algorithm == "ppo" else None,
    )  # fmt: skip
    return train.trained_checkpoint(step.path, step.digest, policy, number)


def ppo_settings(settings: config.Campaign) -> list[Any]:
    if settings.train.algorithm != "ppo":
        return []
    return [settings.ppo, settings.generate, *([settings.judge] if judge_rewards(settings.train, settings.ppo) else [])]


def rewarding_judge(work: Work, policy: Checkpoint, baseline: Baseline) -> JudgeModel | None:
    """The labelling judge, where its ratings are the rewards; one that is the policy is the policy before training."""
    if not judge_rewards(work.settings.train, work.settings.ppo):
        return None
    return judge_model(work, work.settings.judge, policy, baseline)


def evaluate_policy(
    work: Work,
    number: int,
    candidates: Step,
    judgments: Step | None,
    built: Step,
    constitution: Constitution,
    standard: Constitution,
    trained: Checkpoint,
    policy: Checkpoint,
    baseline: Baseline,
) -> Report:
    """Measure the trained policy on held-out prompts against the policy before it and the base, and decide."""
    folder = f"rounds/{number:03d}/heldout"
    asked, earlier = baseline.prompts, previous_answers(work, number, baseline)
    answers = sample_heldout(
        work, f"{folder}/candidates", asked, lambda: policy_engine(work, trained, baseline), trained, number
    )
    likelihoods = score_heldout(work, f"{folder}/scores", asked, answers, baseline.policy, number)
    verdicts = judge_heldout(work, f"{folder}/judgments", answers, earlier, standard, policy, baseline, number)
    heldout = evaluate.Heldout(
        prompts=records_of(asked, Prompt),
        policy=records_of(answers, Candidate),
        previous=records_of(earlier, Candidate),
        base=records_of(baseline.candidates, Candidate),
        judgments=records_of(verdicts, Judgment),
        base_logps={scored.candidate_id: scored.logp for scored in records_of(likelihoods, Scored)},
    )
    kind = examples.kind_of(work.settings.train.algorithm)
    discards = pairs.discards if judgments else revise.discards
    learned = {"examples": kind, "num_examples": built.counts[kind], "discarded": discards(built.counts)}
    if judge_rewards(work.settings.train, work.settings.ppo):
        learned = count_rewarded(work, number)
    verdicts_read = judgments.shards(Judgment) if judgments else ()
    verdicts = chain(
        ((candidates.read(Candidate, index), said) for index, said in verdicts_read), judged_rollouts(work, number)
    )
    cards = judge_card.measure(work.run, number, labels={}) if judgments else []  # nobody has labelled these pairs yet
    report.write_judge_cards(work.run, number, cards)
    outcome = evaluate.make_report(
        heldout, constitution, standard, work.settings,
        round=number, policy=trained, guard=report.read_guard(work.run, number),
        labelling=evaluate.judge_health(verdicts, constitution),
        candidates=candidates.counts, seconds=report.stage_seconds(work.run, number),
        humans=agreement_with_people(work, number), **learned,
    )  # fmt: skip
    return replace(outcome, dollars=spent(work.run.events()).get(number))


def agreement_with_people(work: Work, number: int) -> dict[str, HumanAgreement]:
    """How far the judges of the rounds so far agree with the labels that there are now, where the gate asks for it.

    Only pairs that make a fair sample count: those that were labelled because they are hard would blame any judge.
    """
    if work.settings.accept.min_kappa is None:
        return {}
    said = [label for found in labels.read(work.run.path).values() for label in found]
    about = labelled(work.run, labels.fair(said), work.settings, up_to=number)
    return human_agreement(about, seed=derived_seed(work.settings.seed, "people", number))
