"""Drafts: what a file becomes when it is saved, and what is not typed in or saved."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from selfalign import drafts, resources
from selfalign.drafts import Draft, DraftError, unfit
from selfalign.source import InputError
from selfalign.store import StoreError

TEXT = """\
schema: selfalign.constitution/v1
name: rules
version: 1.0.0
principles:
  - {id: kind, text: "The response is kind."}   # ours
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(TEXT)
    return tmp_path / "rules.yaml"


def test_a_draft_knows_what_it_means_and_is_saved_as_it_stands(path: Path) -> None:
    path.chmod(0o600)
    draft = Draft.open(path)
    assert not draft.unsaved and draft.findings() == []
    draft.text = TEXT.replace("kind.", "warm.")
    assert draft.unsaved and draft.rules().principles[0].text == "The response is warm."
    (finding,) = draft.findings()
    assert finding.rule == "same-version" and finding.line == 5 and path.read_text() == TEXT
    draft.save()
    assert not draft.unsaved and not draft.stale
    assert path.read_text() == draft.text and path.stat().st_mode & 0o777 == 0o600


def test_what_it_extends_is_found_beside_the_file(path: Path) -> None:
    draft = Draft.open(path)
    (path.parent / "parent.yaml").write_text(TEXT)
    draft.text = TEXT.replace("principles:", "extends: [parent.yaml]\nprinciples:").replace("id: kind", "id: warm")
    assert [principle.id for principle in draft.rules().principles] == ["kind", "warm"]
    draft.text = draft.text.replace("parent.yaml", "gone.yaml")
    assert [finding.rule for finding in draft.findings()] == ["refused"]


def test_what_somebody_else_wrote_is_not_saved_over(path: Path) -> None:
    draft = Draft.open(path)
    draft.text += "# mine\n"
    path.write_text(TEXT + "# theirs\n")
    assert draft.stale
    with pytest.raises(DraftError, match="changed by somebody else"):
        draft.save()
    assert path.read_text() == TEXT + "# theirs\n" and draft.unsaved
    path.unlink()
    with pytest.raises(DraftError):
        draft.save()
    assert not path.exists() and draft.stale


def test_what_is_not_saved_is_kept_beside_the_file_and_taken_up_again(path: Path) -> None:
    kept = path.parent / ".rules.yaml.unsaved"
    draft = Draft.open(path)
    draft.keep()
    assert not kept.exists()
    draft.text += "# mine\n"
    draft.keep()
    assert kept.stat().st_mode & 0o777 == 0o600
    again = Draft.resume(path)
    assert again.text == draft.text and again.opened == TEXT and again.back == kept.stat().st_mtime and not again.stale
    other = Draft.open(path)
    other.keep()  # it has none to take away
    assert kept.exists()
    path.write_text(TEXT + "# theirs\n")
    again = Draft.resume(path)
    assert again.unsaved and again.stale
    again.drop()
    assert not again.unsaved and not kept.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"text": "x"}',
        b'{"base": "", "text": 3}',
        b'{"base": "", "text": "", "more": 1}',
        b'{"base": "", "text": "\\ud800"}',
        b'{"base": "", "text": "\xff"}',
        b'{"base": "", "text": "' + b"x" * (5 * 2**20) + b'"}',
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_kept_text_that_is_none_is_ignored_and_said(path: Path, content: bytes) -> None:
    kept = path.parent / ".rules.yaml.unsaved"
    kept.write_bytes(content)
    kept.chmod(0o600)
    draft = Draft.resume(path)
    assert draft.text == TEXT and not draft.unsaved and "is ignored" in draft.lost and kept.read_bytes() == content


@pytest.mark.parametrize("make", ["link", "pipe", "folder", "everybody's"])
def test_a_kept_text_is_a_file_of_the_user_alone(path: Path, make: str) -> None:
    kept, good = path.parent / ".rules.yaml.unsaved", path.parent / "good"
    good.write_text('{"base": "a", "text": "b"}')
    good.chmod(0o644 if make == "everybody's" else 0o600)
    if make == "pipe":
        os.mkfifo(kept, 0o600)
    elif make == "folder":
        kept.mkdir(0o700)
    elif make == "link":
        kept.symlink_to(good)
    else:
        good.rename(kept)
    draft = Draft.resume(path)
    assert draft.text == TEXT and draft.lost


def test_a_disk_that_refuses_leaves_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft.open(path)
    draft.text += "# more\n"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError):
        draft.save()
    assert path.read_text() == TEXT and draft.unsaved and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT, ""),
        (TEXT.replace("\n", "\r\n"), ""),
        ("\ufeff" + TEXT, ""),
        ("👩‍👩‍👧 漢字\n", ""),
        ("a\nb\x1b[2J\n", "line 2 holds the hidden character U+001B"),
        ("a\x85b", "U+0085"),
        ("a\u200eb", "change how a line is read"),
        ("a\r\nb\n", "end in different ways"),
        ("a" * 5000, "a line of more than"),
        ("a\n" * 200_000, "more than 256 KiB"),
    ],
)
def test_a_text_is_typed_in_only_where_nothing_changes_unseen(text: str, why: str) -> None:
    assert why in unfit(text) and bool(why) == bool(unfit(text))


def test_files_that_are_none_of_the_users(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drafts.protected(path) == ""
    monkeypatch.setattr(resources, "PACKAGE", path.parent)
    assert f"cp {path} ." in drafts.protected(path)
    with pytest.raises(InputError):
        Draft.open(path.parent / "none.yaml")
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        Draft.open(path)
