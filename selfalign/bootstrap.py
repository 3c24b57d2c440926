"""The steps of round zero, where there is one: answers, critiques, revisions, and what is learned from them.

SL-CAI, Bai et al. 2022 (arXiv:2212.08073), section 3. `campaign` tells in which order they come.
"""

from __future__ import annotations

import math
from dataclasses import replace

from selfalign.constitution import Constitution
from selfalign.heldout import write_prompts
from selfalign.records import Candidate, Checkpoint, Prompt, Revision, derived_seed
from selfalign.roles import Baseline, policy_engine
from selfalign.stages import generate, prompts, revise, train
from selfalign.steps import Shards, Work, only, perform, records_of
from selfalign.store import Step

FOLDER = "rounds/000"


def draw_revised_prompts(work: Work) -> Step:
    """The prompts whose answers are revised: those named under `revise`, or else the training prompts."""
    settings = work.settings.revise
    return _drawn(work, f"{FOLDER}/prompts", settings.prompts or work.settings.prompts.train, settings.num_prompts)


def draw_helpful_prompts(work: Work, revised: Step) -> Step | None:
    """The prompts whose answers are kept as they are, as many as could be needed; None where none are asked for."""
    settings = work.settings.revise
    if not settings.helpful or not settings.helpful_ratio:
        return None
    needed = math.ceil(settings.helpful_ratio * settings.steps * revised.counts["rows"])
    return _drawn(work, f"{FOLDER}/helpful/prompts", settings.helpful, needed, at_most=True)


def _drawn(work: Work, name: str, patterns: str | list[str], number: int | None, *, at_most: bool = False) -> Step:
    available = prompts.load(patterns, "train")
    number = min(number, len(available)) if at_most else number
    return write_prompts(work, name, prompts.draw(available, number, work.settings.seed, 0), 0)


def answer_once(work: Work, asked: Step, policy: Checkpoint, baseline: Baseline) -> Step:
    """One answer of the policy to each prompt, beside the step of the prompts."""
    settings, seed = replace(work.settings.generate, samples=1), derived_seed(work.settings.seed, "bootstrap")

    def process(missing: list[int]) -> Shards:
        engine = policy_engine(work, policy, baseline)
        return generate.generate(only(missing, asked, Prompt), engine, settings, policy_id=policy.id, seed=seed)

    return perform(
        work, "generate", asked.name.removesuffix("prompts") + "candidates", process,
        after=[asked], inputs={"policy": policy.digest}, config=[settings, seed],
        count=lambda _, rows: generate.count_candidates(rows), round=0,
    )  # fmt: skip


def revise_answers(
    work: Work, asked: Step, answers: Step, constitution: Constitution, policy: Checkpoint, baseline: Baseline
) -> list[Step]:
    """Criticise and rewrite the answers, one step a principle; every step's revisions are kept."""
    done: list[Step] = []
    for number in range(1, work.settings.revise.steps + 1):
        done.append(revise_once(work, number, asked, answers, done, constitution, policy, baseline))
    return done


def revise_once(
    work: Work,
    number: int,
    asked: Step,
    answers: Step,
    done: list[Step],
    constitution: Constitution,
    policy: Checkpoint,
    baseline: Baseline,
) -> Step:
    """Step `number` of critique and revision, after the earlier ones in `done`."""
    settings, sampling = work.settings.revise, work.settings.generate
    seed, earlier = derived_seed(work.settings.seed, "revise"), list(done)

    def shard(index: int) -> revise.Shard:
        revisions = [revision for step in earlier for revision in step.read(Revision, index)]
        return index, asked.read(Prompt, index), answers.read(Candidate, index), revisions

    def process(missing: list[int]) -> Shards:
        engine = policy_engine(work, policy, baseline)
        return revise.revise(
            map(shard, missing), engine, constitution, settings, sampling, policy_id=policy.id, step=number, seed=seed
        )

    return perform(
        work, "revise", f"{FOLDER}/steps/{number}/revisions", process,
        after=[asked, answers, *earlier],
        inputs={"policy": policy.digest, "constitution": constitution.revision_hash},
        config=[revise.template_hash(settings), settings.examples, sampling, seed],
        count=lambda index, rows: revise.count_revisions(answers.read(Candidate, index), rows), round=0,
    )  # fmt: skip


def collect_demonstrations(work: Work, answers: Step, revisions: list[Step], helpful: Step | None) -> Step:
    """The revisions of all steps, mixed with helpful answers. Raises StageError where no revision is left."""
    settings, seed = work.settings.revise, derived_seed(work.settings.seed, "demonstrations")
    counted: dict[str, int] = {}

    def process(missing: list[int]) -> Shards:
        made = [revision for step in revisions for revision in records_of(step, Revision)]
        texts = revise.texts_by_id(records_of(answers, Candidate), made)
        kept = records_of(helpful, Candidate) if helpful is not None else []
        ratio = settings.helpful_ratio if helpful is not None else 0.0
        rows, counts = revise.demonstrations(made, texts, kept, ratio, seed=seed)
        counted.update(counts)
        yield 0, rows

    after = [answers, *revisions, *([helpful] if helpful is not None else [])]
    built = perform(
        work, "pairs", f"{FOLDER}/demonstrations", process,
        num_shards=1, after=after, config=[settings.helpful_ratio, seed],
        count=lambda _, rows: {"demonstrations": len(rows), **counted}, round=0,
    )  # fmt: skip
    revise.check_some(built.counts)
    return built


def demonstration_data(asked: Step, helpful: Step | None, demonstrations: Step) -> train.Data:
    return train.Data([asked, *([helpful] if helpful is not None else [])], [], [demonstrations])
