"""Make the pocket world's files: prompts, tokenizer, policy, judge and their cards, all from one seed.

    python -m selfalign.pocket.build [--steps prompts tokenizer policy judge cards] [--processes 3]

Nothing is downloaded. On four CPU cores the whole takes under an hour; the time goes to training the judge.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

from selfalign.pocket import JUDGE, POLICY, world
from selfalign.pocket.checkers import AXES
from selfalign.pocket.judge_data import draw_question, draw_responses, pairwise_case, pointwise_case
from selfalign.pocket.wordings import Diet, draw

STEPS = ("prompts", "tokenizer", "policy", "judge", "cards")
VOCAB_SIZE = 2048
REPOSITORY = Path(__file__).resolve().parents[2]
PROMPTS_PER_KIND = {"train": 500, "heldout": 100, "redteam": 30}


def write_prompts(seed: int) -> None:
    """Write prompts/{train,heldout,redteam}/pocket.jsonl: a fixed draw from each split of the world.

    Training prompts carry a gold response, for the algorithms that learn from one.
    """
    for split, count in PROMPTS_PER_KIND.items():
        rng = random.Random(f"{seed}/prompts/{split}")
        drawn = [q for kind in world.KINDS for q in _some(world.questions(kind, split), count, rng)]  # type: ignore[arg-type]
        rng.shuffle(drawn)
        rows: list[dict[str, Any]] = [
            {"messages": [{"role": "user", "content": q.text}], "source": "pocket", "tags": [q.kind]} for q in drawn
        ]
        if split == "train":
            golds = random.Random(f"{seed}/gold")
            rows = [{**row, "response": gold_response(q, golds)} for row, q in zip(rows, drawn, strict=True)]
        path = REPOSITORY / "prompts" / split / "pocket.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def gold_response(question: world.Question, rng: random.Random) -> str:
    """What the pocket constitution asks for: right, brief and polite, and warm to those who tell of feelings."""
    return world.compose(question, world.Behaviour(manner="warm" if question.kind == "feelings" else "neutral"), rng)


def _some(questions: tuple[world.Question, ...], count: int, rng: random.Random) -> list[world.Question]:
    return rng.sample(questions, min(count, len(questions)))


def tokenizer_texts(seed: int, count: int = 6000) -> list[str]:
    """Rendered judge prompts, which hold prompts, responses and wordings alike."""
    rng = random.Random(f"{seed}/tokenizer")
    texts = []
    for _ in range(count):
        question = draw_question(rng, "train")
        responses = draw_responses(question, {}, rng)
        axes = [rng.choice(AXES)] * 2
        case = pairwise_case(question, responses, axes, rng, Diet(), ties=1.0)
        point = pointwise_case(question, responses[0], axes, rng, Diet())
        texts += [
            world.compose(question, world.even_behaviour(rng), rng),
            *(draw(axis, rng, Diet()).text for axis in AXES),
        ]
        texts += [c.before + ask.principle + c.after for c in (case, point) for ask in c.asks[:1]]
    return texts


def build_tokenizer(seed: int) -> None:
    from selfalign.pocket.tokens import train_tokenizer

    texts = tokenizer_texts(seed)
    for folder in (POLICY, JUDGE):
        folder.mkdir(parents=True, exist_ok=True)
        train_tokenizer(texts, VOCAB_SIZE, folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selfalign.pocket.build", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument(
        "--processes", type=int, default=3, help="trainers that average their gradients; another number is another seed"
    )
    parser.add_argument("--policy-steps", type=int, default=1500, help="optimizer steps of supervised training")
    parser.add_argument("--judge-steps", type=int, default=1600, help="optimizer steps of judge training")
    args = parser.parse_args()
    for step in args.steps:
        started = time.time()
        _run(step, args)
        print(f"{step}: {time.time() - started:.0f} s", flush=True)


def _run(step: str, args: Any) -> None:
    if step == "prompts":
        write_prompts(args.seed)
    elif step == "tokenizer":
        build_tokenizer(args.seed)
    else:
        _run_with_torch(step, args)


def _run_with_torch(step: str, args: Any) -> None:
    from selfalign.pocket import judge_card, training

    if step == "policy":
        training.in_processes(training.train_policy, args.processes, args.seed, args.policy_steps)
    elif step == "judge":
        training.in_processes(training.train_judge, args.processes, args.seed, args.judge_steps)
    else:
        judge_card.write_cards(args.seed)


if __name__ == "__main__":
    main()
