"""The OpenAI Model Spec's Markdown: headings such as `## Be honest {#honest authority=user}`, prose, and examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from selfalign.constitution.model import Example

HEADING = re.compile(r"^#{1,6}[ \t]+([^{]*)\{#([\w-]+)([^}]*)\}[ \t]*$")
AUTHORITY = re.compile(r"\bauthority=(\w+)")
_FENCE = re.compile(r"^(~~~|```)")
_TAG = re.compile(r"^<(/?)(\w+)[^<>]*>[ \t]*(?:<!--(.*)-->)?[ \t]*$")
_NAMED = re.compile(r"\[\?\]\(#([\w-]+)\)")
_LINK = re.compile(r"\[([^\[\]]{1,200})\]\([^()]{1,300}\)")
_FOOTNOTE = re.compile(r"\[\^\w{1,40}\](?::.*)?")
_JUDGED = re.compile(r"^(GOOD|BAD)\b[:\s]*(.*)$", re.DOTALL)


@dataclass
class Section:
    """What stands under one heading, up to the next: prose, commentary, and the lines of each fenced example."""

    id: str
    title: str
    authority: str
    line: int
    prose: list[str] = field(default_factory=list)
    commentary: list[str] = field(default_factory=list)
    fences: list[list[str]] = field(default_factory=list)

    def examples(self) -> Iterator[Example]:
        for fence in self.fences:
            yield from _examples(fence)


def sections(text: str) -> list[Section]:
    """The headings that carry an authority, with what stands under each."""
    found = [section for section in _split(text) if section.authority]
    titles = {section.id: section.title for section in found}
    for section in found:
        for lines in (section.prose, section.commentary):
            lines[:] = [_plain(line, titles) for line in lines]
    return found


def paragraphs(lines: list[str]) -> str:
    """Lines as they stand, with no more than one empty one between them."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip()


def _split(text: str) -> Iterator[Section]:
    section, fence, in_commentary = Section("", "", "", 0), None, False
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if fence is not None:
            fence = None if _FENCE.match(line) else _kept(fence, line)
        elif _FENCE.match(line):
            fence = []
            section.fences.append(fence)
        elif heading := HEADING.match(line):
            yield section
            authority = AUTHORITY.search(heading[3])
            section = Section(heading[2], heading[1].strip(), authority[1] if authority else "", number)
            in_commentary = False
        elif line.startswith("#"):  # a heading without an id ends what stands above it
            yield section
            section, in_commentary = Section("", "", "", number), False
        elif line.startswith("!!!"):
            in_commentary = True
        elif in_commentary and (line.startswith("    ") or not line.strip()):
            section.commentary.append(line.strip())
        elif not line.startswith("**Example**"):
            in_commentary = False
            section.prose.append(line)
    yield section


def _kept(fence: list[str], line: str) -> list[str]:
    fence.append(line)
    return fence


def _plain(line: str, titles: dict[str, str]) -> str:
    """A line without footnotes, with the titles that links stand for."""
    line = _NAMED.sub(lambda found: f'"{titles.get(found[1], found[1].replace("_", " "))}"', line)
    return _LINK.sub(r"\1", _FOOTNOTE.sub("", line)).replace(" --- ", " – ")


def _examples(lines: list[str]) -> Iterator[Example]:
    """The first good answer of a comparison against each bad one, where it has both."""
    turns, answers = [], []
    comparing, opened = False, None
    for line in lines:
        tag = _TAG.match(line)
        if tag and tag[2] == "comparison":
            comparing = not tag[1]
        elif tag and tag[1] and opened and opened[0] == tag[2]:
            name, remark, body = opened
            words = "\n".join(body).strip()
            if comparing:
                answers.append((remark, words))
            else:
                turns.append((name, words))
            opened = None
        elif tag and not tag[1] and opened is None:
            opened = (tag[2], (tag[3] or "").strip(), [])
        elif opened:
            opened[2].append(line)
    judged = [(found[1], found[2], words) for remark, words in answers if words and (found := _JUDGED.match(remark))]
    better = next((words for verdict, _, words in judged if verdict == "GOOD"), "")
    for verdict, critique, words in judged:
        if better and verdict == "BAD" and turns:
            yield Example(prompt=_conversation(turns), better=better, worse=words, critique=critique)


def _conversation(turns: list[tuple[str, str]]) -> str:
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{name.capitalize()}: {words}" for name, words in turns)
