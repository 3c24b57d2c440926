"""Labels by those who know the truth of the pocket world: `python -m selfalign.pocket.labels RUN OUT`.

The checkers say of two answers to one prompt which is better by the pocket constitution, for comparisons that the judge
of RUN made. `selfalign labels import` reads the file, so that a judge can be held against the truth as against people.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from selfalign.compared import Comparison, comparisons
from selfalign.config import in_round, load
from selfalign.labelling import queue
from selfalign.pocket.checkers import gold_score
from selfalign.records import Label
from selfalign.store import Run, atomic_write

LABELLER = "gold"


def label(one: Comparison, stratum: str) -> Label:
    """What the checkers say of a comparison: a tie where both answers score the same."""
    prompt = one.prompt
    kind = prompt.tags[0]
    a, b = (gold_score(prompt.messages[-1].content, kind, answer.text) for answer in (one.a, one.b))
    winner = None if a == b else one.a.id if a > b else one.b.id
    verdict = "preferred" if winner else "tie"
    return Label(LABELLER, prompt.id, one.a.id, one.b.id, verdict, winner, round=one.round, stratum=stratum)


def labels(run: Run, count: int) -> Iterator[Label]:
    """The first `count` pairs of each round that a person would be asked of, labelled."""
    settings = load(run.path / "campaign.yaml").campaign
    for number in run.rounds():
        pool = list(comparisons(run, number, "training", in_round(settings, number)))
        yield from (label(*item) for item in islice(queue(pool, settings.seed), count))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selfalign.pocket.labels", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=200, help="pairs of each round")
    args = parser.parse_args()
    found = list(labels(Run.open(args.run), args.count))
    text = "".join(json.dumps(msgspec.to_builtins(one)) + "\n" for one in found)
    atomic_write(args.out, text.encode("ascii"))
    print(f"{args.out}: {len(found):,} labels")


if __name__ == "__main__":
    main()
