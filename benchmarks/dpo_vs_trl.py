"""One DPO epoch, reference pass included: this trainer against TRL's DPOTrainer on the same pairs and the same model.

    python benchmarks/dpo_vs_trl.py [--model tiny|narrow|wide|all] [--pairs 32] [--repeats 2] [--threads 2]

Each run is a process of its own, from "libraries are imported" to "the trained model is on disk": loading, tokenizing,
reference log-probabilities, training, saving. TRL runs at its defaults (but for float32, without which it would be
about a hundred times slower on a CPU that has no bfloat16 units) and at several tuned settings; the ratio is to the
fastest of them. Runs are interleaved. Order of pairs, learning rate and optimizer are equal, and so must the losses be.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl_harness import (
    SEED,
    Comparison,
    Losses,
    draw_pair,
    llama_config,
    prepare_trainer,
    prepare_training,
    write_pairs_for_trl,
    write_records,
    write_tokenizer,
)

BETA = 0.1
TUNED = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl default": {},
    "trl tuned 8": TUNED,
    "trl tuned 2x4": TUNED | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "trl tuned 1x8": TUNED | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
}


def write_inputs(folder: Path, sizes: dict[str, int], num_pairs: int) -> str:
    """Write the model, the records of a round, and the same pairs for TRL in the order in which we train on them."""
    import numpy as np
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(SEED)
    LlamaForCausalLM(llama_config(sizes)).save_pretrained(folder / "model")
    write_tokenizer(folder / "model", sizes["vocab_size"])
    generator = np.random.default_rng(SEED)
    pairs = [draw_pair(generator, sizes["vocab_size"]) for _ in range(num_pairs)]
    write_records(folder, pairs)
    return write_pairs_for_trl(folder, pairs)


def prepare_ours(folder: Path, max_tokens: int) -> Losses:
    return prepare_training(folder, max_tokens, {"beta": BETA})


def prepare_trl(folder: Path, settings: dict[str, Any]) -> Losses:
    def row(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
        turns = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
        return {name: [{"role": role, "content": text}] for name, (role, text) in turns.items()}

    return prepare_trainer(folder, "DPO", {"beta": BETA, **settings}, row)


if __name__ == "__main__":
    Comparison("dpo", __file__, TRL_SETTINGS, write_inputs, prepare_ours, prepare_trl).main(__doc__)
