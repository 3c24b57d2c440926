"""What a policy is trained on, as token ids: prompts with their answers, read from a run and held as flat arrays.

A group is one prompt and the answers to it that an algorithm looks at together: two for a pair, k for a ranking, one
for a demonstration.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from selfalign.records import Candidate, Message, Pair, Prompt, Ranking, Reward, digest
from selfalign.store import read_records
from selfalign.training.job import TrainJob

Tokens = Sequence[int]
PAIRED = ("dpo", "reward_model")  # algorithms that read pairs


class NothingToTrainOn(ValueError):
    """No group is left, or too few for the algorithm."""


@dataclass(frozen=True)
class Encoder:
    """How texts become tokens of the model that is trained: a conversation, and an answer to one up to its end.

    `foreign`: candidates hold the tokens of another tokenizer, so that their texts are encoded instead.
    """

    chat: Callable[[Sequence[Message]], list[int]]
    answer: Callable[[Sequence[Message], str], list[int]]
    foreign: bool = False


@dataclass(frozen=True)
class Group:
    """A prompt, its answers, and what each is worth. `key` names the group in what is kept of it.

    `labels`, one an answer: of a pair the probabilities that each is the better one; of answers that are labelled one
    by one, 1 for a desirable and 0 for an undesirable one, or the win rate; of a ranking 1 for the best down to 0.
    """

    key: str
    prompt: Tokens
    answers: tuple[Tokens, ...]
    labels: tuple[float, ...]
    weight: float = 1.0
    rewards: tuple[float, ...] | None = None  # by a reward model

    @staticmethod
    def pair(
        key: str, prompt: Tokens, chosen: Tokens, rejected: Tokens, p_chosen: float = 1.0, weight: float = 1.0
    ) -> Group:
        return Group(key, prompt, (chosen, rejected), (p_chosen, 1.0 - p_chosen), weight)


class GroupDataset:
    """N groups with M answers; all token ids lie in one int32 array, each group's prompt and then its answers.

    `prompt_lengths`, `weights`, `sizes` (answers of a group) are [N]; `answer_lengths`, `labels` and `rewards` (0 where
    there are none) are [M], group by group; the answers of group i are numbered from `first_answer[i]`, [N + 1].
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        tokens: list[np.ndarray] = []
        self.keys: list[str] = []
        prompt_lengths, sizes, answer_lengths, labels, weights, rewards = [], [], [], [], [], []
        for group in groups:
            tokens += [np.asarray(part, dtype=np.int32) for part in (group.prompt, *group.answers)]
            self.keys.append(group.key)
            prompt_lengths.append(len(group.prompt))
            sizes.append(len(group.answers))
            answer_lengths += [len(answer) for answer in group.answers]
            labels += group.labels
            weights.append(group.weight)
            rewards += group.rewards or [0.0] * len(group.answers)
        self.prompt_lengths, self.sizes = (np.asarray(x, dtype=np.int64) for x in (prompt_lengths, sizes))
        self.answer_lengths = np.asarray(answer_lengths, dtype=np.int64)
        self.labels, self.weights, self.rewards = (np.asarray(x, dtype=np.float64) for x in (labels, weights, rewards))
        self.first_answer = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)
        self._tokens = np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int32)
        self._ends = np.cumsum(np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens)))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def num_answers(self) -> int:
        return len(self.answer_lengths)

    def parts(self, index: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Token ids of the prompt, and of each answer."""
        index %= len(self)
        first = int(self.first_answer[index]) + index  # every earlier group has a prompt beside its answers
        last = first + int(self.sizes[index])
        start = self._ends[first - 1] if first else 0
        prompt, *answers = np.split(self._tokens[start : self._ends[last]], self._ends[first:last] - start)
        return prompt, answers

    def select(self, indexes: Iterable[int]) -> GroupDataset:
        """Some of the groups, in the given order."""
        return GroupDataset(map(self.group, indexes))

    def group(self, index: int) -> Group:
        prompt, answers = self.parts(index)
        own = slice(self.first_answer[index], self.first_answer[index + 1])
        labels, rewards = tuple(self.labels[own].tolist()), tuple(self.rewards[own].tolist())
        return Group(self.keys[index], prompt, tuple(answers), labels, float(self.weights[index]), rewards)

    def answers_of(self, indexes: np.ndarray) -> np.ndarray:
        """The numbers of all answers of some groups, group by group."""
        return np.concatenate([np.arange(self.first_answer[i], self.first_answer[i + 1]) for i in indexes])

    def longest_answers(self) -> np.ndarray:
        """[N]"""
        return np.maximum.reduceat(self.answer_lengths, self.first_answer[:-1])

    def total_answer_lengths(self) -> np.ndarray:
        """[N]"""
        return np.add.reduceat(self.answer_lengths, self.first_answer[:-1])

    def mismatched(self, max_length: int) -> GroupDataset:
        """Every prompt with the answers of the group before it, cut where they would exceed `max_length` tokens.

        Raises NothingToTrainOn for a single group, whose answers belong to the only prompt there is.
        """
        if len(self) < 2:
            raise NothingToTrainOn(
                "KTO needs answers to two prompts or more: its divergence is estimated on answers to other prompts"
            )

        def groups() -> Iterator[Group]:
            for index, key in enumerate(self.keys):
                prompt = self.parts(index)[0]
                room = max(1, max_length - len(prompt))
                answers = tuple(answer[:room] for answer in self.parts(index - 1)[1])
                yield Group(key, prompt, answers, (0.0,) * len(answers))

        return GroupDataset(groups())

    def with_room_behind(self) -> GroupDataset:
        """Every answer with one more token behind it, so that the model's state at its own last token is computed."""
        groups = map(self.group, range(len(self)))
        return GroupDataset(replace(g, answers=tuple([*answer, 0] for answer in g.answers)) for g in groups)

    def digest(self) -> str:
        """Hash of names, tokens, labels and weights."""
        content = hashlib.sha256()
        for array in (self._tokens, self._ends, self.sizes, self.labels, self.weights, self.rewards):
            content.update(np.ascontiguousarray(array).data)
        return digest("groups", self.keys, content.hexdigest())

    def highest_token(self) -> int:
        return int(self._tokens.max(initial=0))

    def num_tokens(self, indexes: np.ndarray) -> int:
        """Tokens of all sequences of some groups; a prompt counts with each answer, as where it is not shared."""
        prompts = int((self.prompt_lengths[indexes] * self.sizes[indexes]).sum())
        return prompts + int(self.answer_lengths[self.answers_of(indexes)].sum())


# From the records of a run.


def probe_groups(job: TrainJob, encoder: Encoder) -> GroupDataset:
    """The probes: what stands for the data of a job that has none before its first rollouts."""
    probes = enumerate(job.probes)
    return GroupDataset(Group(str(i), encoder.chat(probe.messages), (probe.token_ids,), (1.0,)) for i, probe in probes)


def load_groups(job: TrainJob, encoder: Encoder) -> tuple[GroupDataset, Counter[str]]:
    """Read what a job trains on as token ids, and count what is left out, by reason.

    A pair of which one answer does not fit `max_length` tokens with its prompt is left out whole, of other groups only
    that answer: truncation would take its end-of-turn token away. Answers that were never sampled, such as gold ones,
    are encoded here. Raises NothingToTrainOn where no group is left, KeyError where a record is missing.
    """
    groups, total = _groups(job, encoder)
    dropped: Counter[str] = Counter()
    dataset = GroupDataset(_usable(groups, job, dropped))
    if not len(dataset):
        raise NothingToTrainOn(_nothing_message(job, total, dropped))
    return dataset, dropped


@dataclass(frozen=True)
class _Named:
    """A group before its texts are looked up."""

    key: str
    prompt_id: str
    answer_ids: tuple[str, ...]
    labels: tuple[float, ...]
    weight: float


def load_answers(job: TrainJob, encoder: Encoder) -> tuple[GroupDataset, list[str]]:
    """Every candidate that a job is to reward, and the gold answers, prompt by prompt; and their ids in this order.

    What is empty or does not fit `max_length` with its prompt is left out.
    """
    prompts = {p.id: p for p in _read(job.prompts_dirs, Prompt)}
    golds = (gold for prompt in prompts.values() if (gold := prompt.gold()) is not None)
    by_prompt: dict[str, dict[str, np.ndarray]] = {}
    for candidate in chain(golds, _read(job.rewarded_dirs, Candidate)):
        if candidate.prompt_id in prompts:
            tokens = answer_tokens(candidate, prompts, encoder)
            by_prompt.setdefault(candidate.prompt_id, {})[candidate.id] = tokens
    groups, ids = [], []
    for prompt_id, answers in by_prompt.items():
        asked = np.asarray(encoder.chat(prompts[prompt_id].messages), dtype=np.int32)
        fitting = {name: a for name, a in answers.items() if not _refused(asked, a, job.train.max_length)}
        if fitting:
            groups.append(Group(prompt_id, asked, tuple(fitting.values()), (1.0,) * len(fitting)))
            ids += fitting
    return GroupDataset(groups), ids


def _groups(job: TrainJob, encoder: Encoder) -> tuple[Iterator[Group], int]:
    if job.algorithm in ("sft", "raft"):
        demonstrations = list(_read(job.examples_dirs, Candidate))
        named = [_Named(c.id, c.prompt_id, (c.id,), (1.0,), 1.0) for c in demonstrations]
        answers = demonstrations
    else:
        named = _named_examples(job)
        wanted = {answer for group in named for answer in group.answer_ids}
        answers = [c for c in _read(job.candidates_dirs, Candidate) if c.id in wanted]
    needed = {group.prompt_id for group in named}
    prompts = {p.id: p for p in _read(job.prompts_dirs, Prompt) if p.id in needed}
    golds = (gold for prompt in prompts.values() if (gold := prompt.gold()) is not None)
    tokens = {c.id: answer_tokens(c, prompts, encoder) for c in chain(golds, answers)}
    encoded = {name: np.asarray(encoder.chat(prompt.messages), dtype=np.int32) for name, prompt in prompts.items()}
    rewards = {r.candidate_id: r.reward for r in _read(job.rewards_dirs, Reward)}
    return _joined(named, encoded, tokens, rewards), len(named)


def _named_examples(job: TrainJob) -> list[_Named]:
    if job.algorithm in PAIRED:
        return [
            _Named(
                f"{p.prompt_id}/{p.chosen_id}/{p.rejected_id}", p.prompt_id, (p.chosen_id, p.rejected_id),
                (p.p_chosen, 1.0 - p.p_chosen), p.weight,
            )
            for p in _read(job.examples_dirs, Pair)
        ]  # fmt: skip
    return [
        _Named(r.prompt_id, r.prompt_id, r.candidate_ids, _labels(r, job.algorithm), r.weight)
        for r in _read(job.examples_dirs, Ranking)
    ]


def _labels(ranking: Ranking, algorithm: str) -> tuple[float, ...]:
    if algorithm in ("kto", "bco"):
        return tuple(map(float, ranking.desirable))
    if algorithm == "sppo":
        return ranking.win_rates
    last = max(1, len(ranking.candidate_ids) - 1)
    return tuple(1.0 - place / last for place in range(len(ranking.candidate_ids)))


def _read(folders: Iterable[str], record_type: type) -> Iterator:
    return chain.from_iterable(read_records(Path(folder), record_type) for folder in folders)


def answer_tokens(candidate: Candidate, prompts: Mapping[str, Prompt], encoder: Encoder) -> np.ndarray:
    """An answer's tokens: those that were sampled, or, else those of its text; maybe none."""
    ids: Tokens = () if encoder.foreign else candidate.token_ids
    if not ids and candidate.text and (prompt := prompts.get(candidate.prompt_id)) is not None:
        ids = encoder.answer(prompt.messages, candidate.text)
        if candidate.finish_reason == "length":
            ids = ids[:-1]  # it was cut off before it ended
    return np.asarray(ids, dtype=np.int32)


def _joined(
    named: Iterable[_Named],
    prompts: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    rewards: Mapping[str, float],
) -> Iterator[Group]:
    for group in named:
        try:
            found = tuple(answers[name] for name in group.answer_ids)
            scores = tuple(rewards.get(name, math.nan) for name in group.answer_ids) if rewards else None
            yield Group(group.key, prompts[group.prompt_id], found, group.labels, group.weight, scores)
        except KeyError as error:
            raise KeyError(f"{group.key}: no record has the id {error}; were prompts or candidates changed?") from error


# What cannot be trained on.


def _usable(groups: Iterable[Group], job: TrainJob, dropped: Counter[str]) -> Iterator[Group]:
    paired = job.algorithm in PAIRED
    fewest = 2 if paired or job.algorithm == "ranking" else 1
    for group in groups:
        reasons = [_refused(group.prompt, answer, job.train.max_length) for answer in group.answers]
        found = [reason for reason in reasons if reason]
        if any(map(math.isnan, group.rewards or ())):
            dropped["no_reward"] += 1  # the reward model left it out: for it, it was too long
        elif paired and found:
            dropped[found[0]] += 1
        elif paired and np.array_equal(*group.answers):
            dropped["same_tokens"] += 1
        else:
            dropped.update(found)
            kept = [place for place, reason in enumerate(reasons) if not reason]
            if len(kept) >= fewest:
                yield _only(group, kept)
            elif kept:
                dropped["too_few_answers"] += 1


def _refused(prompt: Tokens, answer: Tokens, max_length: int) -> str | None:
    if not (len(prompt) and len(answer)):
        return "empty"
    return "too_long" if len(prompt) + len(answer) > max_length else None


def _only(group: Group, places: Sequence[int]) -> Group:
    if len(places) == len(group.answers):
        return group
    answers, labels = (tuple(values[i] for i in places) for values in (group.answers, group.labels))
    rewards = tuple(group.rewards[i] for i in places) if group.rewards else None
    return replace(group, answers=answers, labels=labels, rewards=rewards)


def _nothing_message(job: TrainJob, total: int, dropped: Counter[str]) -> str:
    folder = ", ".join(job.examples_dirs)
    if not total:
        return f"{folder}: there is nothing to train on. Loosen the filters under `pairs`, or draw more prompts."
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"{folder}: all {total} were left out ({reasons}). For too_long ones raise {job.section}.max_length."
