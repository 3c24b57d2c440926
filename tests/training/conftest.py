"""Tiny random models, a word-level tokenizer, and the records of a round, as the trainer reads them."""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from selfalign.config import Train
from selfalign.records import Candidate, Message, Pair, Prompt, Ranking
from selfalign.store import Run
from selfalign.training.job import Probe, TrainJob

VOCABULARY = 64
END = 2
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END}


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of the named architecture, its weights spread widely so that its answers depend on its input."""
    torch.manual_seed(seed)
    common = {**SIZES, **HEADS, **SPECIAL, "initializer_range": 0.2}
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**common)).eval()
    if name == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**common)).eval()
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(**common, sliding_window=5)).eval()
    if name == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        config = Gemma3TextConfig(**common, sliding_window=5, layer_types=kinds, final_logit_softcapping=3.0)
        return Gemma3ForCausalLM(config).eval()
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**sizes, **SPECIAL, initializer_range=0.2)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "<end>", "<user>", "<assistant>", *(f"w{i}" for i in range(VOCABULARY - 5))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<end>")
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    fast.chat_template = (
        "<s> {% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    return fast


def save_tiny(folder: Path, name: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    model = tiny_model(name, seed).to(dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def random_words(generator: np.random.Generator, low: int, high: int) -> list[int]:
    return generator.integers(5, VOCABULARY, size=int(generator.integers(low, high))).tolist()


def write_round(
    run_path: Path, num_prompts: int, seed: int = 0, *, algorithm: str = "dpo", samples: int = 2
) -> dict[str, tuple[str, ...]]:
    """Write prompts, candidates and what an algorithm trains on; return their folders."""
    generator = np.random.default_rng(seed)
    prompts, candidates, examples = [], [], []
    for number in range(num_prompts):
        text = " ".join(f"w{token}" for token in generator.integers(0, 50, size=int(generator.integers(2, 12))))
        prompt = Prompt.make((Message("user", f"w{number % 59} {text}"),))
        answers = []
        for sample in range(samples):
            tokens = (*random_words(generator, 1, 14), END)
            identity = Candidate.make_id(prompt.id, "policy", sample, seed)
            answers.append(Candidate(identity, prompt.id, "policy", sample, seed, "text", tokens, "stop"))
        prompts.append(prompt)
        candidates += answers
        examples.append(example_of(algorithm, prompt, answers, float(generator.uniform(0.6, 1.0))))
    steps = {"dpo": "pairs", "sft": "demonstrations", "raft": "demonstrations"}
    name = steps.get(algorithm, "rankings")
    run = Run.create(run_path, "name: test\n")
    folders = {}
    with run.lock():
        for step_name, rows in (("prompts", prompts), ("candidates", candidates), (name, examples)):
            step = run.step(f"rounds/000/{step_name}", inputs={})
            step.write(0, rows)
            step.finish({})
            folders[f"{'examples' if rows is examples else step_name}_dirs"] = (str(step.path),)
    return folders


def example_of(algorithm: str, prompt: Prompt, answers: list[Candidate], p: float) -> Pair | Ranking | Candidate:
    """The earlier an answer was sampled, the better it is."""
    ids = tuple(answer.id for answer in answers)
    if algorithm == "dpo":
        return Pair(prompt.id, *ids, p_chosen=p, margin=0.5)
    if algorithm in ("sft", "raft"):
        return answers[0]
    rates = tuple(np.linspace(0.8, 0.2, len(ids)).tolist())
    desirable = tuple(rate > 0.5 for rate in rates) if algorithm in ("kto", "bco") else ()
    return Ranking(prompt.id, ids, scores=rates, win_rates=rates, desirable=desirable)


def make_job(
    tmp_path: Path, *, num_pairs: int = 12, samples: int = 2, model: Path | None = None, **changes: object
) -> TrainJob:
    """A small job on fresh records; `train_` arguments go to its training settings."""
    settings = {"learning_rate": 1e-2, "batch_size": 4, "max_tokens_per_batch": 96, "dtype": "float32"}
    settings |= {name.removeprefix("train_"): value for name, value in changes.items() if name.startswith("train_")}
    others = {name: value for name, value in changes.items() if not name.startswith("train_")}
    algorithm = settings.get("algorithm", "dpo")
    folders = write_round(tmp_path / "run", num_pairs, algorithm=algorithm, samples=samples)
    policy = model or save_tiny(tmp_path / "policy")
    probes = (Probe((Message("user", "w1 w2 w3"),), (7, 8, END)),)
    output = {"output_dir": str(tmp_path / "out"), "policy_path": str(policy)}
    return TrainJob(train=Train(**settings), probes=probes, **{**folders, **output, **others})


def metrics_of(job: TrainJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(job.output_dir) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
