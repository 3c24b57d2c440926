"""`selfalign constitution edit`: with editors that are scripts, and answers that are typed ahead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import selfalign.cli.edit as command
from selfalign import resources
from tests.cli.conftest import Cli
from tests.cli.test_hostile import assert_harmless, on_a_terminal

TEXT = """\
# mine
schema: selfalign.constitution/v1
name: rules
version: 1.0.0
principles:
  - text: The response is kind.   # the first
    id: kind
"""
Editor = Callable[..., str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "rules.yaml").write_text(TEXT)
    return tmp_path / "rules.yaml"


@pytest.fixture
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """The command of an editor that replaces texts, one pair of (old, new) each time it is opened."""

    def make(*edits: tuple[str, str], code: int = 0) -> str:
        folder = tmp_path_factory.mktemp("editor")
        script = folder / "editor.py"
        script.write_text(
            "import pathlib, sys\n"
            f"left = pathlib.Path({str(folder / 'opened')!r})\n"
            "opened = len(left.read_text()) if left.exists() else 0\n"
            "left.write_text('x' * (opened + 1))\n"
            f"old, new = {edits!r}[opened]\n"
            "path = pathlib.Path(sys.argv[1])\n"
            "path.write_text(path.read_text().replace(old, new))\n"
            f"sys.exit({code})\n"
        )
        return f"{sys.executable} {script}"

    return make


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Answers typed ahead on what passes for a terminal; returns the questions as they are asked."""

    def type_ahead(answers: str) -> list[str]:
        left, asked = iter(answers), []

        def answer(question: str) -> str:
            asked.append(question)
            if (said := next(left, None)) is None:
                raise EOFError
            return said

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(command, "_on_terminal", lambda: True)
        return asked

    return type_ahead


BUMPED = ("version: 1.0.0", "version: 1.0.1")


def test_a_sound_edit_is_saved_as_typed_and_its_meaning_told(path: Path, cli: Cli, editor, typed) -> None:
    path.chmod(0o600)
    asked = typed("")
    mine = editor(("is kind", "is  'warm'"))
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL="", EDITOR=mine)
    assert done.returncode == 1 and len(asked) == 1  # the version: nobody answers, and what was typed is kept
    assert path.read_text() == TEXT
    (kept,) = path.parent.glob(".rules.*")
    assert f"what you typed is in {kept}" in done.stderr and "'warm'" in kept.read_text()
    kept.unlink()
    both = editor(("is kind.", "is warm."), BUMPED)
    asked = typed("e")
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL=both, EDITOR="false")
    assert done.returncode == 0, done.stderr
    assert asked == ["e: edit again, s: save anyway, d: discard? "]
    assert f"{path}:6: warning: kind.text was changed since the file before this edit" in done.stdout
    assert "Write version: 1.0.1" in done.stdout
    assert path.read_text() == TEXT.replace("is kind.", "is warm.").replace(*BUMPED)
    assert "reworded" in done.stdout and "1 to be judged anew: kind" in done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("answer", "saved"), [("s", True), ("d", False)])
def test_what_was_found_is_saved_or_discarded_as_one_says(answer, saved, path: Path, cli: Cli, editor, typed) -> None:
    typed("x" + answer)
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL=editor(("is kind", "is warm")))
    assert done.returncode == 0, done.stderr
    assert ("is warm" in path.read_text()) == saved
    assert list(path.parent.iterdir()) == [path]


def test_what_does_not_load_cannot_be_saved(path: Path, cli: Cli, editor, typed) -> None:
    asked = typed("sd")
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL=editor(("text:", "txet:")))
    assert done.returncode == 0
    assert asked == ["e: edit again, d: discard? "] * 2
    assert f"{path}:6: error: unknown key 'txet'" in done.stdout
    assert path.read_text() == TEXT and list(path.parent.iterdir()) == [path]


def test_no_change_and_a_failing_editor_leave_the_file(path: Path, cli: Cli, editor, typed) -> None:
    typed("")
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL="true")
    assert done.returncode == 0 and "stays as it was" in done.stderr
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL="false")
    assert done.returncode == 1 and "ended with exit code 1" in done.stderr
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL="no-such-editor")
    assert done.returncode == 2 and "cannot be started" in done.stderr
    done = cli("constitution", "edit", "rules.yaml", cwd=path.parent, VISUAL="", EDITOR="")
    assert done.returncode == 2 and "neither $VISUAL nor $EDITOR is set" in done.stderr
    assert path.read_text() == TEXT and list(path.parent.iterdir()) == [path]


def test_a_change_by_somebody_else_is_not_overwritten(path: Path, cli: Cli, tmp_path: Path, typed) -> None:
    typed("")
    both = f"""sh -c 'echo "# theirs" >> {path}; echo "# ours" >> "$0"'"""
    done = cli("constitution", "edit", "rules.yaml", cwd=tmp_path, VISUAL=both)
    assert done.returncode == 1 and "changed by somebody else" in done.stderr
    assert path.read_text() == TEXT + "# theirs\n"
    (kept,) = tmp_path.glob(".rules.*")
    assert kept.read_text() == TEXT + "# ours\n"


def test_what_is_refused(path: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("constitution", "edit", "rules.yaml", cwd=tmp_path, VISUAL="true")
    assert done.returncode == 2 and "needs a terminal" in done.stderr
    done = cli("constitution", "edit", "pocket@1", cwd=tmp_path, VISUAL="true")
    assert done.returncode == 2 and "is a record" in done.stderr
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    done = cli("constitution", "edit", "rules.yaml", cwd=tmp_path, VISUAL="true")
    assert done.returncode == 2 and f"copy it first: cp {path} ." in done.stderr


def test_on_a_real_terminal(path: Path, editor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", editor(("# mine", "# ours")))
    received = on_a_terminal(["-m", "selfalign", "constitution", "edit", "rules.yaml"], cwd=path.parent)
    assert_harmless(received)
    assert b"no principle differs" in received and path.read_text() == TEXT.replace("# mine", "# ours")
