"""How an error is said: what, where, why, and what to type next; and which exit code it earns."""

from __future__ import annotations

import errno
import sys

from selfalign.control import FAILED, USAGE, CommandError
from selfalign.text import clean
from selfalign.words import place_of

RETRYABLE = 3
GATE = 4
INTERRUPTED = 130

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def print_error(what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
    """Print an error to stderr. Parts left empty are left out; foreign text is cleaned."""
    first, *rest = clean(what).strip().splitlines() or [""]
    print(f"error: {first}", *rest, sep="\n       ", file=sys.stderr)
    for label, text in (("where", where), ("why", why), ("fix", fix)):
        if text:
            print(f"  {label + ':':<7}" + clean(text).replace("\n", "\n         "), file=sys.stderr)
    sys.stderr.flush()


def explain(error: Exception) -> int:
    """Say an error without a traceback and return its exit code."""
    if isinstance(error, CommandError):
        print_error(str(error), where=error.where, why=error.why, fix=error.fix)
        return error.code
    code = exit_code(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        print_error(
            f"the disk refused a write: {error.strerror}",
            where=str(error.filename or ""),
            fix="free some space, then run the same command again: finished work is kept",
        )
    elif isinstance(error, OSError):
        print_error(str(error.strerror or error), where=str(error.filename or ""))
    elif _is_ours(error):
        print_error(str(error))
    else:
        print_error(
            f"{type(error).__name__}: {error}",
            where=place_of(error),
            why="this is a fault in selfalign, or in a library under it",
            fix="the same command with --debug shows the traceback; `selfalign env` belongs in the report",
        )
    return code


def exit_code(error: Exception) -> int:
    """The exit code for an exception of any floor."""
    from selfalign.source import InputError
    from selfalign.store import DiskFull

    if isinstance(error, InputError):
        return USAGE
    if isinstance(error, DiskFull):
        return RETRYABLE
    if isinstance(error, OSError) and error.errno in _DISK:
        return RETRYABLE
    if "selfalign.launch.local" in sys.modules:
        from selfalign.launch.local import WorkerDied

        if isinstance(error, WorkerDied):
            return RETRYABLE
    return FAILED


def _is_ours(error: Exception) -> bool:
    """Our own error classes carry messages made for people; a library's do not."""
    return type(error).__module__.startswith("selfalign.")
