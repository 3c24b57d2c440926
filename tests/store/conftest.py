"""Run folders to test on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfalign.store import Run
from tests.crash_child import work


@pytest.fixture
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: the sweeps sync thousands of times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run.create(tmp_path / "run", "name: test\n")
    with run.lock():
        yield run


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    work(tmp_path / "finished")
    return tmp_path / "finished"
