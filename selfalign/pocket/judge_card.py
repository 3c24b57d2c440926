"""How far the pocket judge agrees with gold: `python -m selfalign.pocket.judge_card [--json]`.

Held-out prompts only. Responses are composed, or sampled from the base policy; wordings are ones that the judge was
trained on (seen) or never was (unseen). A pairwise agreement is counted in each order; ties by gold are left out.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.pocket import JUDGE, POLICY, measure
from selfalign.pocket.checkers import KIND_AXES, Axis
from selfalign.pocket.judge_data import Case, draw_question, draw_responses, pairwise_case, pointwise_case
from selfalign.pocket.wordings import Diet
from selfalign.pocket.world import Question

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from selfalign.pocket.tokens import Coder

Tally = dict[str, list[bool]]


def label_probabilities(
    model: LlamaForCausalLM, coder: Coder, cases: Sequence[Case], size: int = 32
) -> list[list[list[float]]]:
    """For each case and ask, the probabilities of the labels (A, B or 1 to 5), as an engine gives them."""
    import torch

    from selfalign.pocket.forward import logits_at, make_batch

    found: list[list[list[float]]] = []
    for at in range(0, len(cases), size):
        part = cases[at : at + size]
        prefixes = coder.encode_many([case.before for case in part])
        branches = [[[*coder.encode(a.principle + c.after), coder.end, coder.assistant] for a in c.asks] for c in part]
        batch = make_batch([([coder.user, *p], b) for p, b in zip(prefixes, branches, strict=True)], coder.pad)
        with torch.inference_mode():
            logits = logits_at(model, batch.ids_BT, batch.positions_BT, batch.mask_B1TT, batch.where_N)
        rows = iter(logits)
        for case in part:
            labels = "AB" if len(case.responses) == 2 else "12345"
            tokens = [coder.labels[label] for label in labels]
            found.append([next(rows)[tokens].softmax(-1).tolist() for _ in case.asks])
    return found


def _axes(kind: str) -> list[Axis]:
    return [*KIND_AXES[kind], "polite", "warm", "concise", "pirate"]


def _responses(question: Question, rng: random.Random, samples: dict[str, list[str]]) -> tuple[str, str] | None:
    if not samples:
        return draw_responses(question, {}, rng)
    answers = sorted(set(samples[question.text]))
    return (answers[0], answers[1]) if len(answers) > 1 else None


def _questions(rng: random.Random, count: int) -> list[Question]:
    drawn: dict[str, Question] = {}
    while len(drawn) < count:
        question = draw_question(rng, "heldout")
        drawn[question.text] = question
    return list(drawn.values())


def _swapped(case: Case, seed: int, seen: bool) -> Case:
    """The same wordings about the same two responses in the other order."""
    rng = random.Random(seed)
    axes = [ask.wording.axis for ask in case.asks]
    other = pairwise_case(case.question, (case.responses[1], case.responses[0]), axes, rng, Diet(seen=seen), ties=1.0)
    asks = tuple(type(a)(a.principle, a.wording, (a.target[1], a.target[0])) for a in case.asks)
    return Case(other.question, other.responses, other.before, other.after, asks, other.gold)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _score(
    model: LlamaForCausalLM,
    coder: Coder,
    questions: Sequence[Question],
    samples: dict[str, list[str]],
    seed: int,
    seen: bool,
) -> dict[str, Any]:
    rng = random.Random(f"{seed}/{seen}")
    both = [(q, r) for q in questions if (r := _responses(q, rng, samples))]
    ratings = [pointwise_case(q, rng.choice(r), _axes(q.kind), rng, Diet(seen=seen)) for q, r in both]
    pairs = [pairwise_case(q, r, _axes(q.kind), rng, Diet(seen=seen), ties=0.0) for q, r in both]
    pairs = [case for case in pairs if case.asks]
    swapped = [_swapped(case, seed, seen) for case in pairs]
    rated, first, second = (label_probabilities(model, coder, cases) for cases in (ratings, pairs, swapped))
    pointwise, pairwise, consistent, averaged = (defaultdict(list) for _ in range(4))
    for axis, target, found in _each(ratings, rated):
        pointwise[axis].append(_argmax(target) == _argmax(found))
    for (axis, target, one), (_, _, two) in zip(_each(pairs, first), _each(swapped, second), strict=True):
        pairwise[axis] += [_argmax(one) == _argmax(target), _argmax(two) != _argmax(target)]
        consistent[axis].append(_argmax(one) != _argmax(two))
        averaged[axis].append((one[0] + two[1] > 1.0) == (target[0] > 0.5))
    names = ("pointwise", "pairwise", "pairwise_both_orders", "swap_consistency")
    return {name: _shares(t) for name, t in zip(names, (pointwise, pairwise, averaged, consistent), strict=True)}


def _each(
    cases: Sequence[Case], found: list[list[list[float]]]
) -> Iterator[tuple[str, tuple[float, ...], list[float]]]:
    for case, rows in zip(cases, found, strict=True):
        for ask, row in zip(case.asks, rows, strict=True):
            yield ask.wording.axis, ask.target, row


def _shares(tally: Tally) -> dict[str, Any]:
    every = [right for rights in tally.values() for right in rights]
    by_axis = {axis: round(sum(r) / len(r), 4) for axis, r in sorted(tally.items())}
    return {"all": round(sum(every) / max(1, len(every)), 4), "count": len(every), "by_principle": by_axis}


def judge_card(
    *, prompts: int = 400, seed: int = 1, judge: Path = JUDGE, policy: Path | None = POLICY
) -> dict[str, Any]:
    """Measure agreement with gold on `prompts` held-out prompts; without a policy, on composed responses only."""
    from selfalign.pocket.tokens import load_coder
    from selfalign.pocket.training import load_model, sample

    coder, model = load_coder(judge), load_model(judge)
    questions = _questions(random.Random(seed), prompts)
    card: dict[str, Any] = {"prompts": len(questions), "split": "heldout", "seed": seed, "composed": {}}
    for name, seen in (("seen", True), ("unseen", False)):
        card["composed"][name] = _score(model, coder, questions, {}, seed, seen)
    if policy is not None:
        samples = sample(load_model(policy), coder, [q.text for q in questions], 2, seed)
        card["policy_samples"] = {
            name: _score(model, coder, questions, samples, seed, seen)
            for name, seen in (("seen", True), ("unseen", False))
        }
    return card


def render(card: dict[str, Any]) -> str:
    """A Markdown table of the card."""
    lines = [f"Agreement with gold on {card['prompts']} held-out prompts (seed {card['seed']}).", ""]
    for source in ("composed", "policy_samples"):
        for wording, figures in card.get(source, {}).items():
            axes = sorted(figures["pointwise"]["by_principle"])
            lines += [f"Responses: {source.replace('_', ' ')}; wordings: {wording}", ""]
            lines += [f"| measure | all | {' | '.join(axes)} |", "|---" * (len(axes) + 2) + "|"]
            for name, tally in figures.items():
                cells = (f"{tally['by_principle'].get(axis, float('nan')):.3f}" for axis in axes)
                lines.append(f"| {name.replace('_', ' ')} | {tally['all']:.3f} | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


_CARD = """# {title}

{text}

Made by `python -m selfalign.pocket.build` (seed {seed}); {parameters:,} parameters, a Llama architecture with
a byte-level BPE tokenizer of {vocabulary:,} tokens. It knows nothing of the world but the few facts that it was taught.
License: Apache-2.0.

{figures}
"""


def _write_card(folder: Path, title: str, text: str, figures: str, seed: int) -> None:
    from selfalign.pocket.training import load_model

    model = load_model(folder)
    card = _CARD.format(
        title=title,
        text=text,
        figures=figures,
        seed=seed,
        parameters=model.num_parameters(),
        vocabulary=model.config.vocab_size,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_cards(seed: int) -> None:
    """Measure both models and write their model cards."""
    policy = measure.render(measure.measure({"base": POLICY}, seed=seed))
    _write_card(POLICY, "The pocket policy",
    "The unimproved policy of the pocket world: it answers, but has bad habits as "
                "often as good ones, so that a campaign has something to improve.",
                f"Gold behaviours (`python -m selfalign.pocket.measure`):\n\n{policy}", seed)  # fmt: skip
    figures = f"Measured by `python -m selfalign.pocket.judge_card`:\n\n{render(judge_card(seed=seed))}"
    _write_card(JUDGE, "The pocket judge",
    "It reads a principle and rates a response from 1 to 5, or says which of two "
                "responses is better, A or B, in the prompts of `prompts/templates/`.", figures, seed)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selfalign.pocket.judge_card", description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--judge", type=Path, default=JUDGE)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    card = judge_card(prompts=args.prompts, seed=args.seed, judge=args.judge)
    print(json.dumps(card, indent=2) if args.json else render(card))


if __name__ == "__main__":
    main()
