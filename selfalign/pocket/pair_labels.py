"""Gold labels of a pocket run's pairs of answers: `python -m selfalign.pocket.pair_labels RUN > RUN/gold_labels.jsonl`.

The checkers know what the pocket judge is asked to judge, so `selfalign judge card RUN` can say how right it was. An
answer is as good as the principles of its prompt find it on average, by what the checkers read in it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

from selfalign import constitution as constitutions
from selfalign.constitution import Constitution
from selfalign.pocket.checkers import AXES, Axis, gold
from selfalign.preferences import pair_key
from selfalign.records import Candidate, Prompt
from selfalign.stages.judge import distinct
from selfalign.store import Run

_AXIS_OF: Mapping[str, Axis] = {"no-flattery": "candid", "privacy": "private", **{axis: axis for axis in AXES}}


def pair_labels(
    prompts: Sequence[Prompt], candidates: Sequence[Candidate], constitution: Constitution
) -> Iterator[tuple[str, str, float]]:
    """(a, b, lead) of each pair of a prompt's answers, a < b: 1 where a is better, -1 where b is, 0 where both are."""
    by_prompt: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_prompt[candidate.prompt_id].append(candidate)
    for prompt in prompts:
        scores = {one.id: score(prompt, one.text, constitution) for one in distinct(by_prompt[prompt.id])}
        for one, other in combinations(scores, 2):
            a, b = pair_key(one, other)
            if scores[a] is not None and scores[b] is not None:
                yield a, b, float((scores[a] > scores[b]) - (scores[a] < scores[b]))


def score(prompt: Prompt, text: str, constitution: Constitution) -> float | None:
    """How well an answer follows the principles that apply, 0 to 1; None where no checker reads any of them."""
    asked = [(p, _AXIS_OF[p.id]) for p in constitution.applicable(prompt) if p.id in _AXIS_OF and p.weight > 0]
    read = [(gold(prompt.messages[-1].content, prompt.tags[0], text, axis), p.weight) for p, axis in asked]
    known = [(value, weight) for value, weight in read if value is not None]
    return fmean([value for value, _ in known], [weight for _, weight in known]) if known else None


def labels_of(run: Run) -> Iterator[tuple[str, str, float]]:
    """The labels of all pairs of answers that a run sampled, round by round."""
    for number in run.rounds():
        folder = f"rounds/{number:03d}"
        prompts, answers = run.view(f"{folder}/prompts"), run.view(f"{folder}/candidates")
        if prompts is not None and answers is not None:
            constitution = constitutions.load(run.path / folder / "constitution.yaml")
            for index, sampled in answers.shards(Candidate):
                yield from pair_labels(prompts.read(Prompt, index), sampled, constitution)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m selfalign.pocket.pair_labels", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    for a, b, lead in labels_of(Run.open(parser.parse_args().run)):
        print(json.dumps({"a": a, "b": b, "lead": lead}))


if __name__ == "__main__":
    main()
