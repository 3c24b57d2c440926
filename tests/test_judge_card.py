"""The judge card: its figures by hand and against judges of a known taste."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from selfalign import calibration, config, labels
from selfalign.campaign import run_campaign
from selfalign.constitution import Constitution, Principle
from selfalign.judge_card import (
    Labelled,
    agreement,
    longer_preferred,
    make_card,
    measure,
    retests,
)
from selfalign.preferences import sigmoid
from selfalign.records import Candidate, Label
from selfalign.stages.report.judge import read_cards
from selfalign.steps import records_of
from tests.scripted import ScriptedWorkers, start, write_campaign
from tests.stages.world import both_orders, candidate, compared, prompt, rated

GOOD = Principle(id="good", compare="Choose the better response.", text="Be good.")
KIND = Principle(id="kind", compare="Choose the kinder response.", text="Be kind.")
HOUSE = Constitution(name="house", version="1", principles=(GOOD, KIND))
ASKED = [prompt(f"question {i}") for i in range(4)]
PAIRS = [(candidate(p, "one two", 0), candidate(p, "one two three four", 1)) for p in ASKED]
EVERYONE = [c for pair in PAIRS for c in pair]


def card(said, labels=None, **options):
    return make_card([(EVERYONE, said)], HOUSE, config.Pairs(), labels or {}, round=1, judge_id="judge", **options)


def test_counts_of_what_was_said() -> None:
    (a, b), (c, d), *_ = PAIRS
    said = [*both_orders(a, b, 0.8, GOOD), compared(c, d, None, GOOD), compared(d, c, 0.6, GOOD)]
    found = card(said, seconds=6.0, price=5.0)
    assert (found.round, found.judge_id, found.num_pairs, found.num_retested) == (1, "judge", 2, 1)
    assert found.health.num_judgments == 4 and found.health.invalid == 0.25
    assert found.invalid_kinds == {"malformed": 1}
    assert found.seconds_per_pair == 3.0 and found.agreement is None and found.canaries is None


def test_tokens_and_cost_are_of_a_pair() -> None:
    said = [j for a, b in PAIRS for j in both_orders(a, b, 0.8, GOOD)]
    told = [type(j)(**{**{name: getattr(j, name) for name in j.__dataclass_fields__}, "num_tokens": 500}) for j in said]
    found = card(told, price=2.0)
    assert found.tokens_per_pair == 1000 and found.cost_per_pair == pytest.approx(1000 * 2 / 1e6)


def test_a_question_asked_again_tells_noise_from_a_liking_for_a_position() -> None:
    """The first is always favoured by .1; on top of that come 0, .2, 0 and -.2 between the two orders."""
    extra = [0.0, 0.2, 0.0, -0.2]
    said = []
    for (a, b), more in zip(PAIRS, extra, strict=True):
        said += [compared(a, b, 0.7 + more, GOOD), compared(b, a, 1 - 0.6, GOOD)]
    differences = retests(said)
    assert sorted(differences) == pytest.approx([-0.1, 0.1, 0.1, 0.3])
    found = card(said)
    assert found.retest_difference == pytest.approx(0.15)
    assert found.retest_noise == pytest.approx(np.std(differences, ddof=1) / math.sqrt(2))
    same = card([j for a, b in PAIRS for j in (compared(a, b, 0.7, GOOD), compared(b, a, 0.4, GOOD))])
    assert same.retest_noise == pytest.approx(0) and same.retest_difference == pytest.approx(0.1)


def test_what_is_asked_once_or_rated_is_no_retest() -> None:
    (a, b), *_ = PAIRS
    assert retests([compared(a, b, 0.7, GOOD), compared(b, a, 0.7, KIND), compared(b, a, None, GOOD)]) == []
    found = card([rated(a, 3.0, GOOD), rated(b, 4.0, GOOD)])
    assert (found.num_pairs, found.retest_difference, found.retest_noise) == (1, None, None)


def test_agreement_with_labels_by_hand() -> None:
    """Three of four pairs in order; one tie of the labels, which accuracy leaves out and kappa counts."""
    said = [j for (a, b), p in zip(PAIRS, (0.9, 0.8, 0.3, 0.5), strict=True) for j in both_orders(a, b, p, GOOD)]
    labels = {(a.id, b.id): lead for (a, b), lead in zip(PAIRS, (1, 1, 1, 0), strict=True)}
    found = card(said, labels).agreement
    assert (found.num_pairs, found.num_prompts) == (4, 4)
    assert found.accuracy == pytest.approx(2 / 3)
    agreed = calibration.agreement([0.8, 0.6, -0.4, 0], [1, 1, 1, 0])
    assert found.kappa == pytest.approx(agreed.kappa)
    assert found.interval.low < 2 / 3 < found.interval.high
    assert sum(one.n for one in found.bins) == 3


def test_labels_count_whichever_answer_they_name_first() -> None:
    said = [j for a, b in PAIRS for j in both_orders(a, b, 0.9, GOOD)]
    one = card(said, {(a.id, b.id): 1.0 for a, b in PAIRS}).agreement
    other = card(said, {(b.id, a.id): -1.0 for a, b in PAIRS}).agreement
    assert one == other and one.accuracy == 1.0
    assert card(said, {(a.id, b.id): -1.0 for a, b in PAIRS}).agreement.accuracy == 0.0
    assert card(said, {("x", "y"): 1.0}).agreement is None


def labelled(size: int, seed: int, quality: float, length: float) -> list[Labelled]:
    """A judge with log-odds quality * label + length * tanh(d / s), d = 10 or -10 tokens, five pairs a prompt."""
    draw, found = np.random.default_rng(seed), []
    for i in range(size):
        label, d = draw.choice([-1.0, 1.0]), int(draw.choice([-10, 10]))
        found.append(Labelled(f"prompt {i // 5}", sigmoid(quality * label + length * math.tanh(d / 10)), label, d))
    return found


@pytest.mark.parametrize("length", [0.0, 0.8, -0.8])
def test_a_liking_for_length_is_told_from_quality(length: float) -> None:
    expected = sigmoid(length * math.tanh(1.0))
    assert longer_preferred(labelled(500, 1, 1.5, length)) == pytest.approx(expected, abs=0.01)


def test_without_differences_in_length_there_is_no_liking_to_tell() -> None:
    assert longer_preferred([Labelled("p", 0.9, 1.0, 0)]) is None


def test_the_interval_of_kappa_resamples_prompts() -> None:
    """A naive loop over resampled prompts gives the same interval, up to chance."""
    found = labelled(200, 2, 1.0, 2.0)
    agreed = agreement(found, resamples=2000, seed=3)
    interval = agreed.kappa_interval
    assert interval.low < agreed.kappa < interval.high
    groups = {}
    for one in found:
        groups.setdefault(one.prompt_id, []).append(one)
    draw, again = np.random.default_rng(4), []
    for _ in range(500):
        names = draw.choice(list(groups), len(groups))
        drawn = [one for name in names for one in groups[name]]
        again.append(calibration.agreement([one.p - 0.5 for one in drawn], [one.label for one in drawn]).kappa)
    assert interval == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])), abs=0.03)


def test_labels_that_prefer_nothing_tell_of_no_agreement() -> None:
    assert agreement([Labelled("p", 0.9, 0.0, 3)]) is None


def test_a_run_is_described_from_its_records_and_its_labels(tmp_path: Path) -> None:
    settings, workers = write_campaign(tmp_path, judge__canaries=4, rounds=1), ScriptedWorkers()
    work = start(tmp_path, settings, workers)
    with work.run.lock():
        run_campaign(work)
    (written,) = read_cards(work.run, 0)
    assert written.agreement is None and written.health.swap_consistency == 1.0
    assert written.canaries.rate == 0.0 and written.seconds_per_pair > 0
    assert "judge card" in (work.run.path / "rounds/000/report.md").read_text()
    answers = records_of(work.run.view("rounds/000/candidates"), Candidate)
    kind = {c.id: c.text.startswith("kind") for c in answers}
    pairs = [
        (a, b)
        for a in answers
        for b in answers
        if a.prompt_id == b.prompt_id and a.sample_index < b.sample_index and kind[a.id] != kind[b.id]
    ]
    said = [Label("ada", a.prompt_id, a.id, b.id, "preferred", a.id if kind[a.id] else b.id) for a, b in pairs]
    labels.write(work.run.path, "ada", said)
    (found,) = measure(work.run, 0)
    assert found.agreement.accuracy == 1.0 and found.agreement.kappa == pytest.approx(1.0)
    assert measure(work.run, 0, labels={}) == [written]
