"""What this machine is, and the environment in which inference runs fast and quietly on it. Imports no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from selfalign.config import EngineSettings

_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def worker_environment(settings: EngineSettings) -> dict[str, str]:
    """Variables that must be set before the inference worker's process starts. What the user has set stays.

    On a CPU: Intel's OpenMP where it is installed (vLLM asks for it), whose threads keep spinning for some
    milliseconds between operators. With threads that sleep at once, the wake-ups cost more than the operators of a
    small model. No compilation, which needs a C++ compiler and half a minute.
    """
    values = dict(_QUIET)
    if not has_gpu():
        values |= {"OMP_NUM_THREADS": str(free_cores()), "KMP_BLOCKTIME": "20", "TOKENIZERS_PARALLELISM": "false"}
        values |= _preload()
        if settings.enforce_eager is not False:
            values["TORCHDYNAMO_DISABLE"] = "1"
    return {name: value for name, value in values.items() if name not in os.environ}


_QUIET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout carries answers only
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: no sockets, and no orphan that keeps a GPU
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "GLOO_SOCKET_IFNAME": "lo",  # what torch.distributed opens between its own processes stays on this machine
}


def trainer_environment() -> dict[str, str]:
    """Variables that must be set before a trainer's process starts. What the user has set stays.

    On a CPU: no more threads than there are free cores; with one thread too many, each parallel region waits for the
    one that another process holds up, and a step takes many times as long.
    """
    values = {"TOKENIZERS_PARALLELISM": "false"}
    if not has_gpu():
        values |= {"OMP_NUM_THREADS": str(free_cores()), "OMP_WAIT_POLICY": "passive"}
    return {name: value for name, value in values.items() if name not in os.environ}


def has_gpu() -> bool:
    """Whether an NVIDIA or AMD GPU is visible, told without torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def free_cores() -> int:
    """Cores for computation: those this process may use, less one for the rest of the machine where there are many."""
    cores = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    if quota is not None:
        cores = max(1, min(cores, int(quota)))
    return cores if cores <= 2 else cores - 1


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies in bfloat16. Without it, bfloat16 runs up to a hundred times slower than float32."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def compute_dtype(setting: str) -> str:
    """The dtype to compute in; "auto" is bfloat16 where the hardware multiplies in it, else float32."""
    if setting != "auto":
        return setting
    if has_gpu():
        import torch

        if torch.cuda.is_available():
            return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if has_fast_bf16() else "float32"


def _preload() -> dict[str, str]:
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    return {"LD_PRELOAD": str(openmp)} if openmp.exists() else {}


def _cgroup_quota() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)
