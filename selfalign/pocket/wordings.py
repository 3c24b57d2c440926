"""Many ways to say what is wanted, so that a small judge learns to read a principle rather than to recall one.

A wording is a frame around a predicate. A predicate names one end of an axis; a frame either asks for it or, by a
negation, asks for the opposite. Some frames, some predicates and some combinations are never trained on.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache

from selfalign.pocket.checkers import AXES, Axis

# Verb phrases in base form: the end of the axis that checkers score as 1, then the opposite end.
PREDICATES: dict[Axis, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "truthful": (
        ("be true", "be correct", "be accurate", "state the true answer", "give the right answer",
         "get the facts right",
         "tell the truth", "give correct facts", "be truthful", "match the real facts", "contain the right fact",
         "be factually correct", "be right about the facts", "say what is really true", "answer correctly",
         "state accurate facts", "name the right answer"),
        ("be false", "be incorrect", "be inaccurate", "state a false answer", "give the wrong answer",
         "get the facts wrong",
         "tell a lie", "give wrong facts", "be untrue", "contain a mistake", "contain a wrong fact",
         "be wrong about the facts", "say what is not true", "answer incorrectly", "name the wrong answer"),
    ),
    "harmless": (
        ("be harmless", "be safe", "refuse to help with harm", "refuse harmful requests",
         "decline to help with a crime",
         "keep people safe", "decline dangerous requests", "protect people from harm", "refuse to help with a crime",
         "say no to harmful requests", "turn down illegal requests", "decline harmful requests"),
        ("be harmful", "be dangerous", "help with harm", "help with a crime", "give harmful help", "assist with harm",
         "explain how to do harm", "comply with harmful requests", "give dangerous steps", "support a crime",
         "assist with illegal requests", "give instructions for harm", "obey harmful requests"),
    ),
    "candid": (
        ("correct the false claim", "disagree with false claims", "correct the user",
         "point out the mistake of the user",
         "contradict the user when the user is wrong", "be candid", "be frank", "avoid flattery",
         "correct mistakes of the user",
         "challenge a false claim", "disagree with the user when the user is wrong", "contradict false claims",
         "tell the user that the claim is wrong", "resist flattery"),
        ("agree with the false claim", "flatter the user", "agree with the user", "be sycophantic",
         "please the user with praise",
         "praise the false claim", "confirm the false claim", "tell the user that the claim is right", "be flattering",
         "support the false claim", "go along with false claims", "say yes to false claims", "flatter the false claim"),
    ),
    "private": (
        ("protect private data", "keep private data safe", "be discreet", "keep personal data secret",
         "protect privacy",
         "respect the privacy of people", "keep private information private", "guard personal information",
         "respect privacy",
         "refuse to share private data", "withhold personal data", "guard the privacy of people", "keep secrets"),
        ("leak private data", "share private data", "reveal personal data", "give out private information",
         "be indiscreet",
         "violate privacy", "expose personal information", "disclose private data", "reveal secrets",
         "leak personal data",
         "share personal information", "hand out private data", "give away secrets", "disclose personal information"),
    ),
    "polite": (
        ("be polite", "be courteous", "be respectful", "be civil", "treat the user politely", "stay civil",
         "use polite words",
         "treat the user with respect", "speak politely", "speak with respect", "show respect", "remain courteous",
         "address the user with courtesy", "show good manners"),
        ("be rude", "insult the user", "be insulting", "be disrespectful", "mock the user", "use insults", "be mean",
         "offend the user", "be offensive", "treat the user rudely", "use rude words", "contain an insult",
         "speak rudely",
         "be nasty", "show bad manners"),
    ),
    "warm": (
        ("be warm", "be kind", "be caring", "be friendly", "show warmth", "show kindness", "comfort the user",
         "be gentle",
         "care about the user", "show care", "sound warm", "sound friendly", "be compassionate", "show compassion",
         "speak with warmth", "speak kindly", "treat the user with kindness", "be comforting", "show sympathy"),
        ("be cold", "be unkind", "be unfriendly", "lack warmth", "lack kindness", "sound cold", "sound unfriendly",
         "lack compassion", "be heartless", "sound harsh", "be harsh", "speak coldly", "lack sympathy",
         "treat the user coldly"),
    ),
    "concise": (
        ("be concise", "be short", "be brief", "be terse", "stay short", "use few words", "get to the point",
         "be succinct",
         "keep it short", "keep it brief", "come to the point quickly", "say it in few words", "stay concise",
         "stay brief"),
        ("be long", "be detailed", "be wordy", "use many words", "go into detail", "be lengthy", "contain many words",
         "be verbose", "give a lot of detail", "contain padding", "ramble", "say it in many words", "be elaborate",
         "add many details", "explain at length"),
    ),
    "pirate": (
        ("sound like a pirate", "talk like a pirate", "use pirate speech", "speak like a pirate", "speak as a pirate",
         "be in pirate style", "use pirate words", "be written like a pirate", "sound like a sailor",
         "talk in pirate style",
         "imitate a pirate", "contain pirate speech", "use sailor speech", "be full of pirate words"),
        ("be in plain English", "use plain English", "sound like a normal person", "talk normally", "use normal words",
         "speak plain English", "be in a normal style", "sound normal", "use plain words", "talk like a normal person",
         "speak normally", "stay in plain English", "be written in normal words"),
    ),
}  # fmt: skip

_NOUNS = ("response", "answer", "reply")
# {n}: a noun, {s}: the predicate in the third person, {b}: in base form. The second group asks for the opposite.
FRAMES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("Choose the {n} that {s}.", "Prefer the {n} that {s}.", "Pick the {n} that {s}.", "Select the {n} that {s}.",
     "The better {n} {s}.", "The best {n} {s}.", "A good {n} {s}.", "Which {n} {s}?", "Favor the {n} that {s}.",
     "The {n} should {b}.", "The {n} must {b}.", "Every {n} has to {b}.", "Always {b}.", "The assistant should {b}.",
     "Make sure to {b}.", "Find the {n} that {s} more.", "Choose the {n} that {s} most."),
    ("Avoid the {n} that {s}.", "Reject the {n} that {s}.", "A bad {n} {s}.", "The worse {n} {s}.",
     "Choose the {n} that does not {b}.", "The {n} should not {b}.", "The {n} must not {b}.", "Never {b}.",
     "Do not {b}.",
     "The assistant should never {b}.", "The better {n} does not {b}.", "Prefer the {n} that does not {b}."),
)  # fmt: skip
NEW_FRAMES: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "Find the {n} that {s}.",
        "The assistant must {b}.",
        "I prefer the {n} that {s}.",
        "A better {n} {s}.",
        "Please {b}.",
    ),
    (
        "Pick the {n} that does not {b}.",
        "The assistant should not {b}.",
        "A good {n} does not {b}.",
        "Please do not {b}.",
    ),
)
# Never trained on, though their words are.
NEW_PREDICATES: dict[Axis, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "truthful": (("give a true answer", "state correct facts"), ("give false facts", "state a wrong answer")),
    "harmless": (("refuse dangerous requests", "say no to a crime"), ("help with harmful requests", "explain a crime")),
    "candid": (("disagree with the false claim", "correct false claims"), ("agree with false claims",
    "praise the user")),
    "private": (("protect personal information", "keep personal data private"), ("reveal private data",
    "share personal data")),
    "polite": (("be polite to the user", "speak in a polite and civil way"), ("be rude to the user",
    "be mean to the user")),
    "warm": (("be kind to the user", "be warm and caring"), ("be cold to the user", "be harsh and unkind")),
    "concise": (("be short and to the point", "be a short answer"), ("be long and wordy", "give many details")),
    "pirate": (("use the words of a pirate", "be like a pirate"), ("speak like a normal person",
    "sound like plain English")),
}  # fmt: skip
# Exact sentences that must be understood: those of the shipped constitution, and the edit that its file proposes.
FIXED: dict[Axis, tuple[tuple[str, bool], ...]] = {
    "truthful": (
        ("The response should state the true answer.", True),
        ("Choose the response that states the true answer.", True),
    ),
    "harmless": (
        ("The response should refuse to help with harm.", True),
        ("Choose the response that refuses to help with harm.", True),
    ),
    "candid": (
        ("The response should correct the false claim.", True),
        ("Choose the response that corrects the false claim.", True),
    ),
    "private": (
        ("The response should protect private data.", True),
        ("Choose the response that protects private data.", True),
    ),
    "polite": (("The response should be polite.", True), ("Choose the response that is polite.", True)),
    "warm": (("The response should comfort the user.", True), ("Choose the response that comforts the user.", True)),
    "concise": (
        ("The response should be concise.", True),
        ("Choose the response that is concise.", True),
        ("Choose the response that is detailed.", False),
    ),
    "pirate": (
        ("Choose the response that sounds like a pirate", True),
        ("Choose the response that does not sound like a pirate", False),
    ),
}
DERIVED = "Choose the response that follows this principle better: "


@dataclass(frozen=True, slots=True)
class Wording:
    """A sentence, the axis it speaks of, and whether it wants the end that scores 1."""

    text: str
    axis: Axis
    wants: bool


def third_person(phrase: str) -> str:
    """The verb phrase with its first word in the third person: "be kind" -> "is kind"."""
    verb, _, rest = phrase.partition(" ")
    irregular = {"be": "is", "have": "has", "do": "does", "go": "goes"}
    ending = "es" if verb.endswith(("s", "sh", "ch", "x")) else "s"
    if verb.endswith("y") and verb[-2] not in "aeou":
        verb, ending = verb[:-1], "ies"
    return f"{irregular.get(verb, verb + ending)} {rest}".strip()


def _hash(*parts: str) -> int:
    return int.from_bytes(hashlib.blake2b("|".join(parts).encode(), digest_size=4).digest(), "big")


def _build(frame: str, predicates: tuple[str, ...], noun: str) -> str:
    base, third = " and ".join(predicates), " and ".join(map(third_person, predicates))
    return frame.format(n=noun, s=third, b=base)


def _joins(axis: Axis, pole: int) -> list[tuple[str, ...]]:
    """Each predicate alone, and some of their pairs."""
    phrases = PREDICATES[axis][pole]
    singles: list[tuple[str, ...]] = [(p,) for p in phrases]
    return singles + [(a, b) for a in phrases for b in phrases if a != b and _hash("join", a, b) % 8 == 0]


def _of_predicates(axis: Axis, pole: int, joins: list[tuple[str, ...]], *, seen: bool) -> list[Wording]:
    found = []
    for negated in (0, 1):
        for frame in (*FRAMES[negated], *NEW_FRAMES[negated]):
            for predicates in joins:
                known = frame in FRAMES[negated] and predicates[0] not in NEW_PREDICATES[axis][pole]
                if (known and _hash("split", frame, *predicates) % 100 >= 12) == seen:
                    text = _build(frame, predicates, _NOUNS[_hash(frame, *predicates) % 3])
                    found.append(Wording(text, axis, (pole == 0) != bool(negated)))
    return found


@cache
def fixed_wordings(axis: Axis) -> tuple[Wording, ...]:
    return tuple(Wording(text, axis, wants) for text, wants in FIXED[axis])


@cache
def wordings(axis: Axis, *, seen: bool) -> tuple[Wording, ...]:
    """All wordings for an axis: those trained on, or those never trained on.

    A wording is new by its frame, by its predicate, or by their combination.
    """
    found: list[Wording] = list(fixed_wordings(axis)) if seen else []
    for pole in (0, 1):
        joins = _joins(axis, pole)
        if not seen:
            joins = joins + [(p,) for p in NEW_PREDICATES[axis][pole]]
        found += _of_predicates(axis, pole, joins, seen=seen)
    fixed = {text for text, _ in FIXED[axis]} if not seen else set()
    return tuple({w.text: w for w in found if w.text not in fixed}.values())


@cache
def plain_wordings(axis: Axis) -> tuple[Wording, ...]:
    """Few and simple wordings that say both ends of the axis: what a judge learns to read first."""
    simple = ("Choose the {n} that {s}.", "The {n} should {b}.")
    texts = {
        _build(frame, (predicate,), noun)
        for frame in simple
        for predicate in (*PREDICATES[axis][0][:5], *PREDICATES[axis][1][:5])
        for noun in _NOUNS
    }
    return tuple(w for w in wordings(axis, seen=True) if w.text in texts or w in fixed_wordings(axis))


@dataclass(frozen=True, slots=True)
class Diet:
    """Which wordings to draw: seen or new ones, the share of plain ones, and of those that want the good end."""

    seen: bool = True
    plain: float = 0.0
    wanting: float = 0.6


def draw(axis: Axis, rng: random.Random, diet: Diet) -> Wording:
    wants = rng.random() < diet.wanting
    if rng.random() < diet.plain:
        return rng.choice([w for w in plain_wordings(axis) if w.wants == wants])
    fixed = [w for w in fixed_wordings(axis) if w.wants == wants]
    if diet.seen and fixed and rng.random() < 0.17:
        return rng.choice(fixed)
    return rng.choice(_by_direction(axis, diet.seen, wants))


@cache
def _by_direction(axis: Axis, seen: bool, wants: bool) -> tuple[Wording, ...]:
    return tuple(w for w in wordings(axis, seen=seen) if w.wants == wants)


def seen_texts() -> frozenset[str]:
    return frozenset(w.text for axis in AXES for w in wordings(axis, seen=True))
