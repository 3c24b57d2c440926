"""What in a constitution would mislead a judge: findings with their line and what to write instead.

The rules of wording are for English, and cautious: they miss some faults rather than cry wolf.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfalign import source
from selfalign.constitution.loading import ConstitutionError, load
from selfalign.constitution.model import AppliesWhen, Principle
from selfalign.source import Document, InputError, KeyPath, Problem

Severity = Literal["error", "warning", "note"]
WORDED = ("text", "compare", "critique", "revise", "rubric")  # what reaches a judge or a policy
NEAR = 0.8  # of two sets of words, what is in both over what is in either


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to mend. `error`: a campaign would refuse it; `warning`: labels would suffer; `note`: look again."""

    file: str
    line: int | None
    severity: Severity
    rule: str
    principle: str
    message: str
    fix: str

    def __str__(self) -> str:
        said = Problem(self.file, self.line, f"{self.severity}: {self.message}", self.fix)
        return f"{said} [{self.rule}]"


def lint(path: Path, before: Document | None = None, text: str | None = None) -> list[Finding]:
    """The findings in one file, in the order of its lines. `before` is an earlier version of it, if there is one.

    `text` is looked over in the file's place. A file that `load` refuses has its errors alone; what it extends is not
    looked into.
    """
    try:
        rules = load(path, text)
    except ConstitutionError as error:
        return [_refused(problem) for problem in error.problems]
    document = source.read_yaml(source.read_text(path) if text is None else text, str(path))
    sheet = _Sheet(document, {principle.id: principle for principle in rules.principles})
    found = [*sheet.findings(), *sheet.duplicates(), *(sheet.unversioned(before) if before else ())]
    return sorted(found, key=lambda finding: finding.line or 0)


def committed(path: Path) -> Document | None:
    """A file as it stands in git's HEAD; None where there is none to read, in a folder without git too."""
    path, environ = path.resolve(), {**os.environ, "GIT_NO_LAZY_FETCH": "1"}
    command = ["git", "cat-file", "blob", f"HEAD:./{path.name}"]
    try:
        done = subprocess.run(command, cwd=path.parent, env=environ, capture_output=True, timeout=10, check=True)
        return source.read_yaml(done.stdout.decode("utf-8-sig"), "HEAD")
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError, InputError):
        return None


def belongs_to_template(words: str) -> bool:
    """Whether the words of a comparison hold markup of a template, or name a response by its label or position."""
    return any(pattern.search(words) for pattern in (_SCAFFOLD, _OPTION, _POSITION))


def _refused(problem: Problem) -> Finding:
    return Finding(
        file=problem.file, line=problem.line, severity="error", rule="refused", principle="",
        message=problem.message, fix=problem.suggestion,
    )  # fmt: skip


@dataclass(frozen=True)
class _Sheet:
    """One file that is valid, and the constitution that it makes with those it extends."""

    document: Document
    principles: dict[str, Principle]  # of the whole constitution, by id

    def finding(self, rule: str, severity: Severity, place: KeyPath, message: str, fix: str) -> Finding:
        principle = self.document.value["principles"][place[1]]["id"] if place[0] == "principles" else ""
        return Finding(
            file=self.document.file, line=self.document.line(place), severity=severity, rule=rule,
            principle=principle, message=f"{_name(principle, place)} {message}", fix=fix,
        )  # fmt: skip

    def findings(self) -> Iterator[Finding]:
        """What is wrong with the preamble, and with each principle by itself."""
        yield from self._placeholders(("preamble",), self.document.value.get("preamble", ""))
        for index, stated in enumerate(self.document.value.get("principles", ())):
            if self.principles[stated["id"]].status == "deprecated":
                yield from self._retired(index, stated)
            else:
                yield from self._wording(index, stated)

    def _retired(self, index: int, stated: dict[str, Any]) -> Iterator[Finding]:
        if stated.get("weight"):
            message = f"is {stated['weight']:g}, but the principle is deprecated and never asked"
            yield self.finding("deprecated-weight", "warning", ("principles", index, "weight"), message, "Delete it.")

    def _wording(self, index: int, stated: dict[str, Any]) -> Iterator[Finding]:
        here: KeyPath = ("principles", index)
        for place, words in _prose(stated):
            yield from self._placeholders((*here, *place), words)
            yield from self._options((*here, *place), words)
        for key in ("text", "compare"):
            yield from self._length((*here, key), stated.get(key, ""))
        yield from self._questions(here, stated)
        yield from self._scope(here, stated)

    def _placeholders(self, place: KeyPath, words: str) -> Iterator[Finding]:
        if found := _SCAFFOLD.search(words):
            message = f"holds {_quoted(found)}, which belongs to a template or to a chat's markup"
            fix = "Keep the norm alone: templates put the conversation and the responses round it."
            yield self.finding("scaffolding", "warning", place, message, fix)

    def _options(self, place: KeyPath, words: str) -> Iterator[Finding]:
        if found := _OPTION.search(words) or (place[-1] == "compare" and _POSITION.search(words)):
            message = f"names {_quoted(found)}, but each pair is shown in both orders, under labels of the template's"
            yield self.finding("names-options", "warning", place, message, 'Write "the response" or "which response".')

    def _length(self, place: KeyPath, words: str) -> Iterator[Finding]:
        for found in _LONG.finditer(words):
            if not _HELD_BACK.search(words[: found.start()][-40:]):
                message = f"says {_quoted(found)}, which a judge takes for length"
                fix = "Say what must be in a response, or that it should be no longer than useful."
                yield self.finding("rewards-length", "warning", place, message, fix)
                return

    def _questions(self, here: KeyPath, stated: dict[str, Any]) -> Iterator[Finding]:
        asked = {("compare",): stated.get("compare", ""), ("applies_when", "ask"): _ask(stated)}
        for place, question in asked.items():
            if found := _TWO.search(question) or _TWO_ADJECTIVES.search(question) or _TWO_QUESTIONS.search(question):
                message = f"asks two things at once: {_quoted(found)}"
                fix = "Ask for one, and make the other a principle of its own."
                yield self.finding("double-barrelled", "warning", (*here, *place), message, fix)
            if found := _NEGATED.search(question):
                message = f"asks in the negative: {_quoted(found)}"
                fix = "Ask for what the better response does; judges answer a negated question the wrong way round."
                yield self.finding("negated", "warning", (*here, *place), message, fix)

    def _scope(self, here: KeyPath, stated: dict[str, Any]) -> Iterator[Finding]:
        if self.principles[stated["id"]].applies_when != AppliesWhen():
            return
        for key in ("text", "compare"):
            if found := _CONDITION.search(stated.get(key, "")):
                message = f"sets a condition, {_quoted(found)}, yet the principle is asked of every prompt"
                fix = 'Add applies_when: {ask: "Does the user ...?"}, or prompt_tags.'
                yield self.finding("no-scope", "note", (*here, key), message, fix)
                return

    def duplicates(self) -> Iterator[Finding]:
        """Principles with the words of another one, or nearly so. Each pair is told once, at the later of the two."""
        living = [p for p in self.principles.values() if p.status != "deprecated"]
        places = {stated["id"]: index for index, stated in enumerate(self.document.value.get("principles", ()))}
        words = [{key: _content(getattr(p, key)) for key in ("text", "compare")} for p in living]
        for later, principle in enumerate(living):
            near = (n for n in range(later) if _alike(words[later], words[n])) if principle.id in places else ()
            if (earlier := next(iter(near), None)) is not None:
                key = _alike(words[later], words[earlier])
                yield self._duplicate(("principles", places[principle.id], key), principle, living[earlier])

    def _duplicate(self, place: KeyPath, principle: Principle, other: Principle) -> Finding:
        if principle.status == other.status == "active" and principle.hash == other.hash:
            message, fix = f'is the same as that of "{other.id}"', "Deprecate one of them: they are one question."
            return self.finding("duplicate", "error", place, message, fix)
        message = f'says nearly the same as that of "{other.id}"'
        fix = "Merge them, or say in each what sets it apart: their votes would count double."
        return self.finding("near-duplicate", "warning", place, message, fix)

    def unversioned(self, before: Document) -> Iterator[Finding]:
        """Words that differ from the earlier version of the file, where its number is the same."""
        value, earlier = self.document.value, before.value if isinstance(before.value, dict) else {}
        if value["version"] != earlier.get("version"):
            return
        old = {p.get("id"): p for p in earlier.get("principles") or () if isinstance(p, dict)}
        number = value["version"]
        fix = f"Write version: {_next(number)}"
        for index, stated in enumerate(value.get("principles", ())):
            for key in WORDED:
                if stated["id"] in old and stated.get(key) != old[stated["id"]].get(key):
                    message = f"was changed since {before.file}, which is version {number} too"
                    yield self.finding("same-version", "warning", ("principles", index, key), message, fix)
        if value.get("preamble") != earlier.get("preamble"):
            message = f"was changed since {before.file}, which is version {number} too"
            yield self.finding("same-version", "warning", ("preamble",), message, fix)


def _prose(stated: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """The texts of a principle that reach a judge or a policy, with their places."""
    for key in WORDED:
        if key == "rubric":
            for index, level in enumerate(stated.get("rubric", {}).get("levels", ())):
                yield ("rubric", "levels", index, "means"), level["means"]
        elif key in stated:
            yield (key,), stated[key]


def _name(principle: str, place: KeyPath) -> str:
    key = ".".join(part for part in place[2:] if isinstance(part, str)) if principle else str(place[0])
    return f"{principle}.{key}" if principle else key


def _ask(stated: dict[str, Any]) -> str:
    return stated.get("applies_when", {}).get("ask", "")


def _quoted(found: re.Match[str]) -> str:
    return '"' + " ".join(found.group().split())[:80] + '"'


def _next(version: str) -> str:
    major, minor, patch = version.split(".")
    return f"{major}.{minor}.{int(patch) + 1}"


def _content(words: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W_]+", words[:2000].lower())) - _EMPTY


def _alike(one: dict[str, frozenset[str]], other: dict[str, frozenset[str]]) -> str:
    """The key whose words are nearly the same in both, or nothing."""
    for key, words in one.items():
        small, large = sorted((len(words), len(other[key])))
        if small and small >= NEAR * large:
            both = len(words & other[key])
            if both >= NEAR * (small + large - both):
                return key
    return ""


# The words of a question that say nothing about what is asked for.
_EMPTY = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in on for with that which is are be it its as and or by this at does do should would "
        "choose pick select please response responses answer answers assistant s",
    )
)
_COMPARED = (
    r"(?:more|less|fewer|better|worse|(?:kind|clear|short|brief|saf|simpl|plain|warm|fair|wis|calm|nic|gentl|polit|"
    r"strong|deep|rich|long|friendli|healthi|easi|tidi|smart|sharp|soft|quick|broad|safe)er)"
)
_TWO = re.compile(
    rf"\b(?!(more|less) and \1\b|more or less\b){_COMPARED}\b[^.?!;]{{0,80}}?\b(?:and|or|but|while|as well as)\s+"
    rf"(?:\w+\s+){{0,2}}?{_COMPARED}\b",
    re.IGNORECASE,
)
_TWO_ADJECTIVES = re.compile(
    r"\b(?:more|most|less|least|as)\s+(?:\w+ly\s+)?\w+(?:,\s*\w+){0,8},?\s+(?:and|or)\s+(?:\w+ly\s+)?\w+"
    r"(?=\s*[?.]|\s*$|\s+(?:as possible|way|manner|response|answer|behavior|behaviour)\b)",
    re.IGNORECASE,
)
_TWO_QUESTIONS = re.compile(r"\w\?\s[^?]{0,60}\w\?")
_NEGATED = re.compile(
    r"\b(?:response|answer|reply|option|one)s?\s+(?:(?:that|which|is|are|was|does|do|has|would|can|will|should)\s+){0,2}"
    r"(?:not|never|\w+n['’]t)\b"
    r"|\bdo(?:n['’]t| not) (?:choose|pick|select)\b"
    r"|^(?:is|are|does|do|did|has|have|can|will|should|was|were)(?:n['’]t|\s+(?:\w+\s+){1,3}not)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"\b(?:option|response|answer|candidate|completion|output|assistant|reply|model)s?\s+\(?(?-i:[AB]|[12])\)?(?![\w'.-]*\w)"
    r"|\((?-i:[AB])\)",
    re.IGNORECASE,
)
_POSITION = re.compile(r"\b(?:first|second|former|latter) (?:response|answer|option|one|reply)\b", re.IGNORECASE)
_LONG = re.compile(
    r"\b(?:longer|lengthier|(?:more|most|very|highly) detailed|comprehensive(?:ly)?|exhaustive(?:ly)?|in[- ]depth|"
    r"elaborate|thorough(?:ly)?|(?:more|much|the most) (?:words|information|detail|details|text))\b",
    re.IGNORECASE,
)
_HELD_BACK = re.compile(
    r"\b(?:no|not|never|less|too|overly|without|than|instead of|rather|avoids?|\w*need\w*ly|unnecessar\w+)"
    r"\W+(?:\w+\W+)?$",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"^(?:if|when|whenever|where|for|in|on|about)\s(?:\w+\s){0,5}?(?:users?|person|people|prompts?|questions?|requests?|"
    r"conversations?|topics?|asked|someone|code)\b[^,.?]{0,60},"
    r"|\b(?:if|when|whenever) (?:the|a) (?:user|person|prompt|request|question|human|conversation)\b",
    re.IGNORECASE,
)
_SCAFFOLD = re.compile(
    r"<\|[^\s|<>]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|\{\{.{0,40}|\{%.{0,40}"
    r"|^[ \t]*(?:Human|Assistant|User|System|CritiqueRequest|RevisionRequest|Critique|Revision|Options):",
    re.MULTILINE,
)
