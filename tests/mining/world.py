"""Preferences with a hidden rule, and a model that sees what it could see: kindness decides, length does not."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence

from selfalign.engines.scripted import ScriptedEngine
from selfalign.mining import Preference
from selfalign.records import Message, Prompt

PREFERRED = re.compile(r"<\w+ preferred response>\n(.*?)\n<\w+ (?:other|end)", re.DOTALL)
OTHER = re.compile(r"<\w+ other response>\n(.*?)\n<\w+ (?:preferred|end)", re.DOTALL)
COMPARED = re.compile(r"response A>\n(.*?)\n<\w+ response B>\n(.*?)\n<\w+ end>\n(.*?)\nWhich response", re.DOTALL)
KIND = ("shows kindness to the user", "is full of kindness to the user", "shows more kindness")


def prompt(text: str) -> Prompt:
    return Prompt.make((Message("user", text),))


def preferences(count: int = 60, *, seed: int = 0) -> list[Preference]:
    """The kind answer is preferred; how long the answers are is drawn, whoever is kind."""
    dice = random.Random(seed)
    return [
        Preference(
            prompt(f"question {i}"),
            f"kind answer {i}" + " word" * dice.randrange(30),
            f"rude answer {i}" + " word" * dice.randrange(30),
            0.9,
        )
        for i in range(count)
    ]


def proposal(messages: tuple[Message, ...], seed: int) -> str:
    """Kindness in one of three wordings, length as it happens to be, and what is never so."""
    asked = messages[-1].content
    preferred, other = PREFERRED.search(asked)[1], OTHER.search(asked)[1]
    rules = [KIND[seed % 3], "is longer" if len(preferred) > len(other) else "is shorter", "mentions the weather"]
    assert preferred.startswith("kind") and other.startswith("rude")
    return json.dumps([f"Select the response that {rule}." for rule in rules])


def preference(messages: tuple[Message, ...], labels: Sequence[str]) -> list[float] | None:
    """What a rule says of two answers; a liking for the first one when it says nothing."""
    first, second, rule = COMPARED.search(messages[-1].content).groups()
    if "kindness" in rule:
        lead = first.startswith("kind") - second.startswith("kind")
    elif "longer" in rule or "shorter" in rule:
        lead = (len(first) > len(second)) - (len(first) < len(second))
        lead *= -1 if "shorter" in rule else 1
    else:
        return [0.6, 0.4]
    return [0.5 + 0.45 * lead, 0.5 - 0.45 * lead]


def engine(**functions: object) -> ScriptedEngine:
    return ScriptedEngine(**{"text": proposal, "preference": preference, **functions})


def silent(doing: str, done: int, total: int) -> None:
    pass
