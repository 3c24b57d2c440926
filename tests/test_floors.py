"""The house stands as the design draws it: modules import from lower floors only, and the upper floors stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent / "selfalign"

# A room is a module or package right under selfalign; what belongs to one room imports within it freely.
FLOORS = {
    "records": 0, "schemas": 0, "source": 0, "resources": 0, "statistics": 0,
    "config": 1, "constitution": 1, "store": 1, "text": 1, "chat": 1, "calibration": 1,
    "engines": 2, "training": 2, "preferences": 2, "preflight": 2, "labels": 2, "progress": 2,
    "stages": 3, "people": 3, "control": 3,
    "campaign": 4, "launch": 4, "mining": 4, "tui": 4,
    "cli": 5, "pocket": 5,
}  # fmt: skip
SAME_ROOM = {
    "settings": "config", "objective": "config", "contest": "preferences", "selection": "preferences",
    "principles": "preferences",
    "agreement": "calibration", "judge_calibration": "calibration",
    "steps": "campaign", "rounds": "campaign", "bootstrap": "campaign", "roles": "campaign", "heldout": "campaign",
    "rollouts": "campaign", "preview": "campaign", "canaries": "campaign", "judge_card": "campaign",
    "judging": "campaign", "__main__": "cli", "rewording": "text", "units": "text", "words": "progress",
}  # fmt: skip
STAGES_THAT_USE_OTHERS = {
    "evaluate": {"generate", "judge"},
    "outcome": {"examples", "pairs", "rankings", "revise"},
}
LAUNCHED_BY_THE_STORY = {("launch", "campaign")}  # launch implements the seam that `steps` names
HEAVY = {"torch", "transformers", "vllm", "peft", "accelerate"}
LIGHT_ROOMS = {room for room, floor in FLOORS.items() if floor <= 1}
LIGHT_ROOMS |= {"preflight", "progress", "stages", "campaign", "mining", "tui", "cli"}
LIGHT_MODULES = {
    "selfalign", "selfalign.engines.base", "selfalign.training.job", "selfalign.training.guards",
    "selfalign.launch.local",
}  # fmt: skip


class Import(NamedTuple):
    source: str  # the importing module
    target: str  # what it imports
    line: int
    lazy: bool  # within a function, or for type checkers only

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(module: str) -> Iterator[Import]:
    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            deferred |= isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, child.lineno, lazy)
            elif isinstance(child, ast.ImportFrom):
                for target in targets(module, child):
                    yield Import(module, target, child.lineno, lazy)
            yield from visit(child, lazy or deferred)

    yield from visit(ast.parse(MODULES[module].read_text(encoding="utf-8")), False)


def targets(module: str, node: ast.ImportFrom) -> list[str]:
    base = node.module or ""
    if node.level:
        package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
    full = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else base for name in full]


IMPORTS = [found for module in MODULES for found in imports_of(module)]
OUR_IMPORTS = [found for found in IMPORTS if found.target.split(".")[0] == "selfalign" and found.target != "selfalign"]


def room(module: str) -> str:
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "selfalign"
    return SAME_ROOM.get(name, name)


# What the reader of runs may know of: what is on disk, what stored verdicts come to, and how to put it in words.
READERS_WORLD = {
    "store", "records", "constitution", "config", "text", "progress", "stages", "statistics", "source", "tui",
    "preferences", "calibration", "labels", "people", "control",
}  # fmt: skip


def heavy(found: Import) -> bool:
    return found.target.split(".")[0] in HEAVY


def test_every_module_has_a_floor() -> None:
    homeless = {room(module) for module in MODULES} - FLOORS.keys() - {"selfalign"}
    assert not homeless, f"say in FLOORS where these belong: {sorted(homeless)}"
    gone = FLOORS.keys() - {room(module) for module in MODULES} - {"schemas"}
    assert not gone, f"FLOORS names what is not there: {sorted(gone)}"


def test_modules_import_from_lower_floors_only() -> None:
    wrong = [
        str(found)
        for found in OUR_IMPORTS
        if (here := room(found.source)) != (there := room(found.target))
        and here != "selfalign"
        and FLOORS.get(there, -1) >= FLOORS.get(here, 99)
        and (here, there) not in LAUNCHED_BY_THE_STORY
    ]
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert [str(found) for found in OUR_IMPORTS if found.source == "selfalign"] == []


def test_stages_do_not_import_each_other() -> None:
    wrong = []
    for found in OUR_IMPORTS:
        source, target = found.source.split("."), found.target.split(".")
        if source[1:2] == target[1:2] == ["stages"] and len(source) > 2:
            allowed = STAGES_THAT_USE_OTHERS.get(source[2], set()) | {source[2]}
            wrong += [str(found)] if len(target) > 2 and target[2] not in allowed else []
    assert not wrong, "\n".join(wrong)


def is_readable(stage: str) -> bool:
    """Whether a module of the stages tells what is on disk, and does no work."""
    return stage.split(".")[2:3] in ([], ["report"], ["examples"], ["outcome"])


def test_the_reader_of_runs_knows_only_what_is_on_disk() -> None:
    used = [found for found in OUR_IMPORTS if room(found.source) == "tui"]
    wrong = [str(found) for found in used if room(found.target) not in READERS_WORLD]
    wrong += [str(found) for found in used if room(found.target) == "stages" and not is_readable(found.target)]
    assert not wrong, "\n".join(wrong)


def test_only_engines_import_vllm() -> None:
    wrong = [f for f in IMPORTS if f.target.split(".")[0] == "vllm" and room(f.source) != "engines"]
    assert not wrong, "\n".join(map(str, wrong))


def test_nothing_imports_pickle() -> None:
    names = {"pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
    wrong = [found for found in IMPORTS if found.target.split(".")[0] in names]
    assert not wrong, "\n".join(map(str, wrong))


def light_modules() -> list[str]:
    return [m for m in MODULES if (room(m) in LIGHT_ROOMS and not m.endswith("__main__")) or m in LIGHT_MODULES]


def test_light_modules_import_nothing_heavy_at_module_level() -> None:
    wrong = [found for module in light_modules() for found in imports_of(module) if heavy(found) and not found.lazy]
    assert not wrong, "\n".join(map(str, wrong))


def test_light_modules_load_nothing_heavy_by_way_of_others() -> None:
    code = f"""
import importlib, sys
for module in {light_modules()!r}:
    importlib.import_module(module)
    loaded = {HEAVY!r} & sys.modules.keys()
    assert not loaded, f"importing {{module}} loads {{sorted(loaded)}}"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("module", ["selfalign.store", "selfalign.text", "selfalign.records"])
def test_what_a_reader_of_runs_needs_does_not_load_arrow(module: str) -> None:
    code = f"import sys, {module}; assert not {{'pyarrow', 'numpy'}} & sys.modules.keys()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=60)
    assert result.returncode == 0, result.stderr[-2000:]
