"""One DPO epoch, reference pass included: this trainer against TRL's DPOTrainer on the same pairs and the same model.

    python benchmarks/dpo_vs_trl.py [--model tiny|narrow|wide|all] [--pairs 32] [--repeats 2] [--threads 2]

Each run is a process of its own, from "libraries are imported" to "the trained model is on disk": loading, tokenizing,
reference log-probabilities, training, saving. TRL runs at its defaults (but for float32, without which it would be
about a hundred times slower on a CPU that has no bfloat16 units) and at several tuned settings; the ratio is to the
fastest of them. Runs are interleaved. Order of pairs, learning rate and optimizer are equal, and so must the losses be.

TRL lives in its own environment, .benchmarks/trl-venv, which the script makes (pip's settings, such as
PIP_FIND_LINKS, are honoured).
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".benchmarks"
TRL_VENV = WORK / "trl-venv"
TRL_VERSION, TORCH_VERSION = "1.16.0", "2.13.0"

BATCH_SIZE, BETA, LEARNING_RATE, SEED = 8, 0.1, 1e-4, 17
MEDIAN_PROMPT, MEDIAN_ANSWER, SPREAD, LONGEST = 110, 65, 0.7, 512  # tokens, log-normal: about as chat data are spread

MODELS = {
    "tiny": {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "vocab_size": 1_000},  # losses only
    "narrow": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "vocab_size": 49_152},
    "wide": {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "vocab_size": 32_000},
}
TUNED = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl default": {},
    "trl tuned 8": TUNED,
    "trl tuned 2x4": TUNED | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "trl tuned 1x8": TUNED | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
}
OURS = "selfalign"


@dataclass(frozen=True)
class Result:
    """One run. Seconds exclude imports; memory is the peak of the whole process."""

    variant: str
    wall_seconds: float
    cpu_seconds: float
    peak_gib: float
    losses: list[float]


# The orchestrating side --------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=1024, help="positions in a micro-batch of this trainer")
    parser.add_argument("--variants", help="comma-separated, of: " + ", ".join([OURS, *TRL_SETTINGS]))
    parser.add_argument("--child", nargs=2, metavar=("VARIANT", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(*args.child, args.max_tokens)
        return
    make_trl_environment()
    print(f"{platform.processor() or platform.machine()}, {cpu_name()}, {args.threads} threads, {args.pairs} pairs")
    variants = args.variants.split(",") if args.variants else [OURS, *TRL_SETTINGS]
    for name in MODELS if args.model == "all" else [args.model]:
        compare(name, variants, args)


def compare(name: str, variants: list[str], args: argparse.Namespace) -> None:
    folder = WORK / f"dpo-{name}"
    tokens = write_inputs(folder, MODELS[name], args.pairs)
    print(f"\n{name}: 8 layers, {MODELS[name]}\n{tokens}")
    results: dict[str, list[Result]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            results[variant].append(run_variant(variant, folder, args))
            print("  " + json.dumps(asdict(results[variant][-1])), flush=True)
    report(results)


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
    wall, cpu, peak = summary[OURS]
    best = min(others, key=lambda values: values[1])
    print(f"best TRL / selfalign: wall {best[0] / wall:.2f}x, CPU {best[1] / cpu:.2f}x, memory {best[2] / peak:.2f}x")
    leanest = min(other[2] for other in others)
    print(f"leanest TRL / selfalign: memory {leanest / peak:.2f}x")
    apart = max(
        abs(a - b) for runs in results.values() for a, b in zip(runs[0].losses, results[OURS][0].losses, strict=True)
    )
    print(f"largest difference of a step's loss between any two: {apart:.1e}")


def run_variant(variant: str, folder: Path, args: argparse.Namespace) -> Result:
    python = sys.executable if variant == OURS else str(TRL_VENV / "bin" / "python")
    shutil.rmtree(folder / "out", ignore_errors=True)
    limits = {"OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **limits, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [python, __file__, "--child", variant, str(folder), "--max-tokens", str(args.max_tokens)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{variant}: {done.stderr[-3000:]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def make_trl_environment() -> None:
    if (TRL_VENV / "bin" / "python").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", str(TRL_VENV)], check=True)
    install = [str(TRL_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, f"trl=={TRL_VERSION}", f"torch=={TORCH_VERSION}"], check=True)


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def write_inputs(folder: Path, sizes: dict[str, int], num_pairs: int) -> str:
    """Write the model, the records of a round, and the same pairs for TRL in the order in which we train on them."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(SEED)
    heads = {"num_key_value_heads": sizes["num_attention_heads"] // 3 or 1} if sizes["hidden_size"] == 576 else {}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(**sizes, **heads, **special, num_hidden_layers=8, max_position_embeddings=2048)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    write_tokenizer(folder / "model", sizes["vocab_size"])
    generator = np.random.default_rng(SEED)

    def words(median: int) -> list[str]:
        length = int(np.clip(np.exp(generator.normal(np.log(median), SPREAD)), 4, LONGEST))
        return [f"w{token}" for token in generator.integers(5, sizes["vocab_size"], size=length)]

    pairs = [
        [" ".join(words(median)) for median in (MEDIAN_PROMPT, MEDIAN_ANSWER, MEDIAN_ANSWER)] for _ in range(num_pairs)
    ]
    write_records(folder, pairs)
    from selfalign.training.batches import num_steps, step_indexes

    steps = range(num_steps(num_pairs, BATCH_SIZE, 1))
    order = [int(i) for step in steps for i in step_indexes(num_pairs, BATCH_SIZE, SEED, step)]
    (folder / "pairs.json").write_text(json.dumps([pairs[i] for i in order]))
    prompt, chosen, rejected = (sum(len(pair[part].split()) for pair in pairs) for part in range(3))
    return f"{prompt} prompt tokens, {chosen} chosen, {rejected} rejected"


def write_tokenizer(folder: Path, size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<end>", "<user>", "<assistant>", *(f"w{i}" for i in range(5, size))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "<end>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    fast.chat_template = (
        "<s>{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    fast.save_pretrained(folder)


def write_records(folder: Path, pairs: list[list[str]]) -> None:
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


# The measured side -------------------------------------------------------------------------------------------------


def run_child(variant: str, folder: str, max_tokens: int) -> None:
    run = (
        prepare_ours(Path(folder), max_tokens) if variant == OURS else prepare_trl(Path(folder), TRL_SETTINGS[variant])
    )
    wall, cpu = time.perf_counter(), time.process_time()
    losses = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print("\n" + json.dumps(asdict(Result(variant, wall, cpu, peak, losses))))


def prepare_ours(folder: Path, max_tokens: int) -> Any:
    from selfalign.config import Train
    from selfalign.training.job import TrainJob
    from selfalign.training.trainer import train

    settings = Train(
        learning_rate=LEARNING_RATE,
        beta=BETA,
        schedule="linear",
        warmup_ratio=0.0,
        batch_size=BATCH_SIZE,
        max_tokens_per_batch=max_tokens,
    )
    round_ = folder / "run" / "rounds" / "000"
    parts = {"prompts_dirs": "prompts", "candidates_dirs": "candidates", "examples_dirs": "pairs"}
    folders = {field: (str(round_ / name),) for field, name in parts.items()}
    places = {"policy_path": str(folder / "model"), "output_dir": str(folder / "out")}
    job = TrainJob(train=settings, seed=SEED, **folders, **places)

    def run() -> list[float]:
        train(job)
        return [json.loads(line)["loss"] for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]

    return run


def prepare_trl(folder: Path, settings: dict[str, Any]) -> Any:
    from datasets import Dataset, disable_caching
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401  (imported now, not while measured)
    from trl import DPOConfig, DPOTrainer

    disable_caching()
    config = DPOConfig(
        output_dir=str(folder / "out"),
        learning_rate=LEARNING_RATE,
        beta=BETA,
        warmup_steps=0,
        bf16=False,
        use_cpu=True,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        model_init_kwargs={"dtype": "float32"},
        **{"per_device_train_batch_size": BATCH_SIZE, "num_train_epochs": 1, **settings},
    )

    def turns(text: str, role: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def run() -> list[float]:
        rows = [
            {"prompt": turns(p, "user"), "chosen": turns(c, "assistant"), "rejected": turns(r, "assistant")}
            for p, c, r in json.loads((folder / "pairs.json").read_text())
        ]
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        trainer = DPOTrainer(
            model=str(folder / "model"), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        trainer.train()
        trainer.save_model(str(folder / "out"))
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return run


if __name__ == "__main__":
    main()
