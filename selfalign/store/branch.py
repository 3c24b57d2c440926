"""A new run that goes on from a round of another."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from selfalign.store import audit, files
from selfalign.store.files import StoreError
from selfalign.store.run import BRANCH, CAMPAIGN, WRITTEN, Run
from selfalign.store.step import DONE


def branch(source: Run, round: int, destination: Path | str, config_yaml: str | None = None) -> Run:
    """Make a run that goes on after `round` of `source`: the baseline and rounds 0 to `round` come along as they are.

    After round -1, the baseline alone.

    Files are hard-linked where the file system can, so weights take no further room; nothing in a run is ever written
    in place. `config_yaml` is the new run's configuration, by default the source's. What came along is never redone,
    whatever the configuration says. Raises StoreError if the round is not finished or not what was written.
    """
    destination = Path(destination)
    files.check_name(destination.name)
    if destination.exists() or destination.is_symlink():
        raise StoreError(f"{destination} is there already. Choose another name for the branch.")
    steps = _inherited_steps(source, round)
    documents = {name: digests for name, digests in audit.written(source.path).items() if _comes_along(name, round)}
    building = destination.absolute().with_name(f".{destination.name}.tmp")
    shutil.rmtree(building, ignore_errors=True)  # of a branch that a crash ended
    try:
        building.mkdir(parents=True)
        for name in [*(f"{step}/{file}" for step in steps for file in _files_of(source.path / step)), *documents]:
            _link(source.path / name, building / name)
        config = source.read_text(CAMPAIGN) if config_yaml is None else config_yaml
        lineage = {"parent": str(source.path), "round": round, "steps": steps}
        _write_own_files(building, files.to_utf8(config), lineage, documents)
        _sync_folders(building)
        os.rename(building, destination)
        files.fsync_folder(building.parent)
    except OSError as error:
        files.refuse_write(destination, error)
    return Run.open(destination)


def _comes_along(name: str, round: int) -> bool:
    match = re.match(r"rounds/(\d+)/", name)
    return int(match[1]) <= round if match else name.startswith("baseline/")


def _inherited_steps(source: Run, round: int) -> dict[str, str]:
    """Return the digests of the steps that come along, having checked that they are finished and whole."""
    if round not in (-1, *source.rounds()):
        have = ", ".join(map(str, source.rounds())) or "none"
        raise StoreError(f"{source.path} has no round {round} (it has {have}). Choose one of these: --round N")
    names = [name for name in audit.step_names(source.path) if _comes_along(name, round)]
    open_steps = [name for name in names if not (source.path / name / DONE).exists()]
    if open_steps:
        raise StoreError(
            f"{source.path}: {open_steps[0]} is not finished. Finish it (selfalign run {source.path}) or branch "
            "from an earlier round."
        )
    problems = [problem for problem in source.verify() if _comes_along(problem.path + "/", round)]
    if problems:
        raise StoreError(f"{source.path} is not what was written: {problems[0]}. See: selfalign verify {source.path}")
    return {name: files.read_sealed(source.path / name / DONE)["digest"] for name in names}


def _files_of(folder: Path) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in files.walk(folder, frozenset({"checkpoint"}))
        if not files.is_temporary(path)
    ]


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target, follow_symlinks=False)
        files.fsync_file(target)


def _write_own_files(building: Path, config: bytes, lineage: dict[str, Any], documents: dict[str, list[str]]) -> None:
    files.atomic_write(building / CAMPAIGN, config)
    files.write_sealed(building / BRANCH, lineage)
    own = {name: [files.sha256_file(building / name)] for name in (BRANCH, CAMPAIGN)}
    files.write_sealed(building / WRITTEN, {"files": {**documents, **own}})


def _sync_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        files.fsync_folder(Path(parent))
