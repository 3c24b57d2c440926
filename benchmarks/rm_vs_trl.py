"""One epoch of reward-model training: this trainer against TRL's RewardTrainer on the same pairs and the same model.

    python benchmarks/rm_vs_trl.py [--model tiny|narrow|wide|all] [--pairs 32] [--repeats 2] [--threads 2]

Each run is a process of its own, from "libraries are imported" to "the trained model is on disk": loading, tokenizing,
training, saving. Both start from one sequence classifier, head included, with centring of rewards; order of pairs,
learning rate and optimizer are equal, and so must the losses be. Ours also measures one pair held out from it, as every
reward job does. TRL runs at its defaults (but for float32) and at tuned settings; the ratio is to the fastest of them.
The goal is a third of its CPU seconds. Runs are interleaved.

TRL lives in the environment of dpo_vs_trl.py, which is made where it is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpo_vs_trl import (
    BATCH_SIZE,
    LEARNING_RATE,
    LONGEST,
    MEDIAN_ANSWER,
    MEDIAN_PROMPT,
    MODELS,
    OURS,
    ROOT,
    SEED,
    SPREAD,
    TRL_VENV,
    WORK,
    Result,
    cpu_name,
    make_trl_environment,
    report,
    write_records,
    write_tokenizer,
)

CENTERING, HOLDOUT = 0.01, 0.1
TUNED = {"gradient_checkpointing": False}
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl default": {},
    "trl tuned 8": TUNED,
    "trl tuned 2x4": TUNED | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "trl tuned 1x8": TUNED | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
}


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
    folder = WORK / f"rm-{name}"
    tokens = write_inputs(folder, MODELS[name], args.pairs)
    print(f"\n{name}: 8 layers, {MODELS[name]}\n{tokens}")
    results: dict[str, list[Result]] = {variant: [] for variant in variants}
    for _ in range(args.repeats):
        for variant in variants:
            results[variant].append(run_variant(variant, folder, args))
            print("  " + json.dumps(asdict(results[variant][-1])), flush=True)
    report(results)


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


def write_inputs(folder: Path, sizes: dict[str, int], num_pairs: int) -> str:
    """Write the classifier, the records of a round, and the pairs for TRL in the order in which we train on them."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(SEED)
    heads = {"num_key_value_heads": sizes["num_attention_heads"] // 3 or 1} if sizes["hidden_size"] == 576 else {}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(
        **sizes, **heads, **special, num_hidden_layers=8, max_position_embeddings=2048, num_labels=1
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight, std=(sizes["hidden_size"] + 1) ** -0.5)
    model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model", sizes["vocab_size"])
    kept, held = draw_pairs(sizes["vocab_size"], num_pairs)
    write_records(folder, [*kept, held])
    from selfalign.training.batches import num_steps, step_indexes

    steps = range(num_steps(num_pairs, BATCH_SIZE, 1))
    order = [int(i) for step in steps for i in step_indexes(num_pairs, BATCH_SIZE, SEED, step)]
    (folder / "pairs.json").write_text(json.dumps([kept[i] for i in order]))
    prompt, chosen, rejected = (sum(len(pair[part].split()) for pair in kept) for part in range(3))
    return f"{prompt} prompt tokens, {chosen} chosen, {rejected} rejected; beside them one pair held out"


def draw_pairs(vocabulary: int, count: int) -> tuple[list[list[str]], list[str]]:
    """So many random pairs that the trainer will train on, and one that it will hold out."""
    import numpy as np

    from selfalign.records import Message, Prompt
    from selfalign.training.job import is_held_out

    generator = np.random.default_rng(SEED)

    def words(median: int) -> str:
        length = int(np.clip(np.exp(generator.normal(np.log(median), SPREAD)), 4, LONGEST))
        return " ".join(f"w{token}" for token in generator.integers(5, vocabulary, size=length))

    found: dict[bool, list[list[str]]] = {False: [], True: []}
    while len(found[False]) < count or not found[True]:
        pair = [words(median) for median in (MEDIAN_PROMPT, MEDIAN_ANSWER, MEDIAN_ANSWER)]
        prompt = Prompt.make((Message("user", pair[0]),))
        found[is_held_out(prompt.id, HOLDOUT, SEED)].append(pair)
    return found[False][:count], found[True][0]


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
    import pyarrow.dataset  # noqa: F401  (as TRL's side, which has loaded it with `datasets`)
    from transformers import AutoTokenizer, LlamaForSequenceClassification  # noqa: F401  (now, not while measured)

    from selfalign.config import RewardModel, Train
    from selfalign.training.job import TrainJob
    from selfalign.training.trainer import train

    settings = Train(
        learning_rate=LEARNING_RATE,
        schedule="linear",
        warmup_ratio=0.0,
        batch_size=BATCH_SIZE,
        max_tokens_per_batch=max_tokens,
        dtype="float32",
    )
    round_ = folder / "run" / "rounds" / "000"
    parts = {"prompts_dirs": "prompts", "candidates_dirs": "candidates", "examples_dirs": "pairs"}
    folders = {field: (str(round_ / name),) for field, name in parts.items()}
    places = {"policy_path": str(folder / "model"), "output_dir": str(folder / "out")}
    model = RewardModel(holdout=HOLDOUT, centering=CENTERING)
    job = TrainJob(train=settings, reward_model=model, seed=SEED, **folders, **places)

    def run() -> list[float]:
        train(job)
        return [json.loads(line)["loss"] for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]

    return run


def prepare_trl(folder: Path, settings: dict[str, Any]) -> Any:
    from datasets import Dataset, disable_caching
    from transformers import AutoTokenizer, LlamaForSequenceClassification  # noqa: F401  (now, not while measured)
    from trl import RewardConfig, RewardTrainer

    disable_caching()
    config = RewardConfig(
        output_dir=str(folder / "out"),
        learning_rate=LEARNING_RATE,
        center_rewards_coefficient=CENTERING,
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

    def turns(prompt: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    def run() -> list[float]:
        pairs = json.loads((folder / "pairs.json").read_text())
        rows = [{"chosen": turns(p, c), "rejected": turns(p, r)} for p, c, r in pairs]
        trainer = RewardTrainer(
            model=str(folder / "model"),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        )
        trainer.train()
        trainer.save_model(str(folder / "out"))
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return run


if __name__ == "__main__":
    main()
