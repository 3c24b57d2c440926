"""One epoch of reward-model training: this trainer against TRL's RewardTrainer on the same pairs and the same model.

    python benchmarks/rm_vs_trl.py [--model tiny|narrow|wide|all] [--pairs 32] [--repeats 2] [--threads 2]

Each run is a process of its own, from "libraries are imported" to "the trained model is on disk": loading, tokenizing,
training, saving. Both start from one sequence classifier, head included, with centring of rewards; order of pairs,
learning rate and optimizer are equal, and so must the losses be. Ours also measures one pair held out from it, as every
reward job does. TRL runs at its defaults (but for float32) and at tuned settings; the ratio is to the fastest of them.
The goal is a third of its CPU seconds. Runs are interleaved.
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

CENTERING, HOLDOUT = 0.01, 0.1
TUNED = {"gradient_checkpointing": False}
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl default": {},
    "trl tuned 8": TUNED,
    "trl tuned 2x4": TUNED | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "trl tuned 1x8": TUNED | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
}


def write_inputs(folder: Path, sizes: dict[str, int], num_pairs: int) -> str:
    """Write the classifier, the records of a round, and the pairs for TRL in the order in which we train on them."""
    import torch
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(SEED)
    model = LlamaForSequenceClassification(llama_config(sizes, num_labels=1))
    torch.nn.init.normal_(model.score.weight, std=(sizes["hidden_size"] + 1) ** -0.5)
    model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model", sizes["vocab_size"])
    kept, held = draw_pairs(sizes["vocab_size"], num_pairs)
    write_records(folder, [*kept, held])
    return f"{write_pairs_for_trl(folder, kept)}; beside them one pair held out"


def draw_pairs(vocabulary: int, count: int) -> tuple[list[list[str]], list[str]]:
    """So many random pairs that the trainer will train on, and one that it will hold out."""
    import numpy as np

    from selfalign.records import Message, Prompt
    from selfalign.training.job import is_held_out

    generator = np.random.default_rng(SEED)
    found: dict[bool, list[list[str]]] = {False: [], True: []}
    while len(found[False]) < count or not found[True]:
        pair = draw_pair(generator, vocabulary)
        prompt = Prompt.make((Message("user", pair[0]),))
        found[is_held_out(prompt.id, HOLDOUT, SEED)].append(pair)
    return found[False][:count], found[True][0]


def prepare_ours(folder: Path, max_tokens: int) -> Losses:
    import pyarrow.dataset  # noqa: F401  (as TRL's side, which has loaded it with `datasets`)
    from transformers import AutoTokenizer, LlamaForSequenceClassification  # noqa: F401  (now, not while measured)

    from selfalign.config import RewardModel

    model = RewardModel(holdout=HOLDOUT, centering=CENTERING)
    return prepare_training(folder, max_tokens, {"dtype": "float32"}, reward_model=model)


def prepare_trl(folder: Path, settings: dict[str, Any]) -> Losses:
    def row(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
        asked = {"role": "user", "content": prompt}
        answers = {"chosen": chosen, "rejected": rejected}
        return {name: [asked, {"role": "assistant", "content": text}] for name, text in answers.items()}

    return prepare_trainer(folder, "Reward", {"center_rewards_coefficient": CENTERING, **settings}, row)


if __name__ == "__main__":
    Comparison("rm", __file__, TRL_SETTINGS, write_inputs, prepare_ours, prepare_trl).main(__doc__)
