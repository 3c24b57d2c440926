"""Where a name in a campaign leads: the user's own file, or one that comes with selfalign.

A relative path is looked up in the campaign file's folder, then in the working directory, then among the shipped files.
In a clone the shipped constitutions and prompts are the clone's own folders; in an installed wheel they lie in `_data`.
"""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
POCKET_MODELS = {"pocket:policy": "policy", "pocket:judge": "judge"}


def _data() -> Path:
    clone = PACKAGE.parent
    return clone if (clone / "pyproject.toml").is_file() and (clone / "constitutions").is_dir() else PACKAGE / "_data"


def shipped_roots() -> tuple[Path, ...]:
    """The folders that shipped paths such as `constitutions/pocket.yaml` and `recipes/pocket.yaml` are relative to."""
    return _data(), PACKAGE


def is_shipped(path: Path) -> bool:
    return any(
        path.is_relative_to(root / kind) for root in shipped_roots() for kind in ("constitutions", "prompts", "recipes")
    )


def _roots(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder.resolve()
    yield Path.cwd()
    yield from shipped_roots()


def find(name: str, folder: Path | None = None) -> Path | None:
    """The file or folder that a path leads to, or None. `folder` is that of the file which names it."""
    path = Path(name).expanduser()
    candidates = (root / path for root in _roots(folder))  # an absolute path stays what it is
    return next((candidate for candidate in candidates if name and os.path.exists(candidate)), None)


def find_pattern(pattern: str, folder: Path | None = None) -> Path | None:
    """A path or glob made absolute by the first place where it matches a file, or None. Absolute stays what it is."""
    relative = Path(pattern).expanduser()
    for root in _roots(folder):
        for candidate in (root / relative, Path(globbing.escape(str(root))) / relative):
            if pattern and expand(candidate):
                return candidate
    return None


def expand(pattern: Path) -> list[Path]:
    """The files that an absolute path or glob matches, sorted."""
    if os.path.isfile(pattern):  # unlike Path.is_file, not an error for a name that is too long
        return [pattern]
    matches = map(Path, globbing.glob(str(pattern), recursive=True))
    return sorted(path for path in matches if path.is_file())


def find_constitution(name: str, folder: Path | None = None) -> Path | None:
    """A constitution by its path, or by its name beside the naming file or among the shipped ones."""
    for candidate in (name, f"{name}.yaml", f"constitutions/{name}.yaml"):
        found = find(candidate, folder)
        if found is not None and found.is_file():
            return found
    return None


def constitutions() -> list[str]:
    """The names of the shipped constitutions."""
    return sorted(path.stem for path in (_data() / "constitutions").glob("*.yaml"))


def recipes() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in (PACKAGE / "recipes").glob("*.yaml"))


def recipe(name: str) -> Path | None:
    """The file of a recipe, by the recipe's name."""
    return PACKAGE / "recipes" / f"{name}.yaml" if name in recipes() else None


def template(name: str) -> str:
    """The text of a shipped prompt template."""
    return (_data() / "prompts" / "templates" / f"{name}.j2").read_text(encoding="utf-8")


def schema(name: str) -> str:
    """The text of a JSON Schema: constitution, campaign, prompts or verdict."""
    return (PACKAGE / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8")


def model(name: str) -> str:
    """The folder of a shipped model; every other name is returned as it is."""
    return str(PACKAGE / "pocket" / "models" / POCKET_MODELS[name]) if name in POCKET_MODELS else name
