"""A constitution file while it is edited: opened, looked over, handed to an editor, and saved as it was typed.

The file is replaced by the very text that was typed, so comments stay, and only where nobody else has changed it since
it was opened. A round's own copy is never a draft: it is a record of what was done.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from selfalign import resources, source
from selfalign.constitution import Constitution, ConstitutionError, load
from selfalign.constitution.lint import Finding, lint
from selfalign.source import HIDDEN, MAX_BYTES, Document, InputError
from selfalign.store import StoreError, atomic_write
from selfalign.text import clean

LARGEST = 256 * 1024  # characters; looking over more at each stop of the keys would hold up the typing
LONGEST_LINE = 4_000  # characters; drawing longer ones would, too
_MARK = "\ufeff"  # of byte order, which some editors write first
_ENDS = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # what one program or another takes for a line's end


class DraftError(RuntimeError):
    """Why a file is not edited or saved. `why` and `fix` say more; `usage`: the user asked for what cannot be."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", usage: bool = False) -> None:
        super().__init__(what)
        self.why, self.fix, self.usage = why, fix, usage


class Unsaved(msgspec.Struct, forbid_unknown_fields=True):
    """A text that is not saved, and what the file said when it was begun."""

    base: str
    text: str


@dataclass
class Draft:
    """A file as it was when it was opened, and what has become of its text since.

    `back` is when a text was kept that `resume` took up, in seconds since 1970, 0 where there was none; `lost` says why
    one was not taken up.
    """

    path: Path
    before: bytes
    text: str
    back: float = 0.0
    lost: str = ""
    _kept: Unsaved | None = None  # what this draft has put on disk, or found there
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @staticmethod
    def open(path: Path) -> Draft:
        """Open a file. Raises InputError where it cannot be read, is no UTF-8, or is too large to be a constitution."""
        path = path.resolve()
        source.read_text(path)
        before = path.read_bytes()
        return Draft(path, before, before.decode("utf-8"))

    @staticmethod
    def resume(path: Path) -> Draft:
        """Open a file with what `keep` has kept of an edit that was not saved. Raises InputError as `open` does."""
        draft = Draft.open(path)
        try:
            found = _unsaved(draft.path)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            draft.lost = f"{_beside(draft.path).name} is ignored, as it is no text that was kept here: {said}"
            return draft
        if found is not None:
            kept, when = found
            draft._kept = kept
            if kept.text not in (kept.base, draft.text):
                draft.before, draft.text, draft.back = kept.base.encode("utf-8"), kept.text, when
        return draft

    def keep(self) -> None:
        """Keep the text beside the file while it is not saved, and no longer. Raises StoreError (the disk refuses).

        What another draft of the file has kept is not taken away.
        """
        with self._lock:
            wanted = Unsaved(self.opened, self.text) if self.unsaved else None
            if wanted == self._kept:
                return
            if wanted is not None:
                atomic_write(_beside(self.path), msgspec.json.encode(wanted), 0o600)
            else:
                with suppress(OSError):
                    _beside(self.path).unlink(missing_ok=True)
            self._kept = wanted

    def drop(self) -> None:
        """Throw away what is not saved, here and beside the file."""
        self.text = self.opened
        with suppress(StoreError):  # nothing is written
            self.keep()

    @property
    def opened(self) -> str:
        """The text when it was opened."""
        return self.before.decode("utf-8")

    @property
    def unsaved(self) -> bool:
        return self.text != self.opened

    @property
    def stale(self) -> bool:
        """Whether somebody else has changed the file, or taken it away, since it was opened."""
        try:
            return self.path.read_bytes() != self.before
        except OSError:
            return True

    def rules(self) -> Constitution:
        """The constitution that the text makes with what it extends. Raises ConstitutionError."""
        return load(self.path, self.text.removeprefix(_MARK))

    def findings(self) -> list[Finding]:
        """What lint finds in the text; a wording that changed since it was opened asks for a new version."""
        return lint(self.path, document(self.opened), self.text.removeprefix(_MARK))

    def save(self) -> None:
        """Put the text in the file's place. Raises DraftError or StoreError, and leaves the file, where it may not."""
        content = self.text.encode("utf-8")
        save(self.path, self.before, content)
        self.before = content


def _beside(path: Path) -> Path:
    """Where what is not saved of a file is kept: hidden, and no .yaml, so that nobody takes it for a constitution."""
    return path.with_name(f".{path.name}.unsaved")


def _unsaved(path: Path) -> tuple[Unsaved, float] | None:
    """What was kept beside a file, and when; None where nothing was.

    Raises OSError, ValueError or MsgspecError where there is anything else.
    """
    try:
        descriptor = os.open(_beside(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError("it is not a file of yours alone")
        content = stream.read(4 * MAX_BYTES + 1)
    if len(content) > 4 * MAX_BYTES:
        raise ValueError("it is too large")
    kept = msgspec.json.decode(content, type=Unsaved)
    if max(len(text.encode("utf-8")) for text in (kept.base, kept.text)) > MAX_BYTES:
        raise ValueError("it is too large")
    return kept, status.st_mtime


def document(text: str) -> Document | None:
    """What a file said before an edit, to hold its version against; None where it was no YAML."""
    try:
        return source.read_yaml(text.removeprefix(_MARK), "the file before this edit")
    except InputError:
        return None


def protected(path: Path) -> str:
    """Why a file may not be written, with what to do instead; "" where it may."""
    path = path.resolve()
    if path.is_relative_to(resources.PACKAGE):
        return f"{path} is part of the installed package; copy it first: cp {shlex.quote(str(path))} ."
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return f"{path} cannot be written; change its permissions, or copy it and name the copy in the campaign"
    return ""


def unfit(text: str) -> str:
    """Why a text cannot be typed in here without changing what one does not see; "" where it can."""
    lines = text.removeprefix(_MARK).replace("\r\n", "\n")
    if found := HIDDEN.search(lines):
        where = lines[: found.start()].count("\n") + 1
        return f"line {where} holds the hidden character U+{ord(found.group()):04X}"
    if clean(lines) != lines:
        return "it holds characters that change how a line is read"
    if len({found.group() for found in _ENDS.finditer(text)}) > 1:
        return "its lines end in different ways"
    if len(text) > LARGEST:
        return f"it has more than {LARGEST // 1024} KiB"
    if max(map(len, lines.split("\n"))) > LONGEST_LINE:
        return f"it has a line of more than {LONGEST_LINE:,} characters"
    return ""


def save(path: Path, before: bytes, content: bytes) -> None:
    """Put content in a file's place, unless it is not what it was `before`. Its mode stays. Raises DraftError."""
    if not path.is_file() or path.read_bytes() != before:
        raise DraftError(f"{path} was changed by somebody else meanwhile")
    mode = path.stat().st_mode
    atomic_write(path, content)
    path.chmod(mode)


def loaded(path: Path) -> Constitution | None:
    try:
        return load(path)
    except ConstitutionError:
        return None


# Another editor


def editor() -> list[str]:
    """The command of the user's editor. Raises DraftError where none is set."""
    try:
        command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    except ValueError as error:
        raise DraftError(f"$VISUAL or $EDITOR is no command: {error}", usage=True) from error
    if not command:
        raise DraftError("neither $VISUAL nor $EDITOR is set", fix="export EDITOR=nano", usage=True)
    return command


def copy(path: Path, content: bytes) -> Path:
    """A hidden copy beside the file, where what it extends is found in the same way."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".yaml", dir=path.parent)
    with open(descriptor, "wb") as stream:
        stream.write(content)
    return Path(name)


def run_editor(command: Sequence[str], copy: Path) -> None:
    """Let the user edit a copy. Raises DraftError where the editor cannot be started, or fails."""
    try:
        code = subprocess.run([*command, str(copy)], check=False).returncode
    except OSError as error:
        why = f"{command[0]}: {error.strerror}"
        raise DraftError("the editor cannot be started", why=why, fix="set $EDITOR", usage=True) from error
    if code:
        raise DraftError(f"the editor ended with exit code {code}: nothing is saved", why=shlex.join(command))
