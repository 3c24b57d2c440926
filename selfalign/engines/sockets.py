"""Sockets that a library opens without need."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def no_new_listeners() -> Iterator[None]:
    """Close the TCP sockets that begin to listen in this process inside the block.

    torch.distributed opens one for each process group, even in a world of one process, to which nothing ever connects.
    Its descriptor stays taken, by a socket without an address: the library still believes that it owns one.
    """
    before = _listeners().keys()
    try:
        yield
    finally:
        for descriptor in _listeners().keys() - before:
            with socket.socket() as idle:
                os.dup2(idle.fileno(), descriptor, inheritable=False)


def _listeners() -> dict[int, str]:
    """This process's listening TCP sockets: descriptor -> inode. Empty where there is no /proc."""
    inodes = set()
    for table in (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")):
        if table.exists():
            rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
            inodes |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    return {fd: inode for fd, inode in _sockets() if inode in inodes}


def _sockets() -> Iterator[tuple[int, str]]:
    folder = Path("/proc/self/fd")
    for entry in os.listdir(folder) if folder.is_dir() else ():
        try:
            target = os.readlink(folder / entry)
        except OSError:  # closed since
            continue
        if target.startswith("socket:"):
            yield int(entry), target
