"""Is a run what was written? Every artifact against its digest, every step against the steps it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from selfalign.store import files
from selfalign.store.files import Digests, Problem, StoreError
from selfalign.store.step import BEGUN, DONE, STEP_DIGEST, check_files, check_manifest

WRITTEN, BRANCH, QUARANTINE = "written.json", "branch.json", "quarantine"


def written(root: Path) -> dict[str, list[str]]:
    """Return the digests of the run's documents: the last written, and the one before it."""
    path = root / WRITTEN
    return files.read_sealed(path)["files"] if path.exists() else {}


def step_names(root: Path) -> list[str]:
    """Return the names of all steps of a run, in the order of their folders."""
    names = []
    for parent, folders, entries in os.walk(root):
        folders[:] = sorted(name for name in folders if name != QUARANTINE)
        if BEGUN in entries or DONE in entries:
            names.append(Path(parent).relative_to(root).as_posix())
            folders.clear()
    return sorted(names, key=lambda name: (name.startswith("rounds/"), name))


def verify(root: Path) -> list[Problem]:
    """Return all that is wrong with a run, in the order of its steps, so that the first broken link comes first.

    Damage is found, not malice: whoever can rewrite every file can rewrite the digests too. The event log is a
    narration and is not covered.
    """
    problems = _verify_documents(root)
    finished: dict[str, dict[str, Any]] = {}
    for name in step_names(root):
        try:
            found, manifest = _verify_step(root, name)
        except StoreError as error:
            found, manifest = [Problem(name, str(error))], None
        problems += found
        if manifest is not None:
            finished[name] = manifest
    return [*problems, *_verify_lineage(root, finished)]


def _verify_documents(root: Path) -> list[Problem]:
    problems = []
    try:
        known = files.read_sealed(root / WRITTEN)["files"]
    except StoreError as error:
        return [Problem(WRITTEN, str(error))]
    for name, digests in sorted(known.items()):
        try:
            if files.sha256(files.read_bytes(files.inside(root, name))) not in digests:
                problems.append(Problem(name, "was changed after it was written"))
        except StoreError as error:
            problems.append(Problem(name, str(error)))
    return problems


def _verify_step(root: Path, name: str) -> tuple[list[Problem], dict[str, Any] | None]:
    folder = files.inside(root, name)
    begun = files.read_sealed(folder / BEGUN)
    if not (folder / DONE).exists():
        return _verify_unfinished(root, folder), None
    manifest = files.read_sealed(folder / DONE)
    found = [*check_manifest(name, begun, manifest), *check_files(folder, manifest, Digests())]
    return [Problem(f"{name}/{problem.path}", problem.what) for problem in found], manifest


def _verify_unfinished(root: Path, folder: Path) -> list[Problem]:
    """Shards of an unfinished step are in no manifest yet, but carry a checksum of their own."""
    from selfalign.store import tables

    problems = []
    for path in sorted(folder.glob("part-*.parquet")):
        try:
            tables.check_seal(files.read_bytes(path), str(path))
        except StoreError as error:
            problems.append(Problem(path.relative_to(root).as_posix(), str(error)))
    return problems


def _verify_lineage(root: Path, finished: dict[str, dict[str, Any]]) -> list[Problem]:
    problems, present = [], {manifest["digest"] for manifest in finished.values()}
    for name, manifest in finished.items():
        for source, digest in manifest["inputs"].items():
            if not digest.startswith(STEP_DIGEST) or digest in present:
                continue
            now = f"is now {finished[source]['digest'][:17]}" if source in finished else "is not there whole"
            problems.append(Problem(name, f"broken link: made from {source} {digest[:17]}, which {now}"))
    return [*problems, *_verify_branch(root, finished)]


def _verify_branch(root: Path, finished: dict[str, dict[str, Any]]) -> list[Problem]:
    if not (root / BRANCH).exists():
        return []
    try:
        steps = files.read_sealed(root / BRANCH)["steps"]
    except StoreError as error:
        return [Problem(BRANCH, str(error))]
    return [
        Problem(name, "broken link: not what came from the run this one branched from")
        for name, digest in steps.items()
        if finished.get(name, {}).get("digest") != digest
    ]
