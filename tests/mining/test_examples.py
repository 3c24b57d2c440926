"""Examples put before a scripted judge: whom it contradicts, and at which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign.config import Judge
from selfalign.mining.examples import disagreements, stated
from tests.mining.world import COMPARED, engine, silent

FILE = """\
schema: selfalign.constitution/v1
name: rules
version: 1.0.0
principles:
  - id: kind
    compare: Which response shows more kindness?
    applies_when: {prompt_tags: [sad], ask: Is the user sad?}
    examples:
      - {prompt: hello, better: kind words, worse: rude words}
      - {prompt: hello, better: rude words, worse: kind words}
  - id: plain
    compare: Which response is plainer?
    weight: 0
    examples:
      - {prompt: hello, better: kind words, worse: rude words}
  - id: gone
    status: deprecated
    compare: Which response is older?
    examples:
      - {prompt: hello, better: rude words, worse: kind words}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(FILE)
    return tmp_path / "rules.yaml"


def test_each_example_is_judged_by_its_own_principle_in_both_orders(path: Path) -> None:
    """Kindness decides by 0.95 for the kind answer; the other rule says 0.6 for whatever comes first."""
    worse, torn = disagreements(path, engine(), Judge(), seed=0, told=silent)
    assert (worse.line, worse.severity, worse.rule, worse.principle) == (10, "warning", "judge-prefers-worse", "kind")
    assert "kind.examples 2: the judge prefers the worse answer with probability 0.95" in worse.message
    assert (torn.line, torn.severity, torn.rule, torn.principle) == (15, "note", "judge-contradicts", "plain")
    assert "0.60 with the better one shown first, 0.40 with it second" in torn.message
    assert str(worse).startswith(f"{path}:10: warning: ")


def test_every_example_is_asked_about_twice_and_no_more(path: Path) -> None:
    asked = []

    def agrees(messages, labels):
        asked.append(COMPARED.search(messages[-1].content).groups())
        return [0.5, 0.5]

    found = disagreements(path, engine(preference=agrees), Judge(), seed=0, told=silent)
    assert len(asked) == 6 and len(stated(path)) == 3
    assert [(finding.rule, finding.severity) for finding in found] == [("judge-undecided", "note")] * 3


def test_no_verdict_is_a_note(path: Path) -> None:
    found = disagreements(path, engine(preference=lambda messages, labels: None), Judge(), seed=0, told=silent)
    assert [(finding.rule, finding.severity) for finding in found] == [("judge-invalid", "note")] * 3


def test_a_file_without_examples_asks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text(FILE.split("    examples:")[0])
    assert disagreements(path, None, Judge(), seed=0, told=silent) == []
