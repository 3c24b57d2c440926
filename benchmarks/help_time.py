"""How long `selfalign --help` takes, beside a bare interpreter: python benchmarks/help_time.py [--repeats 20]."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

GOAL = 0.3  # seconds


def measure(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "selfalign --help": [sys.executable, "-m", "selfalign", "--help"],
        "selfalign run --help": [sys.executable, "-m", "selfalign", "run", "--help"],
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(repeats):  # interleaved, so that a busy moment hits all of them
        for name, command in commands.items():
            seconds[name].append(measure(command))
    for name, pairs in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<22} median {wall:.3f} s wall, {cpu:.3f} s CPU, over {repeats} runs")
    median = statistics.median(wall for wall, _ in seconds["selfalign --help"])
    print(f"goal {GOAL} s: {'met' if median < GOAL else 'MISSED'}")


if __name__ == "__main__":
    main()
