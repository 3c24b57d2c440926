"""Files that are whole or absent: atomic writes, strict JSON, digests, names, and the errors of the run folder."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgspec

FORMAT = 1  # of step.json, done.json and written.json
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_FILE = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._ +@=-]{0,199}")
_TEMPORARY = re.compile(r"\..+\.tmp")
_SURROGATE = re.compile("[\ud800-\udfff]")


class StoreError(RuntimeError):
    """Something about a run folder: what, where, why, and what to type next, in one message."""


class DiskFull(StoreError):
    """There was no room for a file. Nothing that was finished is lost; the same command goes on from there."""


class FileDamaged(StoreError):
    """A file is not what was written."""


class RunLocked(StoreError):
    """Another process writes to this run."""


class StepChanged(StoreError):
    """A step was begun with other inputs or another configuration than it is asked for now."""


class StepDamaged(StoreError):
    """Files of a step are not what was written. They were set aside; running again makes them anew."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a run folder. `path` is relative to the run."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


# Names -------------------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """Return `name` if it is safe inside a run folder: nothing hidden, above, absolute or odd."""
    parts = name.split("/")
    if len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        raise StoreError(
            f"{name!r} is not a name for something in a run: use letters, digits, '.', '_' and '-', parts joined by "
            "'/', each beginning with a letter, a digit or '_'."
        )
    return name


def inside(root: Path, name: str) -> Path:
    """Return the path of `name` under `root`, refusing unsafe names and symbolic links on the way."""
    path = root
    for part in check_name(name).split("/"):
        path = path / part
        if path.is_symlink():
            raise StoreError(f"{path} is a symbolic link. A run holds its own files only: put the real file there.")
    return path


def walk(folder: Path, skip: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yield every file under `folder` in the order of their names, leaving out the top-level names in `skip`.

    Raises StoreError on a symbolic link, on anything that is neither file nor folder, and on odd names.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in skip:
            continue
        if not _FILE.fullmatch(entry.name):
            raise StoreError(f"{folder}: the name {entry.name!r} is not allowed in a run folder. Rename or remove it.")
        if entry.is_dir(follow_symlinks=False):
            yield from walk(folder / entry.name)
        elif entry.is_file(follow_symlinks=False):
            yield folder / entry.name
        else:
            raise StoreError(f"{entry.path} is a link or a special file. A run holds plain files only: remove it.")


def is_temporary(path: Path) -> bool:
    """Whether the file is what a crash leaves of an atomic write."""
    return _TEMPORARY.fullmatch(path.name) is not None


def sweep(folder: Path) -> None:
    """Remove what crashed writers left under `folder`. Only the writer that holds the lock may do so."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                with suppress(OSError):
                    os.unlink(os.path.join(parent, name))


# Writing -----------------------------------------------------------------------------------------------------------


def refuse_write(path: Path, error: OSError) -> NoReturn:
    """Raise the StoreError that says why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFull(
            f"{path}: the disk is full ({error.strerror}). Nothing finished is lost. "
            "Make room, then run the same command again to go on from here."
        ) from error
    raise StoreError(
        f"{path}: could not be written ({error.strerror or error}). Nothing finished is lost. "
        "Mend the cause, then run the same command again to go on from here."
    ) from error


def fsync_file(path: Path) -> None:
    _fsync(path, os.O_RDONLY | os.O_NOFOLLOW)


def fsync_folder(path: Path) -> None:
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data`, so that a crash at any instant leaves the old bytes or the new, never a mixture.

    It has this mode, less the umask. The bytes are on disk when this returns. Raises StoreError (DiskFull) and leaves
    the old file where that fails.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb", buffering=0) as file:
            _write_all(file.fileno(), data)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        refuse_write(path, error)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


PLAIN_NAMES = "a name has up to 100 letters, digits, dots, dashes and underscores, and begins with a letter or digit"


def is_plain_name(name: str) -> bool:
    """Whether a name cannot lead out of its folder, hide, or look like a flag; `PLAIN_NAMES` says what may be one."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line in one write, ending first a line that a crash tore."""
    size = os.fstat(descriptor).st_size
    torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = (b"\n" if torn else b"") + line + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


def make_folder(path: Path) -> Path:
    """Make the folder and its parents, durably."""
    if path.is_dir():
        return path
    make_folder(path.parent)
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o755)
        fsync_folder(path.parent)
    except OSError as error:
        refuse_write(path, error)
    return path


def move_aside(root: Path, path: Path) -> Path:
    """Move `path` to a fresh place under `root`/quarantine and return that place."""
    quarantine = make_folder(root / "quarantine")
    number = 1 + max((int(entry.name) for entry in quarantine.iterdir() if entry.name.isdecimal()), default=0)
    target = quarantine / f"{number:04d}" / path.relative_to(root)
    make_folder(target.parent)
    try:
        os.rename(path, target)
        fsync_folder(target.parent)
        fsync_folder(path.parent)
    except OSError as error:
        refuse_write(target, error)
    return target


# Reading -----------------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """Return the contents of a plain file; a missing one or a symbolic link is a FileDamaged."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileDamaged(f"{path}: not a plain file.")
            return file.read()
    except FileNotFoundError as error:
        raise FileDamaged(f"{path}: missing.") from error
    except OSError as error:
        raise FileDamaged(f"{path}: could not be read ({error.strerror}).") from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents in hexadecimal, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(slots=True)
class Digests:
    """Digests of files, each computed once for as long as the file's size, times and inode stay the same."""

    known: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        state = self._state(path)
        found = self.known.get(str(path))
        if found is None or found[0] != state:
            found = self.known[str(path)] = (state, sha256_file(path))
        return found[1]

    def learn(self, path: Path, digest: str) -> None:
        """Note the digest of a file that was just written, so that it need not be read back."""
        self.known[str(path)] = (self._state(path), digest)

    @staticmethod
    def _state(path: Path) -> tuple[int, ...]:
        status = os.stat(path, follow_symlinks=False)
        return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


# JSON --------------------------------------------------------------------------------------------------------------


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse strict JSON: no duplicate keys, no NaN or infinity, no numbers out of range. `where` names it in errors."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise FileDamaged(f"{where}: not valid JSON ({str(error)[:200]}).") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def plain(value: Any) -> Any:
    """Return `value` as JSON holds it: dataclasses become objects, tuples arrays. Raises StoreError on the rest."""
    try:
        builtin = msgspec.to_builtins(value, str_keys=True)
        return json.loads(json.dumps(builtin, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"a {type(value).__name__} cannot be written as JSON: {error}") from error


def to_json(value: Any) -> bytes:
    """Return `value` as indented JSON. All but ASCII is escaped: safe on any screen, in any editor, in any encoding."""
    return (json.dumps(plain(value), indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")


def json_hash(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    canonical = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256(canonical.encode("ascii"))


def to_utf8(text: str) -> bytes:
    """Encode text; lone surrogates, which are no characters and which no encoding carries, become U+FFFD."""
    return _SURROGATE.sub("\ufffd", text).encode("utf-8")


def write_sealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Write an object together with the checksum of its other fields, and return it as written."""
    body = plain({"format": FORMAT, **value})
    sealed = {**body, "checksum": json_hash(body)}
    atomic_write(path, to_json(sealed))
    return sealed


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote. Raises FileDamaged if it is anything else."""
    value = parse_json(read_bytes(path), str(path))
    if not isinstance(value, dict) or "checksum" not in value:
        raise FileDamaged(f"{path}: has no checksum.")
    body = {name: field for name, field in value.items() if name != "checksum"}
    if json_hash(body) != value["checksum"]:
        raise FileDamaged(f"{path}: does not match its checksum.")
    if body.get("format") != FORMAT:
        raise StoreError(f"{path}: has format {body.get('format')}, but this version of selfalign reads {FORMAT}.")
    return value
