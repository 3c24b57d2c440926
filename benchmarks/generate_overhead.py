"""What the generate stage adds to vLLM: the whole stage, from prompts to Parquet, against bare `LLM.generate`.

    python benchmarks/generate_overhead.py [--model FOLDER] [--prompts 256] [--samples 4] [--repeats 5]

Both use one engine in one process, take turns, and ask for the same samples: same token ids, seeds and lengths. Ours
renders chat templates, writes shards durably; the peer is given token ids and returns
texts, once without log-probabilities, as the stage asks, and once with. The prefix cache is emptied before each run.
The ratio is the peer's time over ours: 1 means that the stage is as fast as bare vLLM.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from selfalign.config import EngineSettings, Generate
from selfalign.engines import worker_environment
from selfalign.engines.vllm import VllmEngine
from selfalign.records import Prompt, derived_seed
from selfalign.stages import prompts as prompt_stage
from selfalign.stages.generate import generate
from selfalign.store import Run

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = EngineSettings(backend="vllm", max_model_len=1024)
SHARD_PROMPTS, SEED = 64, 17

Measured = tuple[float, float, int]  # wall seconds, CPU seconds, sampled tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "selfalign/pocket/models/policy"))
    parser.add_argument("--file", default=str(ROOT / "prompts/train/pocket.jsonl"), help="prompts, as JSON lines")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    prompts = prompt_stage.load(args.file, "train")[: args.prompts]
    settings = Generate(samples=args.samples, max_tokens=args.max_tokens)
    engine = VllmEngine(args.model, SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", "name: benchmark\n")
        variants = {
            "selfalign stage": _stage(engine, prompts, settings, run),
            "bare vLLM": _bare(engine, prompts, settings, logprobs=None),
            "bare vLLM, log-probs": _bare(engine, prompts, settings, logprobs=0),
        }
        with run.lock():
            seen = _measure(engine, variants, args.repeats)
    _report(seen, len(prompts) * args.samples)


def _measure(engine: VllmEngine, variants: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[Measured]]:
    """Take turns, after one round that does not count."""
    seen: dict[str, list[Measured]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, work in variants.items():
            engine._llm.reset_prefix_cache()
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = work()
            measured = time.perf_counter() - wall, time.process_time() - cpu, tokens
            if repeat > 0:
                seen[name].append(measured)
    return seen


def _stage(engine: VllmEngine, prompts: list[Prompt], settings: Generate, run: Run) -> Callable[[], int]:
    """The stage as a campaign runs it: shards in, durable shards of candidates out."""
    numbers = count()
    shards = [
        (i, prompts[start : start + SHARD_PROMPTS]) for i, start in enumerate(range(0, len(prompts), SHARD_PROMPTS))
    ]

    def work() -> int:
        step = run.step(f"rounds/{next(numbers):03d}/candidates", inputs={})
        tokens = 0
        for index, candidates in generate(shards, engine, settings, policy_id="policy", seed=SEED):
            step.write(index, candidates)
            tokens += sum(len(candidate.token_ids) for candidate in candidates)
        step.finish({})
        return tokens

    return work


def _bare(engine: VllmEngine, prompts: list[Prompt], settings: Generate, *, logprobs: int | None) -> Callable[[], int]:
    """vLLM alone, with everything prepared beforehand that is not its own work."""
    from vllm import SamplingParams

    inputs, params = [], []
    for prompt in prompts:
        token_ids = engine._prompts.encode(prompt.messages)
        for sample in range(settings.samples):
            inputs.append({"prompt_token_ids": token_ids})
            seed = derived_seed(SEED, prompt.id, sample)
            params.append(SamplingParams(temperature=1.0, max_tokens=settings.max_tokens, seed=seed, logprobs=logprobs))

    def work() -> int:
        outputs = engine._llm.generate(inputs, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return work


def _report(seen: dict[str, list[Measured]], samples: int) -> None:
    print(f"{samples} samples, {os.environ.get('OMP_NUM_THREADS')} threads, medians of {len(seen['bare vLLM'])} turns")
    print(f"{'':24}{'wall s':>9}{'CPU s':>9}{'tokens':>9}{'tokens/s':>10}")
    medians = {name: [statistics.median(run[i] for run in runs) for i in range(3)] for name, runs in seen.items()}
    for name, (wall, cpu, tokens) in medians.items():
        print(f"{name:24}{wall:9.2f}{cpu:9.2f}{tokens:9.0f}{tokens / wall:10.0f}")
    ours = seen["selfalign stage"]
    for name in list(seen)[1:]:
        turns = list(zip(ours, seen[name], strict=True))
        wall, cpu = (statistics.median(peer[i] / own[i] for own, peer in turns) for i in (0, 1))
        print(f"{name} / selfalign stage, median of turns: wall {wall:.3f}, CPU {cpu:.3f}")


if __name__ == "__main__":
    environment = worker_environment(SETTINGS)
    if environment:  # OpenMP reads its settings when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment})
    main()
