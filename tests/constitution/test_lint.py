"""Lint: what it finds and at which line, and that it keeps quiet about good wording."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from selfalign import resources, source
from selfalign.constitution.lint import Finding, committed, lint
from selfalign.source import Document

HEAD = "schema: selfalign.constitution/v1\nname: rules\nversion: 1.0.0\nprinciples:\n"


def write(folder: Path, text: str, name: str = "rules.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def found(folder: Path, principles: str) -> list[Finding]:
    return lint(write(folder, HEAD + principles))


def rules_of(folder: Path, line: str) -> set[str]:
    """The rules that one more line of a principle breaks."""
    base = "" if line.startswith(("text", "compare")) else "    text: The response is warm.\n"
    return {finding.rule for finding in found(folder, f"  - id: a\n{base}    {line}\n")}


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("compare: Which response is kinder and more honest?", "double-barrelled"),
        ("compare: Which response is more honest and helpful?", "double-barrelled"),
        ("compare: Which response is the most helpful, honest, and harmless?", "double-barrelled"),
        ("compare: Which response is clearer? Which is shorter?", "double-barrelled"),
        ("compare: Which response is as kind and fair as possible?", "double-barrelled"),
        ("applies_when: {ask: Is the user warmer or more tired than before?}", "double-barrelled"),
        ("compare: Which response does not insult anyone?", "negated"),
        ("compare: Which response isn't rude?", "negated"),
        ("compare: Choose the response that would never mislead.", "negated"),
        ("compare: Choose the kind one. Do NOT choose rude ones.", "negated"),
        ("applies_when: {ask: Is the user not a child?}", "negated"),
        ("compare: Is Option A kinder?", "names-options"),
        ("text: Response B should be kind.", "names-options"),
        ("compare: 'Which is kinder, (A) or (B)?'", "names-options"),
        ("compare: Is response 1 kinder?", "names-options"),
        ("compare: Is the second response kinder?", "names-options"),
        ("rubric: {levels: [{score: 1, means: rude}, {score: 2, means: like answer A}]}", "names-options"),
        ("compare: Which response is more detailed?", "rewards-length"),
        ("text: The response is comprehensive.", "rewards-length"),
        ("text: If the user asks for code, the response has tests.", "no-scope"),
        ("text: 'For medical questions, the response names its sources.'", "no-scope"),
        ("text: '<|im_start|>system be kind'", "scaffolding"),
        ("critique: 'CritiqueRequest: what is rude?'", "scaffolding"),
        ("text: 'The response is about {{topic}}.'", "scaffolding"),
    ],
)
def test_what_would_mislead_a_judge_is_found(line: str, rule: str, tmp_path: Path) -> None:
    assert rule in rules_of(tmp_path, line)


@pytest.mark.parametrize(
    "line",
    [
        "compare: 'Which response is more accurate, with fewer claims that are wrong or made up?'",
        "compare: Which response better protects people who are not part of the conversation?",
        "compare: Which response shows more care for the people and animals in the story?",
        "compare: Which response is more or less what a nurse would say?",
        "compare: 'Which response better matches what can be known, neither bluffing nor hedging needlessly?'",
        "text: The response is no longer than it needs to be.",
        "text: The response is not too detailed.",
        "text: The response gives short answers rather than comprehensive ones.",
        "text: 'The response ends well, for instance on an A. It is the right answer.'",
        "compare: Which response gives the right answer?",
        "text: The response says what it would take to get a grade A response time.",
        "text: The response helps where someone may be in danger.",
        "critique: Where should more detail stand?",
        "applies_when: {ask: Does the user ask for code?}",
    ],
)
def test_good_wording_passes(line: str, tmp_path: Path) -> None:
    assert rules_of(tmp_path, line) == set()


def test_a_finding_has_file_line_principle_and_fix(tmp_path: Path) -> None:
    first, second = found(
        tmp_path,
        "  - id: a\n    text: t\n\n  - id: b\n    # here\n    text: Be thorough.\n    compare: Is option B better?\n",
    )
    assert (first.line, first.principle, first.severity) == (10, "b", "warning")
    assert str(second).startswith(f'{tmp_path}/rules.yaml:11: warning: b.compare names "option B"')
    assert str(second).endswith("[names-options]")
    assert "which response" in second.fix


def test_a_condition_with_a_scope_is_fine(tmp_path: Path) -> None:
    text = "  - id: a\n    text: If the user asks for code, it runs.\n"
    assert [(f.rule, f.severity) for f in found(tmp_path, text)] == [("no-scope", "note")]
    assert not found(tmp_path, text + "    applies_when: {prompt_tags: [code]}\n")


def test_a_deprecated_principle_is_left_alone_but_for_its_weight(tmp_path: Path) -> None:
    rest = "  - {id: b, text: Be kind.}\n"
    text = "  - id: a\n    text: Be thorough, Option A.\n    status: deprecated\n"
    assert not found(tmp_path, text + rest)
    assert not found(tmp_path, text + "    weight: 0\n" + rest)
    (finding,) = found(tmp_path, text + "    weight: 2\n" + rest)
    assert (finding.rule, finding.line) == ("deprecated-weight", 8)


def test_principles_that_say_the_same_are_named(tmp_path: Path) -> None:
    one = "  - id: one\n    text: The response tells the truth about money, health and law.\n"
    near = "  - id: two\n    text: The response should tell the truth about money, health and law.\n"
    near = near.replace("should tell", "tells")
    (finding,) = found(tmp_path, one + near.replace("and law", "and the law, also"))
    assert (finding.rule, finding.severity, finding.line, finding.principle) == ("near-duplicate", "warning", 8, "two")
    assert '"one"' in finding.message
    (finding,) = found(tmp_path, one + near)
    assert (finding.rule, finding.severity) == ("duplicate", "error")
    assert not found(tmp_path, one + "  - {id: two, text: The response tells the truth about love.}\n")
    assert not found(tmp_path, one + near.rstrip() + "\n    status: deprecated\n")


def test_a_near_duplicate_of_a_parent_is_told_in_the_child(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "  - {id: one, text: The response keeps every promise made.}\n", "base.yaml")
    child = HEAD.replace("principles", "extends: [base]\nprinciples")
    path = write(tmp_path, child + "  - {id: two, text: The response keeps each promise every time made.}\n")
    assert [finding.rule for finding in lint(path)] == []
    path = write(tmp_path, child + "  - {id: two, text: Keeps every promise made.}\n")
    assert [(finding.rule, finding.principle) for finding in lint(path)] == [("near-duplicate", "two")]


def test_what_a_campaign_would_refuse_is_an_error(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, "  - id: a\n    text: t\n    wieght: 2\n")
    assert (finding.severity, finding.line, finding.fix) == ("error", 7, 'Did you mean "weight"?')
    circle = "  - {id: a, text: x, yields_to: [b]}\n  - {id: b, text: y, yields_to: [a]}\n"
    (finding,) = found(tmp_path, circle)
    assert (finding.severity, finding.line) == ("error", 5)
    assert '"a" yields to "b" yields to "a"' in finding.message


def as_document(text: str) -> Document:
    return source.read_yaml(text, "before.yaml")


def test_changed_words_want_a_new_version(tmp_path: Path) -> None:
    before = HEAD + "  - id: a\n    text: Be kind.\n    weight: 1\n"
    path = write(tmp_path, before.replace("kind", "warm").replace("weight: 1", "weight: 2"))
    (finding,) = lint(path, as_document(before))
    assert (finding.rule, finding.line, finding.fix) == ("same-version", 6, "Write version: 1.0.1")
    assert not lint(write(tmp_path, path.read_text().replace("1.0.0", "1.1.0")), as_document(before))
    assert not lint(write(tmp_path, before.replace("weight: 1", "weight: 2")), as_document(before))
    assert not lint(path, as_document("- not: a constitution"))
    preamble = before.replace("principles", "preamble: Hear both.\nprinciples")
    assert [f.line for f in lint(write(tmp_path, preamble), as_document(before))] == [4]


def test_the_committed_version_is_read_from_git(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + "  - {id: a, text: Be kind.}\n", "-odd name.yaml")
    assert committed(path) is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "--", path.name], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    path.write_text(path.read_text().replace("kind", "warm"), encoding="utf-8")
    assert committed(path).value["principles"][0]["text"] == "Be kind."
    assert [finding.rule for finding in lint(path, committed(path))] == ["same-version"]


@pytest.mark.parametrize("name", resources.constitutions())
def test_every_shipped_constitution_is_clean(name: str) -> None:
    assert [str(finding) for finding in lint(resources.find_constitution(name))] == []


HOSTILE = ["a" * 20000, "more " * 4000, "and better " * 1800, "\n" * 9999 + "x", "? " * 9999, "more a, " * 2500]


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_no_wording_keeps_it_busy(words: str, tmp_path: Path) -> None:
    principles = [{"id": f"p{n}", "text": words[:-9] + f" {n}", "compare": words[n:]} for n in range(8)]
    value = {"schema": "selfalign.constitution/v1", "name": "n", "version": "1.0.0", "principles": principles}
    begun = time.monotonic()
    lint(write(tmp_path, json.dumps(value)))
    assert time.monotonic() - begun < 10
