"""Blind labelling, without a screen: what is shown next, on which side, what a key means, and what can be undone.

Everything follows from the comparisons, the labeller's name and the labels so far, so that a session goes on where it
stopped, whatever stopped it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from selfalign.labels import RANDOM, Labels, scored
from selfalign.people.compared import Comparison
from selfalign.records import Candidate, Label, LabelVerdict, derived_seed

KEYS = {"1": "left", "2": "right", "0": "tie", "9": "both_bad", "x": "not_applicable", "s": "skipped"}
REPEAT_EVERY = 10  # so many fresh labels, then one pair again
REPEAT_AFTER = 5  # labels at least between a pair and its repeat
PAUSE = 300.0  # seconds; who took longer was elsewhere, and the time tells nothing of the pace

# Why a comparison is worth a label, and how much; of 0 it is not. A fair sample stands between any two of them.
STRATA: Mapping[str, Callable[[Comparison], float]] = {
    "swap": lambda one: one.swap_gap,
    "margin": lambda one: 0.0 if one.p_a is None else max(0.0, 0.25 - abs(one.p_a - 0.5)),
    "conflict": lambda one: one.conflict,
}


def queue(pool: Sequence[Comparison], seed: int) -> Iterator[tuple[Comparison, str]]:
    """The comparisons in the order in which they are to be labelled, each once, with its stratum.

    A coin tossed for each comparison by `seed` parts the pool. Heads are shown in random order, as the stratum
    "random": a fair sample of the pool, however many are labelled and whatever is labelled beside it. Tails are shown
    where they tell most of the judge: where its two orders contradict each other, where it is undecided, where
    principles pull apart. Those come in turns, a random one before each.
    """
    heads = _shuffled([one for one in pool if _coin(one, seed)], seed)
    tails = [one for one in pool if not _coin(one, seed)]
    fair, telling = iter(heads), _in_turns(tails)
    while True:
        turn = [(next(fair, None), RANDOM), next(telling, (None, ""))]
        if all(one is None for one, _ in turn):
            return
        yield from ((one, stratum) for one, stratum in turn if one is not None)


def _in_turns(pool: Sequence[Comparison]) -> Iterator[tuple[Comparison, str]]:
    waiting = {name: _most_telling(pool, worth) for name, worth in STRATA.items()}
    seen: set[tuple[str, str]] = set()
    while any(waiting.values()):
        for name, left in waiting.items():
            while left and left[0].pair in seen:
                left.pop(0)
            if left:
                seen.add(left[0].pair)
                yield left.pop(0), name


def _most_telling(pool: Sequence[Comparison], worth: Callable[[Comparison], float]) -> list[Comparison]:
    found = [(worth(one), one) for one in pool]
    return [one for value, one in sorted(found, key=lambda item: (-item[0], item[1].pair)) if value > 0]


def _coin(one: Comparison, seed: int) -> bool:
    return derived_seed("label coin", seed, *one.pair) % 2 == 0


def _shuffled(pool: Sequence[Comparison], seed: int) -> list[Comparison]:
    return sorted(pool, key=lambda one: (derived_seed("label order", seed, *one.pair), one.pair))


@dataclass(frozen=True, slots=True)
class Shown:
    """What a labeller sees, and what they must not: the stratum, and whether they have seen it before."""

    comparison: Comparison
    left: Candidate
    right: Candidate
    stratum: str
    repeat: bool


class Session:
    """One labeller's way through a queue. `current` is what to show, None at the end.

    After every tenth fresh label a pair that was labelled before comes again, unannounced and with sides drawn anew.
    """

    def __init__(
        self,
        labels: Labels,
        labeller: str,
        items: Sequence[tuple[Comparison, str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._labels, self.labeller, self._clock = labels, labeller, clock
        self._items = {one.pair: (one, stratum) for one, stratum in items}
        self.current = self._next()
        self._since = clock()

    @property
    def done(self) -> int:
        """How many comparisons of the queue have a label, skipped ones included."""
        return len(self._seen())

    @property
    def number(self) -> int:
        """The place of what is shown among all of this queue that this labeller was shown, repeats included."""
        return sum(label.pair in self._items for label in self._labels.standing) + 1

    @property
    def expected(self) -> int:
        """About how many there will be, repeats included, so that no count gives a repeat away."""
        return max(self.total + self.total // REPEAT_EVERY, self.number)

    @property
    def total(self) -> int:
        return len(self._items)

    @property
    def standing(self) -> Sequence[Label]:
        """All labels of this labeller that were not taken back, in order; of other queues too."""
        return self._labels.standing

    def about(self) -> list[tuple[Label, Comparison]]:
        """Each label that says something of a pair of this queue, with what the judge makes of it."""
        return [(label, self._items[label.pair][0]) for label in scored(self.standing) if label.pair in self._items]

    def press(self, key: str, *, flagged: bool = False, comment: str = "") -> Label:
        """Label what is shown; the label is on disk when this returns.

        Raises KeyError for a key that means nothing, and StoreError where the disk refuses: then nothing has changed.
        """
        shown, said = self.current, KEYS[key]
        if shown is None:
            raise KeyError(key)
        label = replace(self._label(shown, said), flagged=flagged, comment=comment)
        self._labels.add(label)
        self._move_on()
        return label

    def undo(self) -> Label | None:
        """Take back the last label, of this session or one before it, and return it; None where there is none.

        Its pair is shown again, where it is of this queue.
        """
        taken = self._labels.undo()
        self._move_on()
        return taken

    def _label(self, shown: Shown, said: str) -> Label:
        sides = {"left": shown.left.id, "right": shown.right.id}
        verdict: LabelVerdict = "preferred" if said in sides else said
        now = self._clock()
        return Label(
            labeller=self.labeller,
            prompt_id=shown.comparison.prompt.id,
            left_id=shown.left.id,
            right_id=shown.right.id,
            verdict=verdict,
            preferred_id=sides.get(said),
            round=shown.comparison.round,
            stratum=shown.stratum,
            repeat=shown.repeat,
            seconds=round(now - self._since, 3),
            time=round(now, 3),
        )

    def _move_on(self) -> None:
        self.current = self._next()
        self._since = self._clock()

    def _seen(self) -> set[tuple[str, str]]:
        return {label.pair for label in self._labels.standing} & self._items.keys()

    def _next(self) -> Shown | None:
        again = self._due_again()
        if again is not None:
            return self._show(*self._items[again], repeat=True)
        seen = self._seen()
        fresh = next((item for pair, item in self._items.items() if pair not in seen), None)
        return self._show(*fresh, repeat=False) if fresh else None

    def _due_again(self) -> tuple[str, str] | None:
        """The pair to show once more, drawn by the number of labels so far; None where none is due or can be."""
        standing = self._labels.standing
        fresh = [label for label in standing if not label.repeat]
        repeated = [label.pair for label in standing if label.repeat]
        if len(repeated) >= len(fresh) // REPEAT_EVERY:
            return None
        old_enough = fresh[: len(fresh) - REPEAT_AFTER]
        known = [one.pair for one in old_enough if one.lead is not None and one.pair in self._items]
        choices = [pair for pair in known if pair not in repeated]
        return choices[derived_seed("repeat", self.labeller, len(repeated)) % len(choices)] if choices else None

    def _show(self, one: Comparison, stratum: str, *, repeat: bool) -> Shown:
        swapped = derived_seed("side", self.labeller, *one.pair, repeat) % 2
        left, right = (one.b, one.a) if swapped else (one.a, one.b)
        return Shown(one, left, right, stratum, repeat)


def pace(labels: Sequence[Label]) -> float | None:
    """The median seconds a label took, pauses left out; None where nobody took the time."""
    taken = [label.seconds for label in labels if 0 < label.seconds < PAUSE]
    return median(taken) if taken else None
