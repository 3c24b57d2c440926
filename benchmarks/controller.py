"""What the controller costs: a round of a campaign whose engine answers at once and whose trainer only writes files.

    python benchmarks/controller.py [--prompts 1000 10000 100000]

Everything that is measured is ours: prompts, records, shards, digests, events, pairs, report. Each size runs in a
process of its own; time is wall and CPU seconds, memory the peak resident set. A line that is linear costs the same
microseconds a prompt at every size; memory that is flat does not grow with the prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from selfalign import config
from selfalign.campaign import run_campaign
from selfalign.engines.base import ScoreRequest
from selfalign.engines.scripted import ScriptedEngine
from selfalign.steps import Work
from selfalign.store import Run
from selfalign.training.job import TrainJob

CONSTITUTION = """\
schema: selfalign.constitution/v1
name: bench
version: 1.0.0
principles: [{id: kind, compare: Choose the kinder response.}]
"""


class InstantWorkers:
    """An engine that answers at once, and a trainer that writes a token model."""

    def engine(self, model: str, *, trust_remote_code: bool = False) -> ScriptedEngine:
        return ScriptedEngine("same")

    def train(self, job: TrainJob, emit: Callable[..., None]) -> None:
        folder = Path(job.output_dir)
        (folder / "model.safetensors").write_bytes(b"weights")
        engine = ScriptedEngine("same")
        asked = [ScoreRequest(str(i), probe.messages, probe.token_ids) for i, probe in enumerate(job.probes)]
        said = [list(score.logprobs) for score in engine.score(asked)]
        moved = [[value - 1 for value in row] for row in said]
        (folder / "probes.json").write_text(json.dumps({"before": moved, "after": said}))


def prepare(folder: Path, num_prompts: int) -> config.Campaign:
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "constitution.yaml").write_text(CONSTITUTION)
    for split, count in (("train", num_prompts), ("heldout", 128)):
        with (folder / f"{split}.jsonl").open("w") as file:
            file.writelines(json.dumps({"prompt": f"{split} question number {i}"}) + "\n" for i in range(count))
    values = {
        "name": "bench", "rounds": 1, "constitution": folder / "constitution.yaml", "policy.model": folder / "base",
        "judge.model": "base", "judge.comparisons": "ring", "prompts.train": folder / "train.jsonl",
        "prompts.heldout": folder / "heldout.jsonl", "generate.max_tokens": 32, "evaluate.prompts": 128,
    }  # fmt: skip
    return config.load(None, None, [f"{name}={value}" for name, value in values.items()], {}).campaign


def measure(num_prompts: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        settings = prepare(Path(name), num_prompts)
        run = Run.create(Path(name) / "run", config.to_yaml(settings))
        started, cpu = time.perf_counter(), time.process_time()
        with run.lock():
            run_campaign(Work(run, settings, InstantWorkers()))
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"prompts": num_prompts, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child)))
        return
    print(f"{'prompts':>8} {'wall s':>8} {'CPU s':>8} {'us/prompt':>10} {'peak MiB':>9}")
    for size in arguments.prompts:
        command = [sys.executable, __file__, "--child", str(size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        row = json.loads(output.splitlines()[-1])
        each = row["cpu_seconds"] / size * 1e6
        print(
            f"{size:>8} {row['seconds']:>8.2f} {row['cpu_seconds']:>8.2f} {each:>10.0f} {row['peak_mib']:>9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
