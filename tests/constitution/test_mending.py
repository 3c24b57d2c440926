"""Mending: the finding is gone, and nothing but its line has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign.constitution.lint import lint
from selfalign.constitution.mending import mended
from selfalign.source import read_yaml

TEXT = """\
# mine
schema: selfalign.constitution/v1
name: rules
version: 1.0.9   # the number
principles:
  - id: kind
    text: The response is kind.   # the norm
  - id: old
    text: The response is old-fashioned.
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("text: The response is kind", "txet: The response is kind", "    text: The response is kind.   # the norm"),
        ("  - id: old\n", "  - id: old\n    status: retierd # not yet\n", None),
        ("  - id: old\n", "  - id: old\n    status: actve # yet\n", "    status: active # yet"),
        ("  - id: old\n", "  - id: old\n    status: deprecated\n    weight: 2  # once\n", "    status: deprecated"),
        ("  - id: old\n", "  - id: old\n    title: 7\n", '    title: "7"'),
        ("is kind.", "is warm.", "version: 1.0.10   # the number"),
    ],
)  # fmt: skip
def test_a_certain_mend_changes_its_line_alone(old: str, new: str, line: str | None, tmp_path: Path) -> None:
    path, text = tmp_path / "rules.yaml", TEXT.replace(old, new)
    path.write_text(text)
    found = lint(path, read_yaml(TEXT, "before"))
    assert len(found) == 1
    changed = mended(text, found[0])
    if line is None:
        assert changed is None
        return
    assert changed is not None and line in changed.splitlines()
    assert lint(path, read_yaml(TEXT, "before"), changed) == []
    gone = set(text.splitlines()) - set(changed.splitlines())
    assert len(gone) == 1 and len(changed.splitlines()) - len(text.splitlines()) in (0, -1)


def test_what_only_the_author_knows_is_left(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(TEXT.replace("is kind.", "is longer."))
    (finding,) = lint(path)
    assert finding.rule == "rewards-length" and mended(path.read_text(), finding) is None
