"""Preferences to explain: read from files of others, drawn, and split into those to learn from and those to test on."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from selfalign import source
from selfalign.records import Message, Prompt, derived_seed, digest
from selfalign.source import InputError, Problem
from selfalign.stages.prompts import MAX_PROBLEMS, Place, json_rows, messages_of

MAX_CSV_BYTES = 256 * 2**20
FEWEST_PROMPTS = 6  # two or more to test on
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")
_TIES = ("tie", "tie (bothbad)")


class MiningError(RuntimeError):
    """No constitution can be proposed: what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to a prompt, the preferred one first. `p_chosen` in [0.5, 1] is how surely it is the better one.

    `chosen_first` says whether the preferred answer was listed first, where a file lists them in an order of its own.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    p_chosen: float = 1.0
    chosen_first: bool | None = None

    @property
    def id(self) -> str:
        """The hash of prompt and both answers, whichever is preferred."""
        return digest("preference", self.prompt.id, *sorted((self.chosen, self.rejected)))


@dataclass(frozen=True)
class Split:
    """Preferences to learn from and to test on, which share no prompt; `left_out` counts what is in neither."""

    train: tuple[Preference, ...]
    heldout: tuple[Preference, ...]
    left_out: Counter[str]


def split(preferences: Iterable[Preference | str], *, seed: int, limit: int, share: float = 1 / 3) -> Split:
    """Draw up to `limit` preferences with `seed`, and hold out those of a `share` of the prompts.

    Words in place of a preference say why there is none. Pairs of the same text and repeated ones are left out. Raises
    MiningError for too few prompts.
    """
    left_out: Counter[str] = Counter()
    kept: dict[str, Preference] = {}
    for found in preferences:
        reason = found if isinstance(found, str) else _flaw(found, kept)
        left_out.update([reason] if reason else [])
        if isinstance(found, Preference) and not reason:
            kept[found.id] = found
    drawn = sorted(kept.values(), key=lambda found: derived_seed(seed, "mined", found.id))[:limit]
    left_out["not drawn"] += len(kept) - len(drawn)
    prompts = sorted({found.prompt.id for found in drawn}, key=lambda name: derived_seed(seed, "held out", name))
    if len(prompts) < FEWEST_PROMPTS:
        raise MiningError(_too_few(len(drawn), len(prompts), left_out))
    held = set(prompts[: round(share * len(prompts))])
    parts = ([p for p in drawn if (p.prompt.id in held) == wanted] for wanted in (False, True))
    return Split(*map(tuple, parts), +left_out)


def _flaw(found: Preference, kept: dict[str, Preference]) -> str:
    if found.chosen.strip() == found.rejected.strip():
        return "the same text twice"
    return "repeated" if found.id in kept else ""


def _too_few(pairs: int, prompts: int, left_out: Counter[str]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in (+left_out).items())
    return (
        f"{pairs} pairs of {prompts} prompts are too few to learn from and to test on ({reasons or 'none left out'}): "
        f"bring pairs of {FEWEST_PROMPTS} prompts or more, better of a hundred"
    )


# Files.


def read(path: Path) -> Iterator[Preference | str]:
    """The preferences of a file, whole before the first is yielded; in place of a tie the words that say so.

    JSON lines with `chosen` and `rejected` and a `prompt` or `messages`, as texts or as messages; where the prompt is
    not given, both are whole conversations (TRL's implicit prompts), or transcripts of "Human:" and "Assistant:" (HH).
    `p_chosen` may say how sure the preference is. CSV as inverse constitutional AI (Findeis et al. 2024) has it:
    text_a, text_b and preferred_text; `input` may be the prompt. Raises InputError with the line of every mistake.
    """
    if path.suffix == ".csv":
        rows, parse = _csv_rows(path), _of_csv
    elif path.suffix in (".jsonl", ".ndjson"):
        rows, parse = json_rows(path), _of_json
    else:
        raise InputError(Problem(str(path), None, "is neither .jsonl nor .csv", "Convert it, or name a run."))
    return iter(_parsed(rows, parse))


def _parsed(
    rows: Iterator[tuple[Place, Any]], parse: Callable[[Place, Any], Preference | str]
) -> list[Preference | str]:
    found, problems = [], []
    for place, row in rows:
        try:
            found.append(parse(place, row))
        except ValueError as error:
            message, _, fix = str(error).partition("\n")
            problems.append(place.problem(message, fix))
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise InputError(problems)
    return found


def _of_json(place: Place, row: Any) -> Preference:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, dict):
        raise ValueError('is not a JSON object\nWrite {"prompt": "...", "chosen": "...", "rejected": "..."}.')
    messages, chosen, rejected = _implicit(row) if _holds_conversations(row) else _explicit(row)
    return Preference(Prompt.make(messages, source=place.label), chosen, rejected, _certainty(row))


def _holds_conversations(row: dict[str, Any]) -> bool:
    """Whether chosen and rejected hold the prompt too; as lists of turns they may although it stands by itself too."""
    sides = [row.get("chosen"), row.get("rejected")]
    return not row.keys() & {"prompt", "messages"} or all(isinstance(side, list) and len(side) > 1 for side in sides)


def _explicit(row: dict[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    prompt = row.get("prompt")
    asked = {"messages": prompt} if isinstance(prompt, list) else row
    return messages_of(asked), _answer(row, "chosen"), _answer(row, "rejected")


def _answer(row: dict[str, Any], key: str) -> str:
    """An answer as a text, or as the one message that TRL's conversational formats have."""
    value = row.get(key)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        near = source.did_you_mean(key, row) if key not in row else ""
        raise ValueError(f"{key} is not a text\n{near or f'Write the {key} answer, as a text or as one message.'}")
    return _storable(value, key)


def _implicit(row: dict[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    """The turns that both conversations share are the prompt; what is left of each is one answer."""
    chosen, rejected = (_turns(row, key) for key in ("chosen", "rejected"))
    pairs = zip(chosen, rejected, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    rests = [turns[shared:] for turns in (chosen, rejected)]
    if rests == [[], []]:  # the same conversation twice: its last turn is the answer
        shared, rests = shared - 1, [chosen[-1:], rejected[-1:]]
    if any(len(rest) != 1 or rest[0]["role"] != "assistant" for rest in rests):
        raise ValueError("chosen and rejected do not differ in their last answer alone\nGive the prompt by itself.")
    answers = (_storable(rest[0]["content"], "an answer") for rest in rests)
    return (messages_of({"messages": chosen[:shared]}), *answers)


def _turns(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = row.get(key)
    if isinstance(value, str):
        _, *parts = _TURN.split(value)
        roles = {"Human": "user", "Assistant": "assistant"}
        value = [
            {"role": roles[who], "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)
        ]
    if not isinstance(value, list) or not value or not all(map(_is_turn, value)):
        near = source.did_you_mean(key, row) if key not in row else ""
        raise ValueError(f"{key} is no conversation, and there is no prompt\n{near or 'Add a prompt.'}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _certainty(row: dict[str, Any]) -> float:
    value = row.get("p_chosen", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 1:
        raise ValueError(
            f"p_chosen is {str(value)[:40]}, not from 0.5 to 1\nIf the other answer is better, swap the two."
        )
    return float(value)


def _csv_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """Rows by the names of the first one; their line is that on which they begin."""
    reader = csv.reader(io.StringIO(source.read_text(path, max_bytes=MAX_CSV_BYTES), newline=""), strict=True)
    line = 1
    try:
        names = next(reader, [])
        if missing := [name for name in ("text_a", "text_b", "preferred_text") if name not in names]:
            fix = source.did_you_mean(missing[0], names) or "The first line names text_a, text_b and preferred_text."
            raise InputError(Problem(str(path), 1, f"has no column {missing[0]!r}", fix))
        line = reader.line_num + 1
        for values in reader:
            place = Place(str(path), line, path.stem)
            if len(values) == len(names):
                yield place, dict(zip(names, values, strict=True))
            elif values:
                yield place, ValueError(f"has {len(values)} values, not {len(names)}\nPut texts with commas in quotes.")
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(Problem(str(path), line, f"is not valid CSV: {error}", "Is a quote left open?")) from error


def _of_csv(place: Place, row: Any) -> Preference | str:
    if isinstance(row, ValueError):
        raise row
    preferred, texts = row["preferred_text"].strip(), (row["text_a"], row["text_b"])
    if preferred in _TIES:
        return "tied"
    if preferred not in ("text_a", "text_b"):
        raise ValueError(f"preferred_text is {preferred[:40]!r}\nWrite text_a, text_b or tie.")
    chosen, rejected = texts if preferred == "text_a" else texts[::-1]
    return Preference(_asked(row, place), chosen, rejected, chosen_first=preferred == "text_a")


def _asked(row: dict[str, str], place: Place) -> Prompt:
    asked = (row.get("input") or row.get("prompt") or "").strip()
    if asked:
        return Prompt.make((Message("user", asked),), source=place.label)
    # Without prompts each pair is its own: all of them as one could not be split.
    identity = digest("unknown prompt", *sorted((row["text_a"], row["text_b"])))
    return Prompt(identity, (Message("user", "(what was asked is not known)"),), place.label)


def _storable(text: str, what: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds half of a surrogate pair, which is no character") from error
    return text
