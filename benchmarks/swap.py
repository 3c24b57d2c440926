"""New weights into the running engine against a cold start, on a Llama of about 100 million random parameters.

    python benchmarks/swap.py [--repeats 3] [--work .benchmarks/swap]

A cold start is a new process, from its launch to its first answers; a swap is `engine.load` in the running engine. They
take turns between two sets of weights. The proof is what a campaign does after each swap: scoring probe answers and
comparing; here the swapped engine is compared with the cold one, whose log-probabilities must be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from selfalign.config import EngineSettings
from selfalign.engines import worker_environment
from selfalign.engines.base import Engine, ScoreRequest
from selfalign.records import Message

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = EngineSettings(backend="vllm", max_model_len=512)
PROBES = 8
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / ".benchmarks" / "swap")
    parser.add_argument("--cold", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cold:
        print(json.dumps(_proof(_open(args.cold))))
        return
    folders = [_make_model(args.work / name, seed) for seed, name in enumerate(("first", "second"))]
    engine = _open(folders[0])
    cold, swap, proof, apart = [], [], [], []
    for turn in range(args.repeats):
        folder = folders[(turn + 1) % 2]
        started = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, "--cold", folder], capture_output=True, text=True, check=True)
        expected = json.loads(done.stdout.splitlines()[-1])
        cold.append(time.perf_counter() - started)
        started = time.perf_counter()
        engine.load(folder)
        swap.append(time.perf_counter() - started)
        started = time.perf_counter()
        seen = _proof(engine)
        proof.append(time.perf_counter() - started)
        apart.append(max(abs(a - b) for a, b in zip(seen, expected, strict=True)))
    _report(cold, swap, proof, max(apart))


def _report(cold: list[float], swap: list[float], proof: list[float], apart: float) -> None:
    start, load, check = (statistics.median(values) for values in (cold, swap, proof))
    print(f"medians of {len(cold)} turns, {os.environ.get('OMP_NUM_THREADS')} threads")
    print(f"cold start {start:8.2f} s    {' '.join(f'{value:.2f}' for value in cold)}")
    print(f"swap       {load:8.2f} s    {' '.join(f'{value:.2f}' for value in swap)}")
    print(f"proof      {check:8.2f} s    {' '.join(f'{value:.2f}' for value in proof)}")
    print(f"swap / cold start {load / start:.2%}; with the proof {(load + check) / start:.2%}")
    print(f"largest difference of a log-probability, swapped engine to cold engine: {apart:.1e} nats")


def _open(folder: str) -> Engine:
    from selfalign.engines import open_engine

    return open_engine(folder, SETTINGS)


def _proof(engine: Engine) -> list[float]:
    """Log-probabilities of probe answers, as after each swap of a campaign."""
    asked = [
        ScoreRequest(str(i), (Message("user", f"Question number {i}: what is it?"),), tuple(range(300 + i, 332 + i)))
        for i in range(PROBES)
    ]
    scores = {score.id: score.logprobs for score in engine.score(asked)}
    return [value for i in range(PROBES) for value in scores[str(i)]]


def _make_model(folder: Path, seed: int) -> str:
    """A Llama of 12 layers and width 768 with a byte-level tokenizer and a vocabulary of 16,384."""
    if not (folder / "model.safetensors").exists():
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        special = ["<|end|>", "<|user|>", "<|assistant|>"]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        inner.train_from_iterator([], trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", chat_template=TEMPLATE)
        tokenizer.save_pretrained(folder)
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=16_384,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=2048,
            eos_token_id=0,
            bos_token_id=None,
            tie_word_embeddings=False,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    environment = worker_environment(SETTINGS)
    if environment:  # OpenMP reads its settings when the process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment})
    main()
