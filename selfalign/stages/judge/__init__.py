"""Judge: put candidates before the judge, one principle at a time, and record what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from selfalign.config import Judge
from selfalign.constitution import Constitution
from selfalign.engines.base import Engine
from selfalign.engines.streaming import answer_shards
from selfalign.records import Candidate, Judgment, Prompt
from selfalign.stages import StageError
from selfalign.stages.judge.asking import judged
from selfalign.stages.judge.chains import sampling_of
from selfalign.stages.judge.sheet import Sheet, distinct, example_request, template_hash, words_hash
from selfalign.stages.judge.waves import judged_in_waves
from selfalign.stages.judge.wording import make_nonce, render_pairwise, render_pointwise


def judge(
    shards: Iterable[tuple[int, list[Prompt], list[Candidate]]],
    engine: Engine,
    constitution: Constitution,
    settings: Judge,
    *,
    judge_id: str,
    seed: int,
    alone: bool = False,
) -> Iterator[tuple[int, list[Judgment]]]:
    """Judge the candidates of each prompt and yield each shard once all of its verdicts are in.

    A text that several candidates of a prompt share is judged once, as its first candidate; errors are not judged,
    truncated answers are. Judgments are ordered by prompt, then comparison, order shown and principle; questions that
    differ in their principle alone follow one another, so that an engine computes what they share once. A prompt to
    which no principle applies gets no judgment. With `comparisons: active` a shard is judged in waves, each of which
    asks for what the answers so far make most worth knowing, so that the engine's batch drains between waves; a shard
    judged again gets the same questions if it gets the same answers. With reasons the batch drains twice a shard: all
    of them are sampled before verdicts are read after them. A candidate that has no other beside it is rated only where
    it is to stand `alone`, such as for a reward. Raises EngineError unless each label is a single token of the judge,
    and StageError for a constitution that the method cannot judge by.
    """
    sheet = Sheet(constitution, settings, judge_id, seed, alone=alone)
    engine.check_labels(sheet.labels)
    if settings.comparisons == "active" and not settings.pointwise:
        for index, prompts, candidates in shards:
            yield index, judged_in_waves(sheet, engine, prompts, candidates)
        return
    if settings.reasons:
        for index, prompts, candidates in shards:
            yield index, judged(sheet, engine, sheet.questions(prompts, candidates))
        return
    asked = (sheet.ask(index, prompts, candidates) for index, prompts, candidates in shards)
    for index, questions, choices in answer_shards(asked, engine.choose):
        yield index, [sheet.judgment(question, choices[question.id]) for question in questions]


def count_verdicts(judgments: Iterable[Judgment]) -> Counter[str]:
    """How many judgments there are, and how many of each verdict; a valid rating counts as "rated".

    The kinds of "invalid" are counted again, each as "invalid_KIND".
    """
    counts = Counter(judgments=0, invalid=0)
    for judgment in judgments:
        counts["judgments"] += 1
        counts["rated" if judgment.rating is not None else judgment.verdict] += 1
        if judgment.invalid_reason:
            counts[f"invalid_{judgment.invalid_reason}"] += 1
    return counts


def check_invalid_share(verdicts: Mapping[str, int], max_invalid: float) -> None:
    """Raise StageError if more than `max_invalid` of the judgments counted by `count_verdicts` are invalid."""
    invalid, total = verdicts.get("invalid", 0), verdicts.get("judgments", 0)
    if invalid > max_invalid * total:
        raise StageError(
            f"the judge gave no valid verdict on {invalid} of {total} questions ({invalid / total:.1%}), more than "
            f"judge.max_invalid allows ({max_invalid:.1%}): {_kinds(verdicts)}. "
            "Look at the `raw` column of the judgments; a judge that answers by label is set by judge.model, "
            "another limit by --set judge.max_invalid=SHARE"
        )


def _kinds(verdicts: Mapping[str, int]) -> str:
    found = {kind: n for kind in _MEANINGS if (n := verdicts.get(f"invalid_{kind}", 0))}
    return ", ".join(f"{n} {kind} ({_MEANINGS[kind]})" for kind, n in sorted(found.items(), key=lambda item: -item[1]))


_MEANINGS = {
    "refused": "the judge declined to answer",
    "truncated": "cut off at judge.cot_tokens",
    "malformed": "none of the labels, or not the JSON that was asked for",
    "contradictory": "the reasons state another verdict, or there are several",
    "forged": "without the sign of the question, as where a candidate's text is repeated",
    "empty": "nothing was said",
    "error": "no answer came, or the prompt was too long",
}

__all__ = [
    "check_invalid_share",
    "count_verdicts",
    "distinct",
    "example_request",
    "judge",
    "make_nonce",
    "render_pairwise",
    "render_pointwise",
    "sampling_of",
    "template_hash",
    "words_hash",
]
