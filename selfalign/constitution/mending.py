"""What lint found, mended in the text: only where what to write is certain, and only the line at fault changes."""

from __future__ import annotations

import re

from selfalign.constitution.lint import Finding

_NEXT = re.compile(r"Write version: (\d+\.\d+\.\d+)")
_MEANT = re.compile(r'Did you mean "([^"]+)"\?')
_UNKNOWN = re.compile(r"unknown key '([^']+)'")
_VALUE = re.compile(r" is '([^']+)'")
_NUMBER = re.compile(r" is (-?[\d.]+), not a text$")


def mended(text: str, finding: Finding) -> str | None:
    """The text with one finding mended, its comments and every other line as they were; None where only the author
    can say what to write."""
    lines = text.splitlines(keepends=True)
    if finding.rule == "same-version":
        return _at(lines, _of_version(lines), *_new_version(finding))
    if finding.line is None or not 0 < finding.line <= len(lines):
        return None
    index = finding.line - 1
    if finding.rule == "deprecated-weight":
        return _without(lines, index, "weight")
    return _at(lines, index, *_instead(finding)) if finding.rule == "refused" else None


def _of_version(lines: list[str]) -> int:
    return next((index for index, line in enumerate(lines) if re.match(r"version\s*:", line)), -1)


def _new_version(finding: Finding) -> tuple[str, str]:
    found = _NEXT.search(finding.fix)
    return r"\d+\.\d+\.\d+", found[1] if found else ""


def _instead(finding: Finding) -> tuple[str, str]:
    """A pattern for what is wrong on a line, and what to write there; "" where that is not certain."""
    meant = _MEANT.search(finding.fix)
    if meant and (key := _UNKNOWN.search(finding.message)):
        return rf"(?<![\w-]){re.escape(key[1])}(?=[\"']?\s*:)", meant[1]
    if meant and (value := _VALUE.search(finding.message)):
        return rf"(?<![\w-]){re.escape(value[1])}(?![\w-])", meant[1]
    if (number := _NUMBER.search(finding.message)) and finding.fix == "Put it in quotes.":
        return rf"(?<=: ){re.escape(number[1])}(?![\w.-])", f'"{number[1]}"'
    return "", ""


def _at(lines: list[str], index: int, pattern: str, words: str) -> str | None:
    """The lines with one of them changed, where the pattern is found there once."""
    if index < 0 or not words:
        return None
    before, hash_, comment = lines[index].partition(" #")
    changed, count = re.subn(pattern, lambda _: words, before)
    return "".join((*lines[:index], changed + hash_ + comment, *lines[index + 1 :])) if count == 1 else None


def _without(lines: list[str], index: int, key: str) -> str | None:
    """The lines without one that holds nothing but this key."""
    alone = re.fullmatch(rf"\s+{key}:\s*[\w.]+\s*(#.*)?", lines[index].rstrip("\r\n"))
    return "".join((*lines[:index], *lines[index + 1 :])) if alone else None
