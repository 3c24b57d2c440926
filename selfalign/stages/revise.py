"""Revise: let the policy criticise and rewrite its own answers, a principle at a time (SL-CAI, Bai et al. 2022)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from statistics import fmean

from jinja2.sandbox import ImmutableSandboxedEnvironment

from selfalign import resources
from selfalign.config import Generate, Revise
from selfalign.constitution import Constitution, Example, Principle
from selfalign.engines.base import Engine, GenerateRequest, Generation, Sampling
from selfalign.engines.streaming import answer_shards
from selfalign.records import Candidate, Message, Prompt, Revision, derived_seed, digest
from selfalign.stages import StageError

Shard = tuple[int, Sequence[Prompt], Sequence[Candidate], Sequence[Revision]]
DISCARDS = {
    "no_answer": "the answer to criticise is empty or was never given",
    "no_principle": "no principle with a weight applies to the prompt",
    "critique_error": "the critique was never given, as for a conversation longer than the model's context",
    "critique_empty": "the critique is empty",
    "error": "the revision was never given, as for a conversation longer than the model's context",
    "truncated": "the revision is cut off at generate.max_tokens",
    "empty": "the revision is empty",
    "unchanged": "the revision is the answer as it was before",
}


def revise(
    shards: Iterable[Shard],
    engine: Engine,
    constitution: Constitution,
    settings: Revise,
    generate: Generate,
    *,
    policy_id: str,
    step: int,
    seed: int,
) -> Iterator[tuple[int, list[Revision]]]:
    """Criticise and rewrite each answer once: step number `step`, from 1, of the `settings.steps` steps.

    A shard is (index, prompts, first answers, revisions of all earlier steps). What is criticised is the chain's last
    good answer: the latest revision that is neither empty, cut off nor an error, or else the first answer, which may be
    cut off. Its principle is drawn by weight among those that apply to the prompt and that this chain has used least
    often, so none comes again while there are unused ones. A critique that is cut off is used as far as it goes.

    A shard is yielded once all of its revisions are in, and holds them in the order of its answers; shards come in the
    order in which they are completed. An answer that is empty or an error, or to whose prompt no principle applies,
    gets no revision; every other gets one, though it may be a failed one (see `failure`). All that is drawn or sampled
    depends on `seed`, the first answer's id and `step` alone, so a shard done again after a crash is the same shard.

    The revisions of a shard are asked for as soon as its critiques are in, ahead of further shards' critiques and in
    the same call of the engine, so the batch does not drain between the two.
    """
    editor = _Editor(constitution, settings, policy_id, step, seed)
    sampling = Sampling(generate.temperature, generate.top_p, generate.max_tokens)
    unread, criticised = iter(shards), deque[tuple[int, _Pass]]()

    def passes() -> Iterator[tuple[int, _Pass, Iterator[GenerateRequest]]]:
        while True:
            if criticised:
                index, work = criticised.popleft()
                yield index, work, editor.revision_requests(work)
            elif (shard := next(unread, None)) is not None:
                index, *records = shard
                work = _Pass(editor.drafts(*records))
                yield index, work, editor.critique_requests(work)
            else:
                return

    while True:  # again for the shards whose critiques came in when the engine had heard that there is no more to ask
        for index, work, answers in answer_shards(passes(), lambda requests: engine.generate(requests, sampling)):
            if work.critiques is None:
                criticised.append((index, _Pass(work.drafts, answers)))
            else:
                yield index, editor.revisions(work, answers)
        if not criticised:
            return


def critique_conversation(
    messages: Sequence[Message], answer: str, principle: Principle, *, examples: int = 0
) -> tuple[Message, ...]:
    """The conversation that ends with the request to criticise `answer`.

    Every text has a turn of its own, so neither prompt nor answer can pass for a request. Up to `examples` of the
    principle's examples come first, after the system message; only those with a worked critique are of use here.
    """
    shown = [example for example in _shown(principle, examples) if example.critique]
    opening = _opening(messages, [turn for example in shown for turn in _example_turns(example, principle)])
    return (*opening, Message("assistant", answer), _request("critique", principle.critique_request()))


def revision_conversation(
    messages: Sequence[Message], answer: str, critique: str, principle: Principle, *, examples: int = 0
) -> tuple[Message, ...]:
    """The conversation that goes on from the critique to the request to rewrite `answer`.

    Where all examples have a worked critique, it begins with the very turns of `critique_conversation`. Examples
    without one follow those that have one.
    """
    shown = _shown(principle, examples)
    return (
        *_opening(messages, [turn for example in shown for turn in _example_turns(example, principle)]),
        Message("assistant", answer),
        _request("critique", principle.critique_request()),
        Message("assistant", critique),
        _request("revise", principle.revision_request()),
    )


def template_hash(settings: Revise) -> str:
    """The hash of all that surrounds answers and a principle's words in the words that the policy sees."""
    texts = [resources.template(name) for name in ("critique", "revise")]
    return digest("template", "revise", texts, settings.examples)


def failure(revision: Revision) -> str | None:
    """Why a revision is no good answer, as a key of DISCARDS; None where it is one."""
    if revision.critique_finish == "error":
        return "critique_error"
    if not revision.critique.strip():
        return "critique_empty"
    return _flaw(revision.finish_reason, revision.text)


def why_skipped(answer: Candidate) -> str:
    """Why a first answer has no revision at all, as a key of DISCARDS."""
    return "no_principle" if _can_be_criticised(answer) else "no_answer"


def is_unchanged(revision: Revision, before_texts: Mapping[str, str]) -> bool:
    """Whether a revision says what the answer before it said (`before_texts`: see `texts_by_id`)."""
    return revision.text.strip() == before_texts[revision.before_id].strip()


def last_good(answer: Candidate, chain: Iterable[Revision]) -> Candidate:
    """The latest good answer of a chain of revisions, or else the first answer."""
    good = [revision for revision in chain if failure(revision) is None]
    return max(good, key=lambda revision: revision.step).candidate() if good else answer


def by_answer(revisions: Iterable[Revision]) -> dict[str, list[Revision]]:
    """The chains of revisions, each in the order given, by the id of their first answer."""
    chains: dict[str, list[Revision]] = {}
    for revision in revisions:
        chains.setdefault(revision.candidate_id, []).append(revision)
    return chains


def texts_by_id(answers: Iterable[Candidate], revisions: Iterable[Revision]) -> dict[str, str]:
    """The texts of answers and revisions by their ids: where to look up what a revision was before."""
    return {record.id: record.text for record in (*answers, *revisions)}


def count_revisions(answers: Sequence[Candidate], revisions: Iterable[Revision]) -> Counter[str]:
    """What became of a shard's answers in one step: how many were revised, and the others by reason.

    `answers` are the first answers that `revise` was given, `revisions` what it yielded for them. "revised" and the
    reasons add up to "answers"; "critique_truncated" counts critiques that were cut off, whatever became of them.
    """
    made = {revision.candidate_id: revision for revision in revisions}
    counts = Counter(answers=len(answers), revised=0)
    for answer in answers:
        if (revision := made.get(answer.id)) is not None:
            counts[failure(revision) or "revised"] += 1
            counts["critique_truncated"] += revision.critique_finish == "length"
        else:
            counts[why_skipped(answer)] += 1
    return counts


def demonstrations(
    revisions: Iterable[Revision],
    before_texts: Mapping[str, str],
    helpful: Sequence[Candidate],
    ratio: float,
    *,
    seed: int,
) -> tuple[list[Candidate], Counter[str]]:
    """What to train on: the good revisions of all steps, then `ratio` helpful answers for each; and what was left out.

    A revision that says what was said before it would teach nothing new and count an answer twice; it is left out as
    "unchanged" (`before_texts`: see `texts_by_id`). Of the helpful answers those that are duplicates, empty, cut off or
    errors are left out, and the rest is drawn with `seed`, each once: a growing number of revisions adds to the draw
    and changes nothing in it. "revisions" and "helpful" count what is kept; "helpful_missing" how many more helpful
    answers the ratio asks for than there are, "helpful_spare" how many there are that it does not ask for.
    """
    counts = Counter(revisions=0, helpful=0)
    kept = []
    for revision in revisions:
        reason = failure(revision) or ("unchanged" if is_unchanged(revision, before_texts) else None)
        counts[reason or "revisions"] += 1
        if reason is None:
            kept.append(revision.candidate())
    usable = _usable_helpful(helpful, counts)
    usable.sort(key=lambda candidate: digest("helpful", seed, candidate.id))
    wanted = round(ratio * len(kept))
    counts["helpful"] = min(wanted, len(usable))
    counts["helpful_missing"] = max(0, wanted - len(usable))
    counts["helpful_spare"] = max(0, len(usable) - wanted)
    return kept + usable[:wanted], counts


def discards(counts: Mapping[str, int]) -> dict[str, int]:
    """The discards among a step's counts, by reason, most frequent first."""
    found = {reason: counts[reason] for reason in DISCARDS if counts.get(reason)}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def check_some(counts: Mapping[str, int]) -> None:
    """Raise StageError, with the reasons, if the counts of `demonstrations` tell of no revision to train on."""
    if counts.get("revisions"):
        return
    reasons = [f"{count} {reason} ({DISCARDS[reason]})" for reason, count in discards(counts).items()]
    raise StageError(
        f"no revision is left to train on: {'; '.join(reasons) or 'nothing was revised'}\n"
        "look at the critiques (selfalign revisions ls RUN), raise generate.max_tokens, or give the principles "
        "examples with a worked critique"
    )


# A summary for people.


@dataclass(frozen=True, slots=True)
class StepSummary:
    """One step's good revisions. `changed`: share whose text differs from the one before; `mean_tokens`: of the texts.

    Both are None where the step has no good revision.
    """

    step: int
    revisions: int
    changed: float | None
    mean_tokens: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What the revisions of a run look like, by step, and how many good ones each principle led to."""

    steps: tuple[StepSummary, ...]
    principles: dict[str, int]


def describe(revisions: Iterable[Revision], before_texts: Mapping[str, str]) -> Summary:
    """Sum up revisions of any number of steps (`before_texts`: see `texts_by_id`)."""
    steps: dict[int, list[Revision]] = {}
    principles: Counter[str] = Counter()
    for revision in revisions:
        good = steps.setdefault(revision.step, [])
        if failure(revision) is None:
            good.append(revision)
            principles[revision.principle_id] += 1
    summaries = (_summary(step, good, before_texts) for step, good in sorted(steps.items()))
    return Summary(tuple(summaries), dict(principles.most_common()))


def _summary(step: int, good: Sequence[Revision], before_texts: Mapping[str, str]) -> StepSummary:
    if not good:
        return StepSummary(step, 0, None, None)
    changed = fmean(not is_unchanged(revision, before_texts) for revision in good)
    return StepSummary(step, len(good), changed, fmean(len(revision.token_ids) for revision in good))


# The parts.


@dataclass(frozen=True, slots=True)
class _Draft:
    """An answer on the desk: `id` names the revision to be, `candidate_id` the first answer of the chain."""

    id: str
    prompt: Prompt
    candidate_id: str
    answer: Candidate
    principle: Principle
    seed: int

    @property
    def critique_id(self) -> str:
        return f"{self.id}/critique"


@dataclass(frozen=True, slots=True)
class _Pass:
    """A shard at the engine: first for its critiques, then, with these by `critique_id`, for its revisions."""

    drafts: list[_Draft]
    critiques: Mapping[str, Generation] | None = None

    def critique(self, draft: _Draft) -> Generation:
        return self.critiques[draft.critique_id]


class _Editor:
    """Which answer is held against which principle, in which words, and what comes of it."""

    def __init__(self, constitution: Constitution, settings: Revise, policy_id: str, step: int, seed: int) -> None:
        self.constitution, self.examples = constitution, settings.examples
        self.policy_id, self.step, self.seed = policy_id, step, seed
        self.template_hash = template_hash(settings)
        self._hashes = {principle.id: principle.revision_hash for principle in constitution.active}

    def drafts(
        self, prompts: Sequence[Prompt], answers: Sequence[Candidate], earlier: Sequence[Revision]
    ) -> list[_Draft]:
        by_id, chains = {prompt.id: prompt for prompt in prompts}, by_answer(earlier)
        drafts = (self._draft(by_id[answer.prompt_id], answer, chains.get(answer.id, [])) for answer in answers)
        return [draft for draft in drafts if draft is not None]

    def _draft(self, prompt: Prompt, answer: Candidate, chain: Sequence[Revision]) -> _Draft | None:
        seed = derived_seed(self.seed, "revise", answer.id, self.step)
        principle = self._principle(prompt, chain, seed)
        if principle is None or not _can_be_criticised(answer):
            return None
        identity = Revision.make_id(answer.id, self.step, self._hashes[principle.id], self.template_hash, seed)
        return _Draft(identity, prompt, answer.id, last_good(answer, chain), principle, seed)

    def _principle(self, prompt: Prompt, chain: Iterable[Revision], seed: int) -> Principle | None:
        uses = Counter(revision.principle_id for revision in chain)
        drawable = [principle for principle in self.constitution.applicable(prompt) if principle.weight > 0]
        fewest = min((uses[principle.id] for principle in drawable), default=0)
        fresh = tuple(principle for principle in drawable if uses[principle.id] == fewest)
        return replace(self.constitution, principles=fresh).sample(prompt, derived_seed(seed, "principle"))

    def critique_requests(self, work: _Pass) -> Iterator[GenerateRequest]:
        for draft in self._sharing_prefixes(work.drafts):
            messages = critique_conversation(
                draft.prompt.messages, draft.answer.text, draft.principle, examples=self.examples
            )
            yield GenerateRequest(draft.critique_id, messages, derived_seed(draft.seed, "critique"))

    def revision_requests(self, work: _Pass) -> Iterator[GenerateRequest]:
        """A request for each draft whose critique gives something to go on."""
        for draft in self._sharing_prefixes(work.drafts):
            critique = _said(work.critique(draft))
            if critique.strip():
                messages = revision_conversation(
                    draft.prompt.messages, draft.answer.text, critique, draft.principle, examples=self.examples
                )
                yield GenerateRequest(draft.id, messages, derived_seed(draft.seed, "revision"))

    def _sharing_prefixes(self, drafts: Iterable[_Draft]) -> list[_Draft]:
        """Drafts in the order in which neighbours begin alike: by principle where its examples come first.

        Otherwise a conversation begins with its prompt, and the answers to a prompt stand together already.
        """
        return sorted(drafts, key=lambda draft: draft.principle.id if _shown(draft.principle, self.examples) else "")

    def revisions(self, work: _Pass, answers: Mapping[str, Generation]) -> list[Revision]:
        return [self._revision(draft, work.critique(draft), answers.get(draft.id)) for draft in work.drafts]

    def _revision(self, draft: _Draft, critique: Generation, revised: Generation | None) -> Revision:
        """The record of a step; what was never asked for, as its critique failed, is recorded as an error."""
        failed = revised is None or revised.finish_reason == "error"
        return Revision(
            id=draft.id,
            prompt_id=draft.prompt.id,
            candidate_id=draft.candidate_id,
            step=self.step,
            before_id=draft.answer.id,
            principle_id=draft.principle.id,
            principle_hash=self._hashes[draft.principle.id],
            policy_id=self.policy_id,
            template_hash=self.template_hash,
            critique=_said(critique),
            critique_finish=critique.finish_reason,
            text="" if failed else revised.text,
            token_ids=() if failed else revised.token_ids,
            finish_reason="error" if failed else revised.finish_reason,
        )


def _shown(principle: Principle, examples: int) -> list[Example]:
    """The first examples of a principle, those with a worked critique before the others."""
    return sorted(principle.examples, key=lambda example: not example.critique)[:examples]


def _example_turns(example: Example, principle: Principle) -> Iterator[Message]:
    yield Message("user", example.prompt)
    yield Message("assistant", example.worse)
    if example.critique:
        yield _request("critique", principle.critique_request())
        yield Message("assistant", example.critique)
    yield _request("revise", principle.revision_request())
    yield Message("assistant", example.better)


def _opening(messages: Sequence[Message], turns: Sequence[Message]) -> tuple[Message, ...]:
    """The prompt's messages with the turns of examples before them, but after a system message."""
    head = len(list(takewhile(lambda message: message.role == "system", messages)))
    return (*messages[:head], *turns, *messages[head:])


@cache
def _request(template: str, words: str) -> Message:
    """A principle's words as a turn of the user. The words are a value of the template and never part of it."""
    environment = ImmutableSandboxedEnvironment(autoescape=False, trim_blocks=True)
    return Message("user", environment.from_string(resources.template(template)).render(request=words).strip())


def _said(generation: Generation) -> str:
    return "" if generation.finish_reason == "error" else generation.text


def _can_be_criticised(answer: Candidate) -> bool:
    return _flaw(answer.finish_reason, answer.text) in (None, "truncated")


def _flaw(finish_reason: str, text: str) -> str | None:
    if finish_reason == "error":
        return "error"
    if not text.strip():
        return "empty"
    return "truncated" if finish_reason == "length" else None


def _usable_helpful(helpful: Iterable[Candidate], counts: Counter[str]) -> list[Candidate]:
    usable = []
    for candidate in helpful:
        flaw = "duplicate" if candidate.duplicate_of else _flaw(candidate.finish_reason, candidate.text)
        if flaw is None:
            usable.append(candidate)
        else:
            counts[f"helpful_{flaw}"] += 1
    return usable
