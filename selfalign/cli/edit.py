"""`selfalign constitution edit`: a constitution in the user's editor, looked over before it is saved."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from selfalign import drafts, resources, source
from selfalign.cli.constitution import find_constitution, print_diff, print_findings
from selfalign.cli.errors import FAILED, USAGE, CommandError
from selfalign.cli.output import say
from selfalign.constitution import load
from selfalign.constitution.diff import diff
from selfalign.constitution.lint import Finding, lint
from selfalign.drafts import DraftError
from selfalign.source import Document, InputError


def edit(file: str, /) -> int:
    """Open a constitution in $VISUAL or $EDITOR, look it over, save it as typed, and tell what the edit means.

    Until all is well you are asked whether to edit again, to save anyway, or to discard. Only what loads is saved.

    Parameters
    ----------
    file
        A constitution of your own.
    """
    try:
        return _edit(_own(file))
    except DraftError as error:
        raise CommandError(str(error), why=error.why, fix=error.fix, code=USAGE if error.usage else FAILED) from error


def _edit(path: Path) -> int:
    command = _editor()
    before, old, former = path.read_bytes(), drafts.loaded(path), _former(path)
    copy = drafts.copy(path, before)
    if not _edited(path, copy, before, command, former):
        copy.unlink()
        say(f"{path} stays as it was")
        return 0
    _save(path, copy, before)
    new = load(path)
    if old is not None:
        print_diff(diff(old, new))
    say(f"saved {path}")
    return 0


def _own(file: str) -> Path:
    """The file to edit. Raises CommandError for what is no file of the user's."""
    if not Path(file).is_file() and "@" in file:
        raise CommandError("a round's constitution is a record of what was done", fix="edit a file", code=USAGE)
    path = find_constitution(file).resolve()
    if path.is_relative_to(resources.PACKAGE):
        fix = f"copy it first: cp {shlex.quote(str(path))} ."
        raise CommandError(f"{path} is part of the installed package", fix=fix, code=USAGE)
    return path


def _editor() -> list[str]:
    if not _on_terminal():
        fix = "run it on a terminal, or edit the file and run `selfalign constitution lint FILE`"
        raise CommandError("an editor needs a terminal", fix=fix, code=USAGE)
    return drafts.editor()


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _former(path: Path) -> Document | None:
    try:
        return drafts.document(source.read_text(path))
    except InputError:
        return None


def _edited(path: Path, copy: Path, before: bytes, command: list[str], former: Document | None) -> bool:
    """Let the user edit until the copy is to be saved; False where nothing is. What was typed outlives an error."""
    try:
        while True:
            drafts.run_editor(command, copy)
            if copy.read_bytes() == before:
                return False
            found = [replace(finding, file=str(path)) for finding in lint(copy, former)]
            choice = _choice(path, found)
            if choice != "e":
                return choice == "s"
    except BaseException:
        _keep(copy, before)
        raise


def _keep(copy: Path, before: bytes) -> None:
    if copy.exists() and copy.read_bytes() == before:
        copy.unlink()
    else:
        say(f"what you typed is in {copy}")


def _choice(path: Path, found: list[Finding]) -> str:
    """e to edit again, s to save, d to discard: s where nothing was found, otherwise as the user says."""
    if not found:
        return "s"
    print_findings(path, found)
    loads = all(finding.rule != "refused" for finding in found)
    choices = {"e": "edit again", **({"s": "save anyway"} if loads else {}), "d": "discard"}
    question = ", ".join(f"{key}: {what}" for key, what in choices.items())
    while (answer := _answer(f"{question}? ")) not in choices:
        pass
    return answer


def _answer(question: str) -> str:
    try:
        return input(question).strip().lower()[:1]
    except EOFError as error:
        raise CommandError("the terminal was closed: nothing is saved") from error


def _save(path: Path, copy: Path, before: bytes) -> None:
    try:
        drafts.save(path, before, copy.read_bytes())
    except DraftError as error:
        raise CommandError(str(error), fix=f"what you typed is in {copy}") from error
    copy.unlink()
