"""What the benchmarks against TRL share: its environments, random models and texts, measured processes, and ratios.

TRL lives in environments of its own, .benchmarks/trl-venv and the like, which are made where they are missing (pip's
settings, such as PIP_FIND_LINKS, are honoured).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".benchmarks"
TRL_VERSION, TORCH_VERSION = "1.16.0", "2.13.0"

BATCH_SIZE, LEARNING_RATE, SEED = 8, 1e-4, 17
MEDIAN_PROMPT, MEDIAN_ANSWER, SPREAD, LONGEST = 110, 65, 0.7, 512  # tokens, log-normal: about as chat data are spread
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "tiny": {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "vocab_size": 1_000},  # losses only
    "narrow": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "vocab_size": 49_152},
    "wide": {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "vocab_size": 32_000},
}
OURS = "selfalign"

Losses = Callable[[], list[float]]  # does a side's work and returns the loss of every step


# Environments and processes -------------------------------------------------------------------------------------------


def trl_python(version: str = TRL_VERSION) -> str:
    """The interpreter of an environment with this TRL, which is made where it is missing."""
    folder = WORK / ("trl-venv" if version == TRL_VERSION else f"trl-{version}-venv")
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, f"trl=={version}", f"torch=={TORCH_VERSION}"], check=True)
    return str(python)


def ask_child(python: str, script: str, arguments: Sequence[str], threads: int) -> Any:
    """Run a script as a process of its own; what it prints last is JSON. Exits with its last words if it fails."""
    limits = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **limits, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, script, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine(threads: int) -> str:
    return f"{platform.processor() or platform.machine()}, {cpu_name()}, {threads} threads"


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def ratios(ours: Sequence[float], others: Sequence[Sequence[float]]) -> str:
    """How many times less ours takes than the TRL with the fewest CPU seconds; each is wall, CPU and peak memory."""
    wall, cpu, peak = ours
    best = min(others, key=lambda values: values[1])
    return f"wall {best[0] / wall:.2f}x, CPU {best[1] / cpu:.2f}x, memory {best[2] / peak:.2f}x"


# Models, tokenizers, texts and records --------------------------------------------------------------------------------


def llama_config(sizes: dict[str, int], num_layers: int = 8, **fields: Any) -> Any:
    from transformers import LlamaConfig

    heads = {"num_key_value_heads": sizes["num_attention_heads"] // 3 or 1} if sizes["hidden_size"] == 576 else {}
    whole = {**sizes, **heads, **SPECIAL, "num_hidden_layers": num_layers, "max_position_embeddings": 2048}
    return LlamaConfig(**whole | fields)


def write_tokenizer(folder: Path, size: int, *, ends: bool = True) -> None:
    """A tokenizer of the words w5, w6, ...; without an end of its own, engines sample to the length that is asked."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<end>", "<user>", "<assistant>", *(f"w{i}" for i in range(5, size))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", **({"eos_token": "<end>"} if ends else {})}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    others = ["<user>", "<assistant>", *([] if ends else ["<end>"])]
    fast.add_special_tokens({"additional_special_tokens": others})
    fast.chat_template = (
        "<s>{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    fast.save_pretrained(folder)


def draw_words(generator: Any, vocabulary: int, median: int, spread: float = SPREAD, longest: int = LONGEST) -> str:
    """A text of random words, its length log-normal."""
    import numpy as np

    length = int(np.clip(np.exp(generator.normal(np.log(median), spread)), 4, longest))
    return " ".join(f"w{token}" for token in generator.integers(5, vocabulary, size=length))


def draw_pair(generator: Any, vocabulary: int) -> list[str]:
    """A prompt, a chosen and a rejected answer."""
    return [draw_words(generator, vocabulary, median) for median in (MEDIAN_PROMPT, MEDIAN_ANSWER, MEDIAN_ANSWER)]


def write_records(folder: Path, pairs: Sequence[Sequence[str]]) -> None:
    """The pairs as a round of a campaign holds them."""
    from selfalign.records import Candidate, Message, Pair, Prompt
    from selfalign.store import Run

    prompts, candidates, preferences = [], [], []
    for number, (text, *answers) in enumerate(pairs):
        prompt = Prompt.make((Message("user", text),))
        prompts.append(prompt)
        ids = [f"{number:06d}-{sample}" for sample in range(2)]
        for sample, (identity, answer) in enumerate(zip(ids, answers, strict=True)):
            tokens = (*(int(word[1:]) for word in answer.split()), 2)
            candidates.append(Candidate(identity, prompt.id, "base", sample, 0, answer, tokens, "stop"))
        preferences.append(Pair(prompt.id, *ids, p_chosen=1.0, margin=1.0))
    run = Run.create(folder / "run", "name: benchmark\n")
    with run.lock():
        for name, rows in (("prompts", prompts), ("candidates", candidates), ("pairs", preferences)):
            step = run.step(f"rounds/000/{name}", inputs={})
            step.write(0, rows)
            step.finish({})


def write_pairs_for_trl(folder: Path, pairs: Sequence[Sequence[str]]) -> str:
    """Write the pairs in the order in which we train on them; say how many tokens they have."""
    from selfalign.training.batches import num_steps, step_indexes

    steps = range(num_steps(len(pairs), BATCH_SIZE, 1))
    order = [int(i) for step in steps for i in step_indexes(len(pairs), BATCH_SIZE, SEED, step)]
    (folder / "pairs.json").write_text(json.dumps([pairs[i] for i in order]))
    prompt, chosen, rejected = (sum(len(pair[part].split()) for pair in pairs) for part in range(3))
    return f"{prompt} prompt tokens, {chosen} chosen, {rejected} rejected"


# One epoch on pairs, both sides ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """One run. Seconds exclude imports; memory is the peak of the whole process."""

    variant: str
    wall_seconds: float
    cpu_seconds: float
    peak_gib: float
    losses: list[float]


@dataclass(frozen=True)
class Comparison:
    """An epoch on pairs: how inputs are written, and what each side is to run once its libraries are imported."""

    name: str
    script: str
    trl_settings: dict[str, dict[str, Any]]
    write_inputs: Callable[[Path, dict[str, int], int], str]  # says what it wrote
    prepare_ours: Callable[[Path, int], Losses]
    prepare_trl: Callable[[Path, dict[str, Any]], Losses]

    def main(self, description: str) -> None:
        parser = argparse.ArgumentParser(description=description.splitlines()[0])
        parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
        parser.add_argument("--pairs", type=int, default=32)
        parser.add_argument("--repeats", type=int, default=2)
        parser.add_argument("--threads", type=int, default=2)
        parser.add_argument("--max-tokens", type=int, default=1024, help="positions in a micro-batch of this trainer")
        parser.add_argument("--variants", help="comma-separated, of: " + ", ".join([OURS, *self.trl_settings]))
        parser.add_argument("--child", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
        args = parser.parse_args()
        if args.child:
            self.run_child(args.child[0], Path(args.child[1]), args.max_tokens)
            return
        trl_python()
        print(f"{machine(args.threads)}, {args.pairs} pairs")
        for name in MODELS if args.model == "all" else [args.model]:
            self.compare(name, args)

    def compare(self, name: str, args: argparse.Namespace) -> None:
        folder = WORK / f"{self.name}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        print(f"\n{name}: 8 layers, {MODELS[name]}\n{self.write_inputs(folder, MODELS[name], args.pairs)}")
        variants = args.variants.split(",") if args.variants else [OURS, *self.trl_settings]
        results: dict[str, list[Result]] = {variant: [] for variant in variants}
        for _ in range(args.repeats):
            for variant in variants:
                results[variant].append(self.ask(variant, folder, args))
                print("  " + json.dumps(asdict(results[variant][-1])), flush=True)
        report(results)

    def ask(self, variant: str, folder: Path, args: argparse.Namespace) -> Result:
        shutil.rmtree(folder / "out", ignore_errors=True)
        python = sys.executable if variant == OURS else trl_python()
        arguments = ["--child", variant, str(folder), "--max-tokens", str(args.max_tokens)]
        return Result(**ask_child(python, self.script, arguments, args.threads))

    def run_child(self, variant: str, folder: Path, max_tokens: int) -> None:
        ours = variant == OURS
        run = self.prepare_ours(folder, max_tokens) if ours else self.prepare_trl(folder, self.trl_settings[variant])
        wall, cpu = time.perf_counter(), time.process_time()
        losses = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print("\n" + json.dumps(asdict(Result(variant, wall, cpu, peak, losses))))


def report(results: dict[str, list[Result]]) -> None:
    """Medians by variant, the ratios to the best TRL setting, and the losses side by side."""
    summary = {
        variant: [statistics.median(getattr(run, key) for run in runs) for key in ("wall_seconds", "cpu_seconds")]
        + [max(run.peak_gib for run in runs)]
        for variant, runs in results.items()
    }
    print(f"\n{'variant':26}{'wall s':>9}{'CPU s':>9}{'peak GiB':>10}   losses")
    for variant, (wall, cpu, peak) in summary.items():
        losses = " ".join(f"{loss:.5f}" for loss in results[variant][0].losses)
        print(f"{variant:26}{wall:9.1f}{cpu:9.1f}{peak:10.2f}   {losses}")
    others = [values for variant, values in summary.items() if variant != OURS]
    if OURS not in summary or not others:
        return
    print(f"best TRL / selfalign: {ratios(summary[OURS], others)}")
    leanest = min(other[2] for other in others)
    print(f"leanest TRL / selfalign: memory {leanest / summary[OURS][2]:.2f}x")
    apart = max(
        abs(a - b) for runs in results.values() for a, b in zip(runs[0].losses, results[OURS][0].losses, strict=True)
    )
    print(f"largest difference of a step's loss between any two: {apart:.1e}")


def prepare_training(folder: Path, max_tokens: int, settings: dict[str, Any], **job_fields: Any) -> Losses:
    """Our trainer on the round that `write_records` wrote."""
    from selfalign.config import Train
    from selfalign.training.job import TrainJob
    from selfalign.training.trainer import train

    steps = {"learning_rate": LEARNING_RATE, "schedule": "linear", "warmup_ratio": 0.0, "batch_size": BATCH_SIZE}
    round_ = folder / "run" / "rounds" / "000"
    parts = {"prompts_dirs": "prompts", "candidates_dirs": "candidates", "examples_dirs": "pairs"}
    job = TrainJob(
        policy_path=str(folder / "model"),
        output_dir=str(folder / "out"),
        train=Train(**steps, max_tokens_per_batch=max_tokens, **settings),
        seed=SEED,
        **{field: (str(round_ / name),) for field, name in parts.items()},
        **job_fields,
    )

    def run() -> list[float]:
        train(job)
        return [json.loads(line)["loss"] for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]

    return run


def prepare_trainer(
    folder: Path, kind: str, settings: dict[str, Any], row_of: Callable[[str, str, str], dict[str, Any]]
) -> Losses:
    """TRL's trainer of a kind ("DPO", "Reward") on the pairs that `write_pairs_for_trl` wrote, each made a row."""
    import trl
    from datasets import Dataset, disable_caching
    from transformers import AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401  (now, not measured)

    disable_caching()
    common = {
        "output_dir": str(folder / "out"), "learning_rate": LEARNING_RATE, "warmup_steps": 0, "bf16": False,
        "use_cpu": True, "max_length": None, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "train_sampling_strategy": "sequential", "model_init_kwargs": {"dtype": "float32"},
        "per_device_train_batch_size": BATCH_SIZE, "num_train_epochs": 1,
    }  # fmt: skip
    config, trainer_type = getattr(trl, f"{kind}Config")(**common | settings), getattr(trl, f"{kind}Trainer")

    def run() -> list[float]:
        pairs = json.loads((folder / "pairs.json").read_text())
        trainer = trainer_type(
            model=str(folder / "model"),
            args=config,
            train_dataset=Dataset.from_list([row_of(*pair) for pair in pairs]),
            processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        )
        trainer.train()
        trainer.save_model(str(folder / "out"))
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return run
