"""What a reward model is worth by its record on held-out pairs, and the rewards that are read from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from selfalign.constitution import Constitution, Principle
from selfalign.engines.base import EngineError, Rewarded, ScoreRequest
from selfalign.engines.scripted import ScriptedEngine
from selfalign.records import Candidate, Prompt, Reward, RewardReport
from selfalign.stages import reward
from selfalign.stages.report import reward_model
from selfalign.stages.report.document import to_html, to_markdown
from selfalign.training.job import HeldOut
from tests.stages.world import candidate, prompt, rated


def held_out(folder: Path, right: float, *, by_length: bool = False, num_pairs: int = 200, seed: int = 0) -> Path:
    """The record of a model that is right on a share of the pairs; `by_length`: on those whose chosen one is longer."""
    generator = np.random.default_rng(seed)
    lengths = generator.choice([-3, -1, 1, 3], size=num_pairs)
    signs = np.where(lengths > 0, 1, -1) if by_length else np.where(np.arange(num_pairs) < right * num_pairs, 1, -1)
    labels = generator.uniform(0.5, 1.0, size=num_pairs)
    found = HeldOut(
        prompt_ids=[f"p{i // 2}" for i in range(num_pairs)],
        chosen=(signs * generator.uniform(0.1, 3.0, size=num_pairs)).tolist(),
        rejected=[0.0] * num_pairs,
        p_chosen=labels.tolist(),
        lengths=lengths.tolist(),
        trained_p_chosen=[0.9, 0.9, 0.9, 0.6],
        trained_lengths=[2, 3, 1, -1],
    )
    (folder / "heldout.json").write_bytes(msgspec.json.encode(found))
    return folder


def measured(folder: Path, min_accuracy: float = 0.55) -> RewardReport:
    return reward.measure(folder, min_accuracy, round=3, model_id="rm", seed=0)


def test_a_model_that_is_mostly_right_is_one_to_follow(tmp_path: Path) -> None:
    found = measured(held_out(tmp_path, 0.8))
    assert found.go and found.reason.startswith("go: held-out accuracy 0.800")
    assert (found.round, found.num_trained, found.num_pairs, found.num_prompts) == (3, 4, 200, 100)
    assert found.accuracy == pytest.approx(0.8) and found.interval.low < 0.8 < found.interval.high
    assert 0.4 < found.baseline < 0.6
    assert sum(one.num_pairs for one in found.by_label) == 200 and found.by_label[0].low is None
    assert sum(one.n for one in found.bins) == 200


def test_figures_of_agreement_and_calibration_by_hand(tmp_path: Path) -> None:
    found = measured(held_out(tmp_path, 0.8))
    record = json.loads((tmp_path / "heldout.json").read_text())
    gaps, labels = np.array(record["chosen"]), np.array(record["p_chosen"])
    assert found.agreement == pytest.approx(np.where(gaps > 0, labels, 1 - labels).mean())
    assert found.agreement_most == pytest.approx(labels.mean())
    assert found.brier == pytest.approx(np.mean((1 / (1 + np.exp(-gaps)) - labels) ** 2))
    assert found.ece == pytest.approx(sum(b.n * abs(b.accuracy - b.confidence) for b in found.bins) / 200)
    assert found.temperature > 1 and found.ece_scaled < found.ece


@pytest.mark.parametrize(
    ("right", "by_length", "bound", "words"),
    [
        (0.5, False, 0.55, "below reward_model.min_accuracy 0.55"),
        (0.8, False, 0.9, "below reward_model.min_accuracy 0.9"),
        (0.0, True, 0.3, "length alone explains the pairs as well"),
    ],
)
def test_what_is_not_to_be_followed(right: float, by_length: bool, bound: float, words: str, tmp_path: Path) -> None:
    found = measured(held_out(tmp_path, right, by_length=by_length), bound)
    assert not found.go and found.reason.startswith("no-go: ") and words in found.reason


def test_few_held_out_prompts_tell_nothing(tmp_path: Path) -> None:
    found = measured(held_out(tmp_path, 1.0, num_pairs=20))
    assert not found.go and "held-out pairs of 10 prompts are too few to tell" in found.reason


def test_a_single_held_out_pair_tells_nothing(tmp_path: Path) -> None:
    found = measured(held_out(tmp_path, 1.0, num_pairs=1))
    assert not found.go and "held-out pairs of 1 prompt are too few to tell" in found.reason
    assert (found.num_pairs, found.accuracy) == (1, 1.0) and 0 < found.interval.low < found.interval.high == 1.0
    assert "1 pair of 1 prompt, held out" in to_markdown("t", reward_model.section(found))


def test_gaps_of_nothing_are_right_by_half(tmp_path: Path) -> None:
    folder = held_out(tmp_path, 0.8)
    record = json.loads((folder / "heldout.json").read_text())
    (folder / "heldout.json").write_text(json.dumps(record | {"chosen": [0.0] * 200, "p_chosen": [0.5] * 200}))
    found = measured(folder)
    assert not found.go and found.accuracy == found.agreement == found.agreement_most == 0.5


def test_pairs_of_equal_lengths_leave_nothing_to_length(tmp_path: Path) -> None:
    folder = held_out(tmp_path, 0.8)
    record = json.loads((folder / "heldout.json").read_text())
    record |= {"lengths": [0] * 200, "trained_lengths": [0] * 4}
    (folder / "heldout.json").write_text(json.dumps(record))
    found = measured(folder)
    assert found.go and found.baseline == 0.5


def test_the_section_of_the_page_says_it_all(tmp_path: Path) -> None:
    found = measured(held_out(tmp_path, 0.8))
    page = reward_model.section(found)
    for text in (to_markdown("t", page), to_html("t", page)):
        assert "Verdict: go: held-out accuracy 0.800" in text and "Brier score" in text and "under 0.6" in text
    assert "<svg" in to_html("t", page) and "sure, " in to_markdown("t", page)
    back = msgspec.convert(json.loads(msgspec.json.encode(found)), RewardReport)
    assert back == found and back.interval.low == found.interval.low


def test_an_ensemble_brings_the_spread_of_its_members(tmp_path: Path) -> None:
    answer = candidate(prompt("q"), "a")
    (tmp_path / "rewards.json").write_text(json.dumps({answer.id: 1.5}))
    assert reward.rewards_of([answer], tmp_path, "rm")[0].spread == 0.0
    (tmp_path / "spreads.json").write_text(json.dumps({answer.id: 0.25}))
    assert reward.rewards_of([answer], tmp_path, "rm")[0].spread == 0.25


def with_gold(folder: Path, leads: list[list[float]]) -> tuple[list[Prompt], list[Candidate]]:
    """Prompts with a gold answer of reward 0, and answers that it leads by so much."""
    prompts = [replace(prompt(f"q{i}"), response="gold") for i in range(len(leads))]
    answers = [[candidate(p, "a", i) for i in range(len(own))] for p, own in zip(prompts, leads, strict=True)]
    rewards = {c.id: -lead for own, row in zip(answers, leads, strict=True) for c, lead in zip(own, row, strict=True)}
    rewards |= {gold.id: 0.0 for p in prompts if (gold := p.gold()) is not None}
    (folder / "rewards.json").write_text(json.dumps(rewards))
    return prompts, [c for own in answers for c in own]


def test_agreement_with_gold_by_hand(tmp_path: Path) -> None:
    prompts, answers = with_gold(tmp_path, [[1.0, 2.0], [-1.0], [0.0, 3.0]])
    unrewarded = candidate(prompts[0], "too long", 9)
    elsewhere = candidate(prompt("without gold"), "a")
    found = reward.agreement_with_gold(tmp_path, [*prompts, prompt("q")], [*answers, unrewarded, elsewhere], 0)
    assert found.share == pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5)
    assert (found.num_answers, found.num_prompts) == (5, 3)
    assert found.interval.low < found.share < found.interval.high


def test_answers_to_one_prompt_count_as_one_for_the_interval(tmp_path: Path) -> None:
    many = reward.agreement_with_gold(tmp_path, *with_gold(tmp_path, [[1.0 if i % 2 else -1.0] for i in range(80)]), 0)
    leads = [[1.0 if i % 2 else -1.0] * 20 for i in range(4)]
    few = reward.agreement_with_gold(tmp_path, *with_gold(tmp_path, leads), 0)
    assert many.share == few.share == 0.5 and many.num_answers == few.num_answers
    assert few.interval.high - few.interval.low > 2 * (many.interval.high - many.interval.low)


def test_without_gold_nothing_is_said_of_it(tmp_path: Path) -> None:
    asked = prompt("q")
    answer = candidate(asked, "a")
    (tmp_path / "rewards.json").write_text(json.dumps({answer.id: 1.5}))
    assert reward.agreement_with_gold(tmp_path, [asked], [answer], 0) is None
    found = measured(held_out(tmp_path, 0.8))
    assert found.gold is None and "gold" not in to_markdown("t", reward_model.section(found))


def test_the_page_says_how_gold_answers_fare(tmp_path: Path) -> None:
    gold = reward.agreement_with_gold(tmp_path, *with_gold(tmp_path, [[1.0, 1.0], [-1.0, 1.0]]), 0)
    found = replace(measured(held_out(tmp_path, 0.8)), gold=gold)
    page = to_markdown("t", reward_model.section(found))
    assert "| gold answers above sampled ones | 0.750 (" in page and "4 answers to 2 prompts held out" in page
    assert msgspec.convert(json.loads(msgspec.json.encode(found)), RewardReport) == found


def test_rewards_are_of_the_candidates_that_have_one(tmp_path: Path) -> None:
    asked = prompt("q")
    answers = [candidate(asked, text, i) for i, text in enumerate(("a", "b", "c"))]
    (tmp_path / "rewards.json").write_text(json.dumps({answers[0].id: 1.5, answers[2].id: -0.5}))
    found = reward.rewards_of(answers, tmp_path, "rm")
    assert [(one.candidate_id, one.model_id, one.reward) for one in found] == [
        (answers[0].id, "rm", 1.5),
        (answers[2].id, "rm", -0.5),
    ]
    assert all(math.isfinite(one.reward) for one in found)


def test_ratings_become_rewards_from_minus_one_to_one() -> None:
    ask, other, rule = prompt("a"), prompt("b"), Principle(id="p", text="p")
    rules = Constitution(name="rules", version="1", principles=(rule,))
    low, high, same, none = (candidate(ask, text, i) for i, text in enumerate(["low", "high", "low", "none"]))
    elsewhere = candidate(other, "low", 4)
    error = candidate(ask, "low", 5, finish_reason="error")
    said = [rated(low, 1.0, rule), rated(high, 4.5, rule), rated(none, None, rule)]
    found = reward.judged_rewards([low, high, same, none, elsewhere, error], said, rules, 5, "judge")
    assert found == [Reward(low.id, "judge", -1.0), Reward(high.id, "judge", 0.75), Reward(same.id, "judge", -1.0)]
    assert [reward.scaled(rating, 3) for rating in (1, 1.5, 2, 3)] == [-1.0, -0.5, 0.0, 1.0]


class Constant(ScriptedEngine):
    """Rewards every answer alike."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def reward(self, requests: Iterable[ScoreRequest]) -> Iterator[Rewarded]:
        yield from (Rewarded(request.id, self.value) for request in requests)


def test_the_engine_rewards_what_has_tokens_and_nothing_infinite() -> None:
    ask = prompt("a")
    some, empty = candidate(ask, "some"), candidate(ask, "", 1, token_ids=())
    ((index, found),) = reward.score([(3, [ask], [some, empty])], Constant(0.5), model_id="rm")
    assert (index, found) == (3, [Reward(some.id, "rm", 0.5)])
    with pytest.raises(EngineError, match="is not finite"):
        list(reward.score([(0, [ask], [some])], Constant(math.nan), model_id="rm"))
