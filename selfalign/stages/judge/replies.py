"""The replies of a judge that gives reasons, read strictly: what is not exactly what was asked for is no verdict.

Nothing in here raises, whatever the text: it is a model's, and may repeat what a candidate wrote to be repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from selfalign import resources
from selfalign.records import InvalidReason
from selfalign.statistics import refuses

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_LONGEST = 1 << 16  # characters; no judge needs as many
_REASON_CHARACTERS = 3  # a token of cot_tokens, so that a grammar closes the reasons before the tokens run out
_VERDICT_LAST = re.compile(r'(.*"verdict"\s*:\s*")[^"\\]*"\s*\}\s*(?:```\s*)?', re.DOTALL)  # of what is an object
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """A verdict with its reasons, or the kind of its absence; `verdict` is one of the labels where `invalid` is "".

    `begun` is the reply up to where its verdict comes.
    """

    reason: str = ""
    verdict: str = ""
    invalid: InvalidReason = ""
    begun: str = ""


def answer_schema(labels: Sequence[str], cot_tokens: int) -> str:
    """The JSON Schema of a reply, for engines that can hold a model to it."""
    schema = _schema(tuple(labels))
    schema["properties"]["reason"]["maxLength"] = _REASON_CHARACTERS * cot_tokens
    return json.dumps(schema)


def full_reply(nonce: str, reason: str, verdict: str) -> str:
    """A reply as it is to be given."""
    return f'{_begun(nonce, reason)}{verdict}"}}'


def read_reply(text: str, finish_reason: str, labels: Sequence[str], nonce: str, *, refused: bool = False) -> Reply:
    """Read one reply to the question whose sign is `nonce`.

    It is to be one JSON object, alone or in one code fence. "truncated" is a reply that was cut off, "refused" one that
    declines, "forged" a well-formed object with another sign, "contradictory" several objects, or reasons that only
    ever state another verdict than the object does, "error" one that never came, and "malformed" every other text.
    """
    if refused:
        return Reply(invalid="refused")
    if finish_reason in ("error", "length"):
        return Reply(invalid="error" if finish_reason == "error" else "truncated")
    if not text.strip():
        return Reply(invalid="empty")
    found = _read_object(text)
    if isinstance(found, str):
        declined = found == "malformed" and "{" not in text and refuses(text)
        return Reply(invalid="refused" if declined else found)
    if not _validator(tuple(labels)).is_valid(found) or not _is_text(found["reason"]):
        return Reply(invalid="malformed")
    if found["id"] != nonce:
        return Reply(invalid="forged")
    if (stated := _stated(found["reason"], labels)) and found["verdict"] not in stated:
        return Reply(invalid="contradictory")
    own = _VERDICT_LAST.fullmatch(text)
    begun = own.group(1) if own else _begun(nonce, found["reason"])
    return Reply(found["reason"].strip(), found["verdict"], begun=begun)


def _begun(nonce: str, reason: str) -> str:
    return json.dumps({"id": nonce, "reason": reason}, ensure_ascii=False)[:-1] + ', "verdict": "'


class _Refused(ValueError):
    """What the strict reading of JSON does not take."""


def _read_object(text: str) -> dict[str, Any] | InvalidReason:
    """The one object that a text is, or why it is none."""
    if len(text) > _LONGEST:
        return "malformed"
    fenced = _FENCE.fullmatch(bare := text.strip())
    bare = fenced.group(1).strip() if fenced else bare
    try:
        found, end = _DECODER.raw_decode(bare)
    except (ValueError, RecursionError):
        return "malformed"
    if bare[end:].strip():
        return "contradictory" if _has_object(bare[end:]) else "malformed"
    return found if isinstance(found, dict) else "malformed"


def _has_object(text: str) -> bool:
    """Whether an object begins anywhere in a text, tried a few times only."""
    for start in [match.start() for match in re.finditer(r"\{", text)][:8]:
        try:
            _DECODER.raw_decode(text, start)
            return True
        except (ValueError, RecursionError):
            continue
    return False


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise _Refused("a key stands twice")
    return dict(pairs)


def _refuse(text: str) -> Any:
    raise _Refused(f"a reply has no place for the number {text[:20]}")


# No number has a place in a reply, so none is ever converted, however many digits it has. Control characters within
# strings are let through, as a grammar lets a model write tabs.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_int=_refuse, parse_float=_refuse, parse_constant=_refuse, strict=False
)


def _schema(labels: tuple[str, ...]) -> dict[str, Any]:
    schema = json.loads(resources.schema("verdict"))
    schema["properties"]["verdict"]["enum"] = list(labels)
    return schema


@cache
def _validator(labels: tuple[str, ...]) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_schema(labels))


def _is_text(text: str) -> bool:
    """Whether a text can be stored and encoded: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return bool(text.strip())


def _stated(reason: str, labels: Sequence[str]) -> set[str]:
    """The labels that reasons state as their verdict, in so many words."""
    return {label for match in _statement(tuple(labels)).finditer(reason) for label in match.groups() if label}


@cache
def _statement(labels: tuple[str, ...]) -> re.Pattern[str]:
    label = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    named = rf"[(\[\"'*]{{0,3}}({label})(?![\w'-])"
    outright = rf"(?i:\b(?:answer|verdict|rating|choice)(?: is|:| =)\s{{1,3}}(?:response\s)?){named}"
    praised = rf"(?i:\bresponse\s){named}(?i:\s(?:is|does)\s(?:clearly\s|much\s|the\s)?better\b)"
    return re.compile(f"{outright}|{praised}")
