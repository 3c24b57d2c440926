"""PPO with adapters: one base in memory for policy, critic, reference and rewards, against models of their own.

    python benchmarks/ppo_memory.py [--model tiny|small|all] [--members 1,4] [--repeats 2] [--threads 1]

Each run is a process of its own: the models are loaded, the same rollouts are read and trained on in every iteration.
Nothing is sampled. "apart" is what the same job does where the reward model does not say on which base it was trained:
merged reward models, and a critic of which all weights are trained. Weights and optimizer state are counted once each;
the resident peak is over what the libraries alone take, with one group in a micro-batch, so that weights matter. Runs
are interleaved; of several the least is told.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dpo_vs_trl import ROOT, SEED, WORK, cpu_name, write_tokenizer

SIZES = {
    "tiny": {"hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 3, "vocab_size": 1_000},
    "small": {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "vocab_size": 4_000},
}
PROMPTS, SAMPLES, PROMPT_TOKENS, ANSWER_TOKENS = 8, 4, 32, 32
ITERATIONS, EPOCHS, RANK = 2, 1, 16
MEMBERS = "member-{}"


@dataclass(frozen=True)
class Result:
    variant: str
    members: int
    weights_mib: float
    optimizer_mib: float
    peak_mib: float
    seconds: float  # an iteration: the sweep over the rollouts, and its optimizer steps
    measuring: float  # of these, the sweep
    loss: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--members", default="1,4", help="reward models, comma-separated counts")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", nargs=3, metavar=("VARIANT", "MEMBERS", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        variant, members, folder = args.child
        run_child(variant, int(members), Path(folder))
        return
    print(f"{cpu_name()}, {args.threads} threads, float32, adapters of rank {RANK}")
    for name in SIZES if args.model == "all" else [args.model]:
        for members in map(int, args.members.split(",")):
            compare(name, members, args)


def compare(name: str, members: int, args: argparse.Namespace) -> None:
    folder = WORK / f"ppo-memory-{name}"
    parameters = write_inputs(folder, SIZES[name], members)
    print(f"\n{name}: {parameters / 1e6:.1f} M parameters, {members} reward model(s)", flush=True)
    runs = [
        run_variant(variant, members, folder, args) for _ in range(args.repeats) for variant in ("one base", "apart")
    ]
    for variant in ("one base", "apart"):
        own = [run for run in runs if run.variant == variant]
        least = {key: min(getattr(run, key) for run in own) for key in ("peak_mib", "seconds", "measuring")}
        print("  " + json.dumps(asdict(own[0]) | {key: round(value, 3) for key, value in least.items()}), flush=True)


def run_variant(variant: str, members: int, folder: Path, args: argparse.Namespace) -> Result:
    limits = {"OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**os.environ, **limits, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--child", variant, str(members), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{variant}: {done.stderr[-3000:]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def write_inputs(folder: Path, sizes: dict[str, int], members: int) -> int:
    """Write the policy, its reward models as adapters, and the rollouts; how many parameters the policy has."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(SEED)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = LlamaConfig(**sizes, **special, num_hidden_layers=8, max_position_embeddings=2048)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "policy")
    write_tokenizer(folder / "policy", sizes["vocab_size"])
    for number in range(members):
        write_reward_model(folder, number)
    write_rollouts(folder, sizes["vocab_size"])
    return sum(parameter.numel() for parameter in model.parameters())


def write_reward_model(folder: Path, number: int) -> None:
    """As the trainer leaves one: merged, its adapter beside it, and what identifies its base."""
    import torch

    from selfalign.config import Adapter
    from selfalign.training.job import HELDOUT_FILE
    from selfalign.training.model import add_adapter, load_reward_model, merge_lora, save_adapter
    from selfalign.training.saving import ADAPTER_FOLDER, BASE_FILE, weights_digest

    torch.manual_seed(SEED + number)
    target = folder / "reward" / MEMBERS.format(number)
    model = add_adapter(load_reward_model(str(folder / "policy"), torch.float32, 0), Adapter(rank=RANK))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    state = model.state_dict()
    model.get_base_model().save_pretrained(target, state_dict=merge_lora(state, model, torch.float32))
    save_adapter(target / ADAPTER_FOLDER, model, state)
    base = {"weights": weights_digest(str(folder / "policy"))}
    (target / ADAPTER_FOLDER / BASE_FILE).write_text(json.dumps(base))
    lists = ("prompt_ids", "p_chosen", "lengths", "trained_p_chosen", "trained_lengths")
    (target / HELDOUT_FILE).write_text(json.dumps({name: [] for name in lists} | {"chosen": [1.0], "rejected": [0.0]}))


def write_rollouts(folder: Path, vocabulary: int) -> None:
    import numpy as np

    from selfalign.records import Candidate, Message, Prompt
    from selfalign.store import Run

    generator = np.random.default_rng(SEED)
    prompts, candidates = [], []
    for _ in range(PROMPTS):
        words = " ".join(f"w{token}" for token in generator.integers(5, vocabulary, size=PROMPT_TOKENS))
        prompts.append(Prompt.make((Message("user", words),)))
        for sample in range(SAMPLES):
            tokens = (*generator.integers(5, vocabulary, size=ANSWER_TOKENS - 1).tolist(), 2)
            name = f"{len(prompts)}-{sample}"
            candidates.append(Candidate(name, prompts[-1].id, "p", sample, 0, "text", tokens, "stop", -1.0))
    run = Run.create(folder / "run", "name: rollouts\n")
    with run.lock():
        for name, rows in (("prompts", prompts), ("candidates", candidates)):
            step = run.step(f"rounds/000/{name}", inputs={})
            step.write(0, rows)
            step.finish({})


# The measured side -------------------------------------------------------------------------------------------------


def run_child(variant: str, members: int, folder: Path) -> None:
    import peft  # noqa: F401  so that it counts among the libraries
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification  # noqa: F401

    from selfalign.training.ppo import PpoTask
    from selfalign.training.ppo_models import Models, load_models
    from selfalign.training.setup import prepare
    from selfalign.training.trainer import run_steps

    job = make_job(variant, members, folder)
    Path(job.output_dir).mkdir()
    libraries = resident("VmRSS")
    setup = prepare(job)
    models = load_models(setup)
    steps = folder / "run" / "rounds" / "000"
    measuring = timed(Models, "measure")
    task = PpoTask(setup, models, lambda iteration, scores: ([str(steps / "prompts")], [str(steps / "candidates")]))
    start = time.perf_counter()
    run_steps(setup, models.trained, task, lambda: False)
    seconds = (time.perf_counter() - start) / ITERATIONS
    last = json.loads((Path(job.output_dir) / "metrics.jsonl").read_text().splitlines()[-1])
    found = Result(
        variant, members, size(weights_of(models)), 2 * size(p for p in weights_of(models) if p.requires_grad),
        resident("VmHWM") - libraries, seconds, sum(measuring) / ITERATIONS, last["loss"],
    )  # fmt: skip
    print(json.dumps(asdict(found)))


def make_job(variant: str, members: int, folder: Path) -> Any:
    from selfalign.config import Adapter, Ppo, RewardModel, Train
    from selfalign.records import Message
    from selfalign.training.job import Probe, TrainJob
    from selfalign.training.saving import BASE_FILE

    reward, output = folder / f"reward-{variant}", folder / f"out-{variant}"
    for leftover in (reward, output):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(folder / "reward", reward)
    if variant == "apart":
        for file in reward.rglob(BASE_FILE):
            file.unlink()
    train = Train(
        algorithm="ppo",
        learning_rate=1e-5,
        dtype="float32",
        schedule="constant",
        max_length=256,
        max_tokens_per_batch=256,
    )
    return TrainJob(
        policy_path=str(folder / "policy"), prompts_dirs=(), candidates_dirs=(), examples_dirs=(), train=train,
        output_dir=str(output), reward_path=str(reward if members > 1 else reward / MEMBERS.format(0)),
        reward_model=RewardModel(ensemble=members, combine="min" if members > 1 else "mean"),
        ppo=Ppo(iterations=ITERATIONS, prompts=PROMPTS, samples=SAMPLES, epochs=EPOCHS, missing_eos="keep"),
        adapter=Adapter(rank=RANK), probes=(Probe((Message("user", "w7 w8 w9"),), (10, 11, 2)),), seed=SEED,
    )  # fmt: skip


def timed(owner: type, name: str) -> list[float]:
    """Seconds of every call of a method, as they come."""
    plain, seconds = getattr(owner, name), []

    def wrapper(*args: Any) -> Any:
        start = time.perf_counter()
        found = plain(*args)
        seconds.append(time.perf_counter() - start)
        return found

    setattr(owner, name, wrapper)
    return seconds


def weights_of(models: Any) -> list[Any]:
    held = [*models.trained.parameters(), *(p for model in models.frozen for p in model.parameters())]
    return list({id(parameter): parameter for parameter in held}.values())


def size(parameters: Any) -> float:
    return round(sum(p.numel() * p.element_size() for p in parameters) / 2**20, 1)


def resident(field: str) -> float:
    """VmRSS now or its peak, VmHWM, in MiB. `ru_maxrss` would start at what the parent process had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 2**10


if __name__ == "__main__":
    main()
