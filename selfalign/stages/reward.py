"""Reward: what a trained reward model makes of the candidates, and whether it can be believed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfalign.config import RewardModel
from selfalign.records import Candidate, Reward
from selfalign.stages import StageError

REWARDS_FILE, HELDOUT_FILE = "rewards.json", "heldout.json"  # beside the model, as the trainer writes them


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a reward model says of pairs that it was not trained on: `right` of `pairs`, a tie being half."""

    right: float
    pairs: int

    @property
    def accuracy(self) -> float:
        return self.right / self.pairs


def rewards_of(candidates: Sequence[Candidate], folder: Path, model_id: str) -> list[Reward]:
    """The rewards of some candidates; those that the trainer left out, being empty or too long, have none."""
    rewards = json.loads((folder / REWARDS_FILE).read_bytes())
    return [Reward(c.id, model_id, rewards[c.id]) for c in candidates if c.id in rewards]


def read_held_out(folder: Path) -> HeldOut:
    gaps = json.loads((folder / HELDOUT_FILE).read_bytes())["gaps"]
    return HeldOut(sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps), len(gaps))


def check_believable(found: HeldOut, settings: RewardModel) -> None:
    """Raise StageError for a reward model that is right too rarely on held-out pairs to be followed."""
    if found.accuracy < settings.min_accuracy:
        raise StageError(
            f"the reward model is right on {found.accuracy:.1%} of {found.pairs} held-out pairs, less than "
            f"reward_model.min_accuracy asks for ({settings.min_accuracy:.1%}): a policy that followed it would follow "
            "noise. Train it on more pairs (prompts.per_round, replay), longer (reward_model.train.epochs), or lower "
            "the bound with --set reward_model.min_accuracy=SHARE"
        )
