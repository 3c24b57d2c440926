"""What principles did in a run, against loops over the records, and against what is known of the principles."""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from selfalign.calibration import cohen_kappa
from selfalign.constitution import load
from selfalign.preferences import PairKey, by_prompt, pair_key, read_prompt
from selfalign.principles import TIE, Stats, stats
from selfalign.records import Candidate, Judgment, Pair, Prompt, Ranking
from selfalign.stages.evaluate import judge_health
from selfalign.store import Run, StoreError, read_records
from tests.cli.fabricate import make_judged_run


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_judged_run(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_judged_run(tmp_path_factory.mktemp("rated"), rated=True)


@pytest.fixture(params=["compared", "rated"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)


def records(run: Run, name: str, kind: type, rounds: tuple[int, ...]) -> list[Any]:
    return [row for number in rounds for row in read_records(run.path / f"rounds/{number:03d}/{name}", kind)]


def opinions(run: Run, rounds: tuple[int, ...]) -> Iterator[tuple[str, PairKey, float]]:
    """Principle, pair and lead, by the functions that make labels."""
    rules = load(run.path / "rounds/000/constitution.yaml")
    for said in by_prompt(records(run, "judgments", Judgment, rounds)).values():
        readings = read_prompt(said, rules)
        for pair, found in readings.pairs.items():
            for reading in found:
                yield reading.principle.id, pair, 2 * readings.probability(reading.lead) - 1


def side(lead: float) -> int:
    return 0 if abs(lead) <= TIE else 1 if lead > 0 else -1


def mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def by_hand(run: Run, name: str, rounds: tuple[int, ...]) -> dict[str, float | None]:
    """The figures of one principle, comparison by comparison."""
    lengths = {c.id: len(c.token_ids) for c in records(run, "candidates", Candidate, rounds)}
    texts = {c.id: c.text for c in records(run, "candidates", Candidate, rounds)}
    chosen = {pair_key(p.chosen_id, p.rejected_id): p.chosen_id for p in records(run, "pairs", Pair, rounds)}
    judgments = [j for j in records(run, "judgments", Judgment, rounds) if j.principle_id == name]
    said = [(pair, lead) for principle, pair, lead in opinions(run, rounds) if principle == name]
    decided = [(pair, pair[0] if lead > 0 else pair[1]) for pair, lead in said if side(lead)]
    odds = [math.log(p / (1 - p)) for _, lead in said for p in [min(max((1 + lead) / 2, 0.001), 0.999)]]
    differences = [lengths[a] - lengths[b] for (a, b), _ in said]
    turned = ([*odds, *(-x for x in odds)], [*differences, *(-x for x in differences)])
    is_gold = {name: text == "the gold answer" for name, text in texts.items()}
    return {
        "judgments": len(judgments),
        "comparisons": len(said),
        "coverage": len({j.prompt_id for j in judgments}) / len(records(run, "prompts", Prompt, rounds)),
        "invalid": mean([j.verdict == "invalid" for j in judgments]),
        "decisiveness": mean([abs(lead) for _, lead in said]),
        "preferring": mean([side(lead) != 0 for _, lead in said]),
        "chosen": mean([won == chosen[pair] for pair, won in decided if pair in chosen]),
        "longer": mean(
            [lengths[won] == max(lengths[a], lengths[b]) for (a, b), won in decided if lengths[a] != lengths[b]]
        ),
        "gold": mean([is_gold[won] for (a, b), won in decided if is_gold[a] != is_gold[b]]),
        "length_correlation": float(np.corrcoef(*turned)[0, 1]) if any(odds) else None,
    }


@pytest.mark.parametrize("rounds", [(0, 1), (1,)])
def test_every_figure_is_that_of_a_loop_over_the_records(run: Run, rounds: tuple[int, ...]) -> None:
    found = stats(run, rounds)
    assert found.rounds == rounds
    assert found.num_judgments == len(records(run, "judgments", Judgment, rounds))
    assert found.num_prompts == 60 * len(rounds)
    assert len(found.principles) == 8
    for record in found.principles:
        for name, value in by_hand(run, record.id, rounds).items():
            measured = getattr(record.over_all, name)
            measured = getattr(measured, "value", measured)
            if value is None or measured is None:
                assert value is None and measured is None, (record.id, name)
            else:
                assert measured == pytest.approx(value, abs=1e-9), (record.id, name)


def test_rounds_alone_are_what_they_are_together(run: Run) -> None:
    together = stats(run)
    for number in (0, 1):
        alone = {record.id: record.over_all for record in stats(run, [number]).principles}
        assert {record.id: record.by_round[number] for record in together.principles} == alone


def test_swaps_and_positions_are_those_of_the_judges_health(compared: Run) -> None:
    judgments = records(compared, "judgments", Judgment, (0,))
    candidates = records(compared, "candidates", Candidate, (0,))
    rules = load(compared.path / "rounds/000/constitution.yaml")
    for record in stats(compared, [0]).principles:
        mine = [judgment for judgment in judgments if judgment.principle_id == record.id]
        health = judge_health([(candidates, mine)], rules)
        for name in ("swap_consistency", "first_preferred", "invalid"):
            measured = getattr(record.over_all, name)
            assert (measured.value if measured else None) == pytest.approx(getattr(health, name) if mine else None), (
                name
            )


def test_conflicts_are_those_of_a_loop_over_the_pairs(run: Run) -> None:
    sides: dict[PairKey, dict[str, int]] = defaultdict(dict)
    for name, pair, lead in opinions(run, (0, 1)):
        sides[pair][name] = side(lead)
    found = {(one.a, one.b): one for one in stats(run).conflicts}
    spoke = {name for said in sides.values() for name in said}
    assert len(found) == math.comb(len(spoke), 2)
    for (a, b), one in found.items():
        table = np.zeros((3, 3))
        for said in sides.values():
            if {a, b} <= said.keys():
                table[said[a] + 1, said[b] + 1] += 0.5
                table[1 - said[a], 1 - said[b]] += 0.5
        assert one.n == table.sum()
        assert one.agreement.value == pytest.approx(np.trace(table) / one.n)
        assert one.opposite.value == pytest.approx((table[0, 2] + table[2, 0]) / one.n)
        assert one.kappa == pytest.approx(cohen_kappa(table))


def kinds(found: Stats) -> set[tuple[str, str, str]]:
    return {(flag.principle, flag.kind, flag.other) for record in found.principles for flag in record.flags}


def test_flags_name_what_is_wrong_and_nothing_else(compared: Run) -> None:
    found = {(name, kind) for name, kind, other in kinds(stats(compared)) if kind not in ("same", "opposite", "drift")}
    assert found == {
        ("unasked", "never asked"), ("long", "length"), ("contrary", "outvoted"), ("contrary", "gold"),
        ("mute", "never decides"), ("fickle", "order"), ("garbled", "invalid"),
    }  # fmt: skip
    beside = {(name, kind, other) for name, kind, other in kinds(stats(compared)) if kind in ("same", "opposite")}
    assert {("kind", "same", "twin"), ("twin", "same", "kind"), ("contrary", "opposite", "kind")} <= beside
    assert ("mute", "same", "fickle") not in beside


def test_a_drift_is_flagged_between_the_first_round_and_the_last(compared: Run) -> None:
    drifting = {
        flag.principle: flag for record in stats(compared).principles for flag in record.flags if flag.kind == "drift"
    }
    assert "kind" in drifting
    assert drifting["kind"].figure == "longer"
    assert "in round 0 to" in drifting["kind"].words
    assert not [kind for _, kind, _ in kinds(stats(compared, [1])) if kind == "drift"]


def test_what_people_prefer_is_held_against_each_principle(compared: Run) -> None:
    pairs = [pair_key(p.chosen_id, p.rejected_id) for p in records(compared, "pairs", Pair, (0,))]
    chosen = {p.chosen_id for p in records(compared, "pairs", Pair, (0,))}
    people = {pair: next(name for name in pair if name not in chosen) for pair in pairs}  # people see it otherwise
    found = {record.id: record for record in stats(compared, people=people).principles}
    assert found["kind"].over_all.people.value < 0.1
    assert found["contrary"].over_all.people.value > 0.9
    assert found["kind"].over_all.people.n <= len(pairs)
    assert "people" in {flag.kind for flag in found["kind"].flags}
    assert found["unasked"].over_all.people is None


@pytest.mark.parametrize("kind", ["rankings", "demonstrations"])
def test_rankings_and_the_best_of_k_are_labels_too(compared: Run, tmp_path: Path, kind: str) -> None:
    """With rankings by `long`'s taste, and the longest answer as what is learnt, `long` always gets its way."""
    run = Run.create(tmp_path / "run", (compared.path / "campaign.yaml").read_text())
    shutil.copytree(compared.path / "rounds/000", run.path / "rounds/000", ignore=shutil.ignore_patterns("pairs"))
    answers: dict[str, list[Candidate]] = defaultdict(list)
    for one in records(run, "candidates", Candidate, (0,)):
        answers[one.prompt_id].append(one)
    with run.lock():
        step = run.step(f"rounds/000/{kind}", inputs={})
        ranked = [sorted(each, key=lambda one: -len(one.token_ids)) for each in answers.values()]
        step.write(0, [_ranking(each) if kind == "rankings" else each[0] for each in ranked])
        step.finish({})
    found = {record.id: record.over_all.chosen for record in stats(run).principles}
    assert found["long"].value > 0.99
    assert found["long"].n > (150 if kind == "rankings" else 100)
    assert 0.2 < found["kind"].value < 0.8


def _ranking(answers: list[Candidate]) -> Ranking:
    lengths = tuple(float(len(one.token_ids)) for one in answers)
    return Ranking(answers[0].prompt_id, tuple(one.id for one in answers), lengths, lengths)


def test_a_run_whose_candidates_are_gone_is_told_so(compared: Run, tmp_path: Path) -> None:
    shutil.copytree(compared.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/rounds/001/candidates")
    with pytest.raises(StoreError, match="candidates is missing"):
        stats(Run.open(tmp_path / "run"))


def test_few_comparisons_raise_no_flag(tmp_path: Path) -> None:
    few = stats(make_judged_run(tmp_path, prompts=4, rounds=1))
    assert {kind for _, kind, _ in kinds(few)} <= {"never asked", "invalid"}


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """A share over prompts that hang together: of many samples, about 95% of the intervals reach the true mean."""
    from selfalign.principles.figures import Bundles, Measure
    from selfalign.principles.opinions import Opinions, Pairs, Questions, Said, Swaps

    draw, held = np.random.default_rng(3), 0
    for _ in range(200):
        prompt = np.repeat(np.arange(80), 4)
        hits = np.repeat(draw.random(80) < 0.5, 4) ^ (draw.random(320) < 0.1)  # four judgments of a prompt agree
        empty = np.zeros(0, dtype=int)
        said = Said(
            np.arange(80), Questions(*[empty] * 5), Swaps(*[empty] * 3), Pairs(*[empty] * 5), Opinions(*[empty] * 3)
        )
        (share,) = Measure(Bundles(said), 1).shares(np.zeros(320, dtype=int), prompt, hits)
        held += share.low <= 0.5 <= share.high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.slow
def test_a_million_judgments_take_seconds(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path, prompts=6000, rounds=4)
    begin = time.perf_counter()
    found = stats(run)
    assert found.num_judgments > 1_000_000
    assert time.perf_counter() - begin < 20  # some three on one core
