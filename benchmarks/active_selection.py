"""What a budget of comparisons buys: active selection against random pairs, a ring, and all pairs as a ceiling.

    python benchmarks/active_selection.py [--prompts 500] [--candidates 8] [--budgets 6 8 12] [--noise 1.0]

The judge is simulated, judging and pairing are ours. Each candidate has a true utility, drawn from N(0, 1.5^2). In
log-odds the judge says the difference of two utilities, plus a liking for the first position (0.8), an error of its own
for each pair and one for each order in which it is shown (each of standard deviation noise / sqrt(2)). Every comparison
is judged in both orders. From the judgments come the best-worst pair of each prompt and its ranking:

    right       the chosen answer is truly better than the rejected one
    best-worst  the pair is truly the best and the worst answer
    best        the chosen answer is truly the best
    tau         Kendall's tau of the ranking with the truth
    margin      how much more utility the chosen answer has

Intervals are 95%, bootstrapped over prompts; differences are paired by prompt, on the same utilities and errors.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from selfalign import config
from selfalign.constitution import Constitution, Principle
from selfalign.engines.base import Choice, ChoiceRequest
from selfalign.records import Candidate, Message, Prompt
from selfalign.stages.judge import judge
from selfalign.stages.pairs import build_pairs
from selfalign.stages.rankings import build_rankings
from selfalign.statistics import bootstrap_interval

HOUSE = Constitution(name="bench", version="1", principles=(Principle(id="good", compare="Choose the better one."),))
UTILITY, POSITION = 1.5, 0.8
SHARD, SEED = 64, 17
NAMED = re.compile(r"answer (\d+) of question (\d+)")
METRICS = ("right", "best-worst", "best", "tau", "margin")


@dataclass(frozen=True)
class World:
    """Utilities [P, K], the judge's errors by the order shown [P, K, K], and the prompts and answers they belong to."""

    utilities: np.ndarray
    errors: np.ndarray
    prompts: list[Prompt]
    candidates: list[Candidate]

    @staticmethod
    def make(num_prompts: int, size: int, noise: float) -> World:
        generator = np.random.default_rng(SEED)
        utilities = generator.normal(0, UTILITY, (num_prompts, size))
        of_pair = np.triu(generator.normal(0, noise / 2**0.5, (num_prompts, size, size)), 1)
        of_order = generator.normal(0, noise / 2**0.5, (num_prompts, size, size))
        prompts = [Prompt.make((Message("user", f"Question number {n}?"),)) for n in range(num_prompts)]
        candidates = [
            Candidate(f"{n}-{i}", ask.id, "policy", i, i, f"answer {i} of question {n}", (1,), "stop")
            for n, ask in enumerate(prompts)
            for i in range(size)
        ]
        return World(utilities, of_pair - of_pair.transpose(0, 2, 1) + of_order, prompts, candidates)

    def p_first(self, n: int, first: int, second: int) -> float:
        lead = self.utilities[n, first] - self.utilities[n, second]
        return float(1.0 / (1.0 + np.exp(-(lead + POSITION + self.errors[n, first, second]))))


class SimulatedJudge:
    """Answers by the world, and counts what it is asked."""

    def __init__(self, world: World) -> None:
        self.world, self.asked = world, 0

    def check_labels(self, labels: Sequence[str]) -> None:
        pass

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for request in requests:
            (first, n), (second, _) = NAMED.findall(request.messages[-1].content)[:2]
            p = self.world.p_first(int(n), int(first), int(second))
            self.asked += 1
            yield Choice(request.id, (p, 1.0 - p), "", 1, 0.0)


def measure(world: World, comparisons: str, budget: int | None) -> tuple[dict[str, np.ndarray], float]:
    """Each metric of each prompt, and the comparisons made a prompt."""
    engine = SimulatedJudge(world)
    size = world.utilities.shape[1]
    shards = (
        (start // SHARD, world.prompts[start : start + SHARD], world.candidates[start * size : (start + SHARD) * size])
        for start in range(0, len(world.prompts), SHARD)
    )
    settings = config.Judge(comparisons=comparisons, budget=budget)
    stage = judge(shards, engine, HOUSE, settings, judge_id="simulated", seed=SEED)
    said = [judgment for _, judgments in stage for judgment in judgments]
    options = config.Pairs(min_margin=0.0)
    pairs, _ = build_pairs(world.candidates, said, HOUSE, options, seed=SEED)
    rankings, _ = build_rankings(world.candidates, said, HOUSE, options, "sppo")
    chosen = {pair.prompt_id: (pair.chosen_id, pair.rejected_id) for pair in pairs}
    order = {ranking.prompt_id: ranking.candidate_ids for ranking in rankings}
    rows = [
        score(world.utilities[n], chosen.get(ask.id), [place(name) for name in order[ask.id]])
        for n, ask in enumerate(world.prompts)
    ]
    return dict(zip(METRICS, np.array(rows, dtype=float).T, strict=True)), engine.asked / 2 / len(world.prompts)


def place(candidate_id: str) -> int:
    return int(candidate_id.split("-")[1])


def score(truth: np.ndarray, pair: tuple[str, str] | None, order: Sequence[int]) -> tuple[float, ...]:
    """The metrics of one prompt. One without a pair, its best having lost to its worst, gains nothing."""
    agree = [np.sign(truth[a] - truth[b]) for a, b in combinations(order, 2)]
    if pair is None:
        return 0.0, 0.0, 0.0, float(np.mean(agree)), 0.0
    best, worst = map(place, pair)
    found = best == truth.argmax()
    margin = truth[best] - truth[worst]
    return margin > 0, found and worst == truth.argmin(), found, float(np.mean(agree)), margin


def interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values.tolist(), resamples=1000, seed=SEED)
    return f"{values.mean():6.3f} [{low:6.3f}, {high:6.3f}]"


def verdict(gain: np.ndarray) -> str:
    low, high = bootstrap_interval(gain.tolist(), resamples=1000, seed=SEED)
    return "win" if low > 0 else "lose" if high < 0 else "no difference shown"


def compare(budget: int, active: dict[str, np.ndarray], random: dict[str, np.ndarray], ceiling: np.ndarray) -> None:
    for metric in ("best-worst", "margin"):
        gain = active[metric] - random[metric]
        ratio = active[metric].mean() / random[metric].mean()
        print(f"budget {budget:3}  {metric:10}  active / random {ratio:.3f}, ", end="")
        print(f"difference {interval(gain)}: {verdict(gain)}")
    way = (active["margin"] - random["margin"]).sum() / (ceiling - random["margin"]).sum()
    print(f"budget {budget:3}  of the margin that all pairs would add to random ones, active adds {way:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--budgets", type=int, nargs="+", default=[6, 8, 12])
    parser.add_argument("--noise", type=float, default=1.0)
    args = parser.parse_args()
    started = time.process_time()
    world = World.make(args.prompts, args.candidates, args.noise)
    plans = [("all", None), ("ring", None)]
    plans += [(kind, budget) for budget in args.budgets for kind in ("random", "active")]
    print(f"{args.prompts} prompts, {args.candidates} candidates, noise {args.noise:g}")
    print(f"{'':8}{'asked':>6}  " + "  ".join(f"{metric:^24}" for metric in METRICS))
    found = {}
    for kind, budget in plans:
        found[kind, budget], asked = measure(world, kind, budget)
        print(f"{kind:8}{asked:6.2f}  " + "  ".join(interval(values) for values in found[kind, budget].values()))
    for budget in args.budgets:
        compare(budget, found["active", budget], found["random", budget], found["all", None]["margin"])
    print(f"{time.process_time() - started:.1f} CPU seconds")


if __name__ == "__main__":
    main()
