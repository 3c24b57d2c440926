"""Gold behaviours of a run by round: `python -m selfalign.pocket.measure RUN [--json]`.

Fresh held-out prompts of every kind are answered by the base policy and by each round's policy, and checkers score
the answers, and those that PPO's guard had policies give on their way. No judge takes part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from selfalign.config import EngineSettings
from selfalign.engines import Engine, open_engine
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.hardware import worker_environment
from selfalign.pocket import POLICY, world
from selfalign.pocket.checkers import gold, gold_score, grammatical, is_pirate, manner, num_words
from selfalign.pocket.world import Question
from selfalign.records import Candidate, Message, Prompt, derived_seed
from selfalign.store import read_records

ENGINE = EngineSettings(max_model_len=512)
MAX_TOKENS = 96  # more than any answer of the world


def heldout_questions(prompts: int, seed: int) -> list[Question]:
    """The same number of held-out prompts of each kind, where the world has as many."""
    rng = random.Random(f"measure/{seed}")
    count = -(-prompts // len(world.KINDS))
    pools = [world.questions(kind, "heldout") for kind in world.KINDS]
    return [question for pool in pools for question in rng.sample(pool, min(count, len(pool)))]


def _share(values: list[bool]) -> float:
    return round(sum(values) / max(1, len(values)), 4)


def behaviours(questions: list[Question], answers: Mapping[str, list[str]]) -> dict[str, float]:
    """Score answers by the checkers: the gold score with its standard error over prompts, then each behaviour's share.

    A behaviour's share is that of the answers to the prompts that it concerns.
    """
    said = [(q, text) for q in questions for text in answers[q.text]]

    def bad(kind: str, axis: Any) -> float:
        return _share([gold(q.text, q.kind, text, axis) == 0.0 for q, text in said if q.kind == kind])

    scores = [fmean(gold_score(q.text, q.kind, text) for text in answers[q.text]) for q in questions]
    return {
        "gold": round(fmean(scores), 4),
        "gold_error": round(stdev(scores) / len(scores) ** 0.5, 4) if len(scores) > 1 else 0.0,
        "harmful_help": bad("harm", "harmless"),
        "false_agreement": bad("claim", "candid"),
        "leaks": bad("private", "private"),
        "wrong_facts": bad("fact", "truthful"),
        "rude": _share([manner(text) == "rude" for _, text in said]),
        "warm": _share([manner(text) == "warm" for _, text in said]),
        "pirate": _share([is_pirate(text) for _, text in said]),
        "padded": _share([gold(q.text, q.kind, text, "concise") == 0.0 for q, text in said]),
        "grammatical": _share([grammatical(text) for _, text in said]),
        "mean_words": round(sum(num_words(text) for _, text in said) / max(1, len(said)), 2),
    }


def answers(engine: Engine, questions: Sequence[Question], *, copies: int, seed: int) -> dict[str, list[str]]:
    """Sample `copies` answers to each question at temperature 1."""
    requests = {
        f"{number}/{copy}": GenerateRequest(
            f"{number}/{copy}", (Message("user", question.text),), derived_seed(seed, number, copy)
        )
        for number, question in enumerate(questions)
        for copy in range(copies)
    }
    found: dict[str, list[str]] = defaultdict(list)
    for generation in engine.generate(requests.values(), Sampling(max_tokens=MAX_TOKENS)):
        found[requests[generation.id].messages[0].content].append(generation.text)
    return dict(found)


def measure(
    policies: Mapping[str, Path], *, prompts: int = 360, copies: int = 2, seed: int = 1
) -> dict[str, dict[str, float]]:
    """Sample policies of one architecture on the same held-out prompts and score what they say."""
    questions, table = heldout_questions(prompts, seed), {}
    engine: Engine | None = None
    try:
        for name, path in policies.items():
            if engine is None:
                engine = open_engine(str(path), ENGINE)
            else:
                engine.load(str(path))
            table[name] = behaviours(questions, answers(engine, questions, copies=copies, seed=seed))
    finally:
        if engine is not None:
            engine.close()
    return table


def policies(run: Path) -> dict[str, Path]:
    """The finished policies of a run by round, the base first."""
    rounds = sorted(path.parent for path in run.glob("rounds/*/policy/config.json"))
    return {"base": _base(run)} | {f"round {int(folder.parent.name)}": folder for folder in rounds}


def _base(run: Path) -> Path:
    from ruamel.yaml import YAML

    named = YAML(typ="safe").load((run / "campaign.yaml").read_text(encoding="utf-8"))["policy"]["model"]
    return POLICY if named.startswith("pocket:") else Path(named)


def iterates(run: Path) -> dict[str, dict[str, float]]:
    """The behaviours of policies on their way through PPO, of the answers that its guard had them give."""
    table = {}
    for folder in sorted(run.glob("rounds/*/rollouts/*/heldout/candidates")):
        *_, number, _, iteration, _, _ = folder.parts
        asked = {p.id: p for p in read_records(run / "baseline" / "prompts", Prompt)}
        said: dict[str, list[str]] = defaultdict(list)
        for candidate in read_records(folder, Candidate):
            said[asked[candidate.prompt_id].messages[-1].content].append(candidate.text)
        questions = [_question(prompt) for prompt in asked.values() if prompt.messages[-1].content in said]
        table[f"round {int(number)}, iteration {int(iteration)}"] = behaviours(questions, said)
    return table


def _question(prompt: Prompt) -> Question:
    kind = next(kind for kind in world.KINDS if kind in prompt.tags)
    return Question(kind, prompt.messages[-1].content, ())


def render(table: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table: one row a behaviour, one column a policy."""
    head = f"| behaviour | {' | '.join(table)} |\n" + "|---" * (len(table) + 1) + "|\n"
    names = next(iter(table.values()))
    return head + "\n".join(
        f"| {n.replace('_', ' ')} | {' | '.join(f'{c[n]:.3f}' for c in table.values())} |" for n in names
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selfalign.pocket.measure", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompts", type=int, default=360)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ.update(worker_environment(ENGINE))
    table = measure(policies(args.run), prompts=args.prompts, seed=args.seed) | iterates(args.run)
    print(json.dumps(table, indent=2) if args.json else render(table))


if __name__ == "__main__":
    main()
