"""What a label stands for: which response is better, a rating, or a level of a principle's rubric."""

from __future__ import annotations

from dataclasses import dataclass

from selfalign.config import HIGHEST_LEVEL, Judge
from selfalign.constitution import Principle
from selfalign.stages import StageError


@dataclass(frozen=True, slots=True)
class Scale:
    """The labels that answer a question, and what each is worth.

    Of a comparison the worth is that of the first response, 1 or 0; otherwise it is a rating, lowest first. `levels`
    are what the labels mean, where a rubric says so.
    """

    labels: tuple[str, ...]
    worth: tuple[float, ...]
    levels: tuple[str, ...] = ()

    def expected(self, probabilities: tuple[float, ...]) -> float:
        """sum_i worth_i P(i): of ratings what Lee et al. 2023 call the score of direct RLAIF."""
        return sum(worth * p for worth, p in zip(self.worth, probabilities, strict=True))

    def norm(self, principle: Principle) -> str:
        """The words that a rating is asked for in; those before a rubric's levels do not repeat them."""
        return (principle.text or principle.compare or principle.title) if self.levels else principle.norm()


def scale_of(principle: Principle, settings: Judge) -> Scale:
    """The scale on which a principle's questions are answered.

    By the method "rubric", levels are labelled in the order of their scores, which are mapped onto 1 to 5; so are the
    labels themselves for a principle that has no rubric, which is then rated as by "pointwise-logprob". Raises
    StageError for a rubric that has more levels than there are labels, or a score twice.
    """
    labels = settings.labels
    if not settings.pointwise:
        return Scale(labels, (1.0, 0.0))
    if settings.method != "rubric":
        return Scale(labels, tuple(map(float, range(1, len(labels) + 1))))
    levels = sorted(principle.rubric.levels, key=lambda level: level.score)
    if not levels:
        return Scale(labels, _spread(list(range(len(labels)))))
    scores = [level.score for level in levels]
    if len(levels) > len(labels) or len(set(scores)) < len(levels):
        what = "has a score twice" if len(set(scores)) < len(levels) else f"has {len(levels)} levels"
        raise StageError(
            f"the rubric of the principle {principle.id} {what}; give each level a score of its own, and "
            f"judge.labels_pointwise, of which there are {len(labels)}, a label for each"
        )
    return Scale(labels[: len(levels)], _spread(scores), tuple(level.means for level in levels))


def _spread(scores: list[int]) -> tuple[float, ...]:
    """Ascending scores, mapped onto 1 to HIGHEST_LEVEL."""
    low, high = scores[0], scores[-1]
    return tuple(1.0 + (HIGHEST_LEVEL - 1) * (score - low) / (high - low) for score in scores)
