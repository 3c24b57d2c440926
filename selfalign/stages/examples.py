"""What training reads beside what the judge made: gold answers, and examples of earlier rounds."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import msgspec

from selfalign.records import Candidate, Pair, Prompt, Ranking, digest

Example = TypeVar("Example", Pair, Ranking, Candidate)
Kind = Literal["pairs", "rankings", "demonstrations"]

RECORDS: dict[Kind, type] = {"pairs": Pair, "rankings": Ranking, "demonstrations": Candidate}


def kind_of(algorithm: str) -> Kind:
    """What an algorithm trains on, and the name of the step that holds it."""
    if algorithm in ("dpo", "ppo"):  # PPO's reward model learns from pairs
        return "pairs"
    return "demonstrations" if algorithm in ("sft", "raft") else "rankings"


def gold_answers(prompts: Sequence[Prompt]) -> tuple[list[Candidate], Counter[str]]:
    """The answers that came with the prompts; counts the prompts without one, and those with an empty one."""
    found, left_out = [], Counter[str]()
    for prompt in prompts:
        gold = prompt.gold()
        if gold is None or not gold.text.strip():
            left_out["no_gold" if gold is None else "empty"] += 1
        else:
            found.append(gold)
    return found, left_out


def replayed(earlier: Iterable[Example], wanted: int, seed: int) -> list[Example]:
    """Draw `wanted` of the earlier examples (all of them where there are fewer), each at most once."""
    return heapq.nsmallest(wanted, earlier, key=lambda example: digest("replay", seed, msgspec.to_builtins(example)))
