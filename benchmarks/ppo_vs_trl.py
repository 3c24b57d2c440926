"""One iteration of PPO: a campaign's own path against TRL's PPOTrainer on the same models and prompts.

    python benchmarks/ppo_vs_trl.py [--model tiny|small|medium] [--lengths spread|even] [--samples 1]
                                    [--repeats 1] [--threads 3]

An iteration is rollouts, their scores, and four epochs of one optimizer step each, in float32, with a critic, a
reference and a reward model of their own. Every answer has the same number of tokens, as nothing in the models ends
one. Ours is what a campaign does: vLLM in the inference worker, the trainer beside it, records between them, weights
written, reloaded and proven each time, a checkpoint of the training each time. CPU seconds and memory are those of all
its processes together; the memory is the sum of their peaks, so libraries that they share count more than once.

The second iteration is the one reported: in the first everything is cold. Starting up, from the first line of a process
to the first rollouts, is measured apart, imports included. TRL runs with its default micro-batch and at tuned ones; the
ratio is to the fastest of them. The goal is a sixth of its CPU seconds and half of its memory. Runs are interleaved.
Samples differ, so the first iterations are compared by the entropy of their answers and the mean reward alone.

1.12.0 is the last TRL with PPO; it has an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from trl_harness import (
    LEARNING_RATE,
    MEDIAN_ANSWER,
    MEDIAN_PROMPT,
    OURS,
    SEED,
    SPREAD,
    WORK,
    ask_child,
    draw_words,
    llama_config,
    machine,
    ratios,
    trl_python,
    write_tokenizer,
)

STARTED = time.perf_counter()
TRL_VERSION = "1.12.0"
ANSWERS, LONGEST, ANSWER, EPOCHS, KL_COEF, PROBES = 32, 256, 64, 4, 0.05, 8
MEASURED = 1  # the iteration reported, from 0
SPREADS = {"spread": SPREAD, "even": 0.0}
MODELS = {
    "tiny": {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "vocab_size": 1_000},
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 4, "vocab_size": 16_384},
    "medium": {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "vocab_size": 32_000},
}
LAYERS = {"tiny": 2, "small": 6, "medium": 8}
TRL_SETTINGS: dict[str, dict[str, int]] = {
    "trl 8x4": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    "trl 32x1": {"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    "trl 2x16": {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 16, "local_rollout_forward_batch_size": 8,
    },
}  # fmt: skip
PARTS = ("rollouts", "scoring", "update", "handing over")

Cost = tuple[float, float]  # wall seconds, CPU seconds


@dataclass(frozen=True)
class Result:
    """One run. `parts` are those of the reported iteration; entropy (nats an answer) and score are of the first one."""

    variant: str
    startup: Cost
    parts: dict[str, Cost]
    peak_gib: float
    entropy: float
    score: float

    @property
    def iteration(self) -> Cost:
        return tuple(sum(cost[kind] for cost in self.parts.values()) for kind in (0, 1))


@dataclass
class Marks:
    """When each part of each iteration began and ended, on the clocks of all processes of a run."""

    cpu_seconds: Callable[[], float]
    found: list[tuple[str, float, float]] = field(default_factory=list)

    def set(self, name: str) -> None:
        self.found.append((name, time.perf_counter() - STARTED, self.cpu_seconds()))

    def parts(self) -> dict[str, Cost]:
        """Of the reported iteration: the stretches from mark to mark, added up by the names that begin them."""
        starts = [place for place, (name, *_) in enumerate(self.found) if name == "rollouts"] + [len(self.found) - 1]
        total = dict.fromkeys(PARTS, (0.0, 0.0))
        for (name, *begin), (_, *end) in pairwise(self.found[starts[MEASURED] : starts[MEASURED + 1] + 1]):
            total[name] = tuple(t + e - b for t, b, e in zip(total[name], begin, end, strict=True))
        return total

    def result(self, variant: str, parts: dict[str, Cost], peak_gib: float, first: dict[str, float]) -> Result:
        """`first` are the metrics of the first iteration."""
        startup = self.found[0][1:]
        return Result(variant, startup, parts, peak_gib, first["objective/entropy"], first["objective/scores"])


# The orchestrating side -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--lengths", choices=SPREADS, default="spread", help="of prompts")
    parser.add_argument("--samples", type=int, default=1, help=f"answers a prompt; in all there are {ANSWERS}")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=1024, help="positions in a micro-batch of this trainer")
    parser.add_argument("--variants", help="comma-separated, of: " + ", ".join([OURS, *TRL_SETTINGS]))
    parser.add_argument("--child", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        variant, folder = args.child[0], Path(args.child[1])
        result = run_ours(folder, args) if variant == OURS else run_trl(variant, folder, args.samples)
        print("\n" + json.dumps(asdict(result)))
        return
    trl_python(TRL_VERSION)
    print(f"{machine(args.threads)}, TRL {TRL_VERSION}")
    compare(args)


def compare(args: argparse.Namespace) -> None:
    folder = WORK / f"ppo-{args.model}-{args.lengths}-{args.samples}"
    shutil.rmtree(folder, ignore_errors=True)
    tokens = write_inputs(folder, args.model, SPREADS[args.lengths], ANSWERS // args.samples)
    print(f"\n{args.model}: {LAYERS[args.model]} layers, {MODELS[args.model]}\n{tokens}")
    variants = args.variants.split(",") if args.variants else [OURS, *TRL_SETTINGS]
    results: dict[str, list[Result]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            results[variant].append(ask(variant, folder, args))
            print("  " + json.dumps(asdict(results[variant][-1])), flush=True)
    report(results)


def ask(variant: str, folder: Path, args: argparse.Namespace) -> Result:
    for name in ("out", "run"):
        shutil.rmtree(folder / name, ignore_errors=True)
    python = sys.executable if variant == OURS else trl_python(TRL_VERSION)
    arguments = ["--child", variant, str(folder), "--max-tokens", str(args.max_tokens), "--samples", str(args.samples)]
    return Result(**ask_child(python, __file__, arguments, args.threads))


def report(results: dict[str, list[Result]]) -> None:
    """Medians by variant, parts and start-up in CPU seconds, and the ratios to the TRL with the fewest."""
    print(f"\n{'variant':12}{'wall s':>9}{'CPU s':>9}{'peak GiB':>10}", end="")
    print("".join(f"{part:>14}" for part in PARTS) + f"{'start-up':>14}   entropy, reward of the first rollouts")
    summary = {}
    for variant, runs in results.items():
        wall, cpu = (statistics.median(run.iteration[kind] for run in runs) for kind in (0, 1))
        summary[variant] = wall, cpu, max(run.peak_gib for run in runs)
        columns = [statistics.median(run.parts[part][1] for run in runs) for part in PARTS]
        columns.append(statistics.median(run.startup[1] for run in runs))
        print(f"{variant:12}{wall:9.1f}{cpu:9.1f}{summary[variant][2]:10.2f}", end="")
        print("".join(f"{seconds:14.1f}" for seconds in columns) + f"   {runs[0].entropy:.1f}, {runs[0].score:.3f}")
    others = [values for variant, values in summary.items() if variant != OURS]
    if OURS in summary and others:
        print(f"best TRL / selfalign: {ratios(summary[OURS], others)}")
        print(f"leanest TRL / selfalign: memory {min(other[2] for other in others) / summary[OURS][2]:.2f}x")


def write_inputs(folder: Path, model: str, spread: float, num_prompts: int) -> str:
    """Write policy and reward model, and the texts of prompts; the TRL side is given them as tokens."""
    import numpy as np
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

    from selfalign.chat import encode_chat
    from selfalign.records import Message

    sizes, endless = MODELS[model], {"bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(SEED)
    policy = LlamaForCausalLM(llama_config(sizes, LAYERS[model], **endless))
    policy.save_pretrained(folder / "model")
    reward = LlamaForSequenceClassification(llama_config(sizes, LAYERS[model], **endless, num_labels=1))
    torch.nn.init.normal_(reward.score.weight, std=(sizes["hidden_size"] + 1) ** -0.5)
    reward.save_pretrained(folder / "reward")
    for name in ("model", "reward"):
        write_tokenizer(folder / name, sizes["vocab_size"], ends=False)
    generator = np.random.default_rng(SEED)

    def texts(count: int, median: int) -> list[str]:
        return [draw_words(generator, sizes["vocab_size"], median, spread, LONGEST) for _ in range(count)]

    prompts, probes = texts(num_prompts, MEDIAN_PROMPT), texts(PROBES, MEDIAN_ANSWER)
    (folder / "texts.json").write_text(json.dumps({"prompts": prompts, "probes": probes}))
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokens = [encode_chat(tokenizer, [Message("user", text)]) for text in prompts]
    (folder / "prompts.json").write_text(json.dumps(tokens))
    lengths = [len(row) for row in tokens]
    return (
        f"{num_prompts} prompts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all; "
        f"{ANSWERS // num_prompts} answers of {ANSWER} to each"
    )


# Our side: what a campaign does ---------------------------------------------------------------------------------------


class Enough(Exception):
    """The iteration to be measured is over."""


class Watched:
    """The processes of a campaign, with a mark wherever the trainer says how far it is."""

    def __init__(self, workers: Any) -> None:
        self.workers, self.engine, self.api = workers, workers.engine, workers.api
        self.marks = Marks(self.cpu_seconds)
        self.peaks: dict[int, float] = {}  # GiB, by process

    def train(self, job: Any, emit: Callable[..., None], answer: Callable[..., Any]) -> None:
        def tell(event: str, **fields: Any) -> None:
            emit(event, **fields)
            if event == "train_step":
                self.marks.set("update" if fields["step"] % EPOCHS else "handing over")

        def reply(iteration: int, **fields: Any) -> Any:
            self.marks.set("rollouts")
            if iteration > MEASURED:
                raise Enough
            found = answer(iteration, **fields)
            self.marks.set("scoring")
            return found

        self.workers.train(job, tell, reply)

    def cpu_seconds(self) -> float:
        """Of all processes so far, ended ones left out; their peaks of memory are noted in passing."""
        started = (self.workers._worker.process, self.workers._trainer)
        pids = [os.getpid(), *(process.pid for process in started)]
        self.peaks |= {pid: peak_gib(pid) for pid in pids}
        return sum(map(cpu_seconds_of, pids))


def run_ours(folder: Path, args: argparse.Namespace) -> Result:
    from selfalign.launch.local import LocalWorkers
    from selfalign.roles import policy_engine
    from selfalign.rounds import train_policy
    from selfalign.stages.train import Data, base_checkpoint
    from selfalign.steps import Work
    from selfalign.store import Run

    settings = our_settings(folder, args.max_tokens, args.samples)
    run = Run.create(folder / "run", "name: benchmark\n")
    with run.lock(), LocalWorkers(settings, run.path) as workers:
        watched = Watched(workers)
        work = Work(run, settings, watched)
        drawn, baseline = write_round(work, folder)
        policy_engine(work, baseline.policy, None)
        data = Data([drawn], [], [], reward_model=base_checkpoint(str(folder / "reward"), None))
        with suppress(Enough):
            train_policy(work, 0, data, None, None, baseline.policy, baseline)
    first = json.loads((run.path / "rounds/000/policy/metrics.jsonl").read_text().splitlines()[0])
    return watched.marks.result(OURS, with_scoring(watched.marks), sum(watched.peaks.values()), first)


def our_settings(folder: Path, max_tokens: int, samples: int) -> Any:
    from selfalign.config import Campaign, EngineSettings, Generate, Policy, Ppo, Train

    steps = {"learning_rate": LEARNING_RATE, "schedule": "constant", "warmup_ratio": 0.0, "dtype": "float32"}
    return Campaign(
        seed=SEED,
        policy=Policy(model=str(folder / "model")),
        generate=Generate(max_tokens=ANSWER),
        train=Train(algorithm="ppo", max_tokens_per_batch=max_tokens, **steps),
        ppo=Ppo(
            iterations=MEASURED + 2, prompts=ANSWERS // samples, samples=samples, epochs=EPOCHS, kl_coef=KL_COEF,
            missing_eos="keep", shift_rewards=False, whitening="bessel", guard_every=None,
        ),
        engine=EngineSettings(backend="vllm", dtype="float32", max_model_len=1024),
    )  # fmt: skip


def with_scoring(marks: Marks) -> dict[str, Cost]:
    """Our trainer tells of steps alone: scoring is what the first takes longer than the others do."""
    parts = marks.parts()
    step = [seconds / (EPOCHS - 1) for seconds in parts["update"]]
    scoring, update = parts["scoring"], parts["update"]
    parts["scoring"] = tuple(whole - one for whole, one in zip(scoring, step, strict=True))
    parts["update"] = tuple(others + one for others, one in zip(update, step, strict=True))
    return parts


def write_round(work: Any, folder: Path) -> tuple[Any, Any]:
    """The prompts of a round, and the baseline whose answers are the probes of the weights."""
    from selfalign.heldout import write_prompts
    from selfalign.records import Candidate, Message, Prompt
    from selfalign.roles import Baseline
    from selfalign.stages.train import base_checkpoint
    from selfalign.steps import perform

    texts = json.loads((folder / "texts.json").read_text())
    prompts = [Prompt.make((Message("user", text),)) for text in texts["prompts"]]
    drawn = write_prompts(work, "rounds/000/prompts", prompts, 0)
    asked = write_prompts(work, "baseline/prompts", prompts[:PROBES], None)
    answers = [
        Candidate(str(number), prompt.id, "base", 0, 0, text, tuple(int(word[1:]) for word in text.split()), "length")
        for number, (prompt, text) in enumerate(zip(prompts[:PROBES], texts["probes"], strict=True))
    ]
    said = perform(work, "generate", "baseline/candidates", lambda _: (shard for shard in [(0, answers)]), num_shards=1)
    return drawn, Baseline(base_checkpoint(work.settings.policy.model, None), asked, said)


def cpu_seconds_of(pid: int) -> float:
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_gib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


# The side of TRL, in its own environment ------------------------------------------------------------------------------


def run_trl(variant: str, folder: Path, samples: int) -> Result:
    from trl.experimental.ppo import ppo_trainer

    marks = Marks(time.process_time)
    logged: list[dict[str, float]] = []
    trainer = make_trainer(folder, TRL_SETTINGS[variant], samples)
    generate, accumulate = ppo_trainer.batch_generation, trainer.accelerator.accumulate

    def marked_generation(*args: Any) -> Any:
        marks.set("rollouts")
        found = generate(*args)
        marks.set("scoring")
        return found

    def marked_accumulation(*models: Any) -> Any:
        if marks.found[-1][0] == "scoring":
            marks.set("update")
        return accumulate(*models)

    def log(metrics: dict[str, float], *_: Any) -> None:
        logged.append(metrics)
        marks.set("handing over")

    ppo_trainer.batch_generation, trainer.accelerator.accumulate, trainer.log = (
        marked_generation, marked_accumulation, log,
    )  # fmt: skip
    trainer.train()
    marks.set("end")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return marks.result(variant, marks.parts(), peak, logged[0])


def make_trainer(folder: Path, settings: dict[str, int], samples: int) -> Any:
    """PPOTrainer, with every iteration on all prompts: TRL's own sampler would draw some twice, and others not.

    It samples one answer to a prompt, so a prompt that is to have more stands as often among the rows.
    """
    import torch
    from datasets import Dataset, disable_caching
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    disable_caching()
    args = PPOConfig(
        output_dir=str(folder / "out"),
        learning_rate=LEARNING_RATE,
        num_ppo_epochs=EPOCHS,
        kl_coef=KL_COEF,
        response_length=ANSWER,
        temperature=1.0,
        total_episodes=(MEASURED + 1) * ANSWERS,
        num_sample_generations=0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=SEED,
        **settings,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left", eos_token="<end>")
    policy, reference = (LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32) for _ in range(2))
    reward, value = (
        LlamaForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32) for _ in range(2)
    )
    prompts = json.loads((folder / "prompts.json").read_text())
    rows = Dataset.from_list(
        [{"input_ids": row} for _ in range(MEASURED + 2) for row in prompts for _ in range(samples)]
    )
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        train_dataset=rows, value_model=value, eval_dataset=rows,
    )  # fmt: skip
    loader = DataLoader(rows, batch_size=ANSWERS, collate_fn=trainer.data_collator, drop_last=True)
    trainer.dataloader = trainer.accelerator.prepare(loader)
    return trainer


if __name__ == "__main__":
    main()
