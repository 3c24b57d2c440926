"""From preferences with a hidden rule to a draft constitution that names it first."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from selfalign.config import EngineSettings, Judge
from selfalign.constitution import load
from selfalign.constitution.lint import lint
from selfalign.engines.transformers import TransformersEngine
from selfalign.mining import Mined, MiningError, Preference, mine, split
from selfalign.mining.draft import draft
from selfalign.mining.proposals import UNUSABLE
from selfalign.pocket import JUDGE, world
from tests.mining.world import engine, preference, preferences, prompt, proposal, silent


def mined(found: list[Preference] | None = None, seed: int = 17, **functions: object) -> Mined:
    evidence = split(found or preferences(), seed=seed, limit=300)
    return mine(evidence, engine(**functions), Judge(), seed=seed, told=silent)


def written(found: Mined, folder: Path, **names: str) -> Path:
    path = folder / "draft.yaml"
    path.write_text(draft(found, **{"name": "kind-mined", "origin": "kind.jsonl", "model": "judge", **names}))
    return path


def test_the_hidden_rule_comes_first_and_length_last() -> None:
    found = mined()
    first, *others = found.rules
    assert "kindness" in first.text and len(first.wordings) == 3
    assert first.alone.value == first.together.value == found.together.value == 1.0
    assert (first.coverage, first.consistency, first.support) == (1.0, 1.0, 40)
    assert found.taken == (first,)
    weather = next(rule for rule in others if "weather" in rule.text)
    assert (weather.alone.value, weather.coverage, weather.consistency) == (0.5, 0.0, 0.0)
    lengths = sorted(rule.alone.value for rule in others if rule is not weather)
    assert lengths[0] < 0.5 < lengths[1] < 0.8
    assert found.rules[-1].alone.value == lengths[0]
    assert found.length.value < 0.8 and found.majority == 0.5 and not found.against_length.as_well
    assert (found.num_train, found.num_heldout) == (40, 20)


def test_two_rules_that_each_explain_a_part_are_taken_together() -> None:
    """Half of the pairs are about kindness; in the other half both are kind, and the shorter one is preferred."""
    both = preferences(40) + [
        Preference(prompt(f"other {i}"), f"kind {i}", f"kind {i}" + " word" * (i % 7 + 1)) for i in range(40)
    ]
    for i, pair in enumerate(both[:40]):  # of equal length
        both[i] = Preference(pair.prompt, f"kind answer {i}", f"rude answer {i}")

    def propose(messages, seed):
        return '["Select the response that shows kindness", "Select the response that is shorter"]'

    found = mined(both, text=propose)
    assert [round(rule.coverage, 1) for rule in found.taken] == pytest.approx([0.5, 0.5], abs=0.21)
    assert found.taken[0].together.value < found.taken[1].together.value == found.together.value == 1.0
    assert all(0.6 < rule.alone.value < 0.9 and rule.when_decisive == 1.0 for rule in found.taken)


def test_the_same_seed_gives_the_same_draft_and_another_split_another(tmp_path: Path) -> None:
    found = [mined(seed=seed) for seed in (17, 17, 5)]
    texts = [written(each, tmp_path).read_text() for each in found]
    assert texts[0] == texts[1] and asdict(found[0])["rules"] != asdict(found[2])["rules"]
    backwards = mined(preferences()[::-1])
    assert asdict(backwards)["rules"] == asdict(mined())["rules"]


def test_the_draft_is_a_constitution_that_only_waits_to_be_set_to_work(tmp_path: Path) -> None:
    path = written(mined(), tmp_path)
    assert [finding.message for finding in lint(path)] == ["has no active principle, so there is nothing to judge by"]
    path.write_text(path.read_text().replace("status: draft", "status: active"))
    assert lint(path) == []
    (principle,) = load(path).principles
    assert principle.comparison().startswith("Select the response that shows kindness")
    assert principle.source.name == "mined from kind.jsonl"
    assert "Proposed from 40 of 40 pairs" in principle.rationale and "1.00 of cases alone" in principle.rationale
    assert "length alone" in path.read_text()


def test_names_of_others_cannot_write_yaml(tmp_path: Path) -> None:
    hostile = "x\nprinciples: []\n\x1b]0;t\x07# \u202e: {{ 7*7 }}"
    path = written(mined(), tmp_path, name=hostile, origin=hostile, model=hostile)
    text = path.read_text().replace("status: draft", "status: active")
    path.write_text(text)
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    (principle,) = load(path).principles
    assert principle.source.name == "mined from x principles: [] # : {{ 7*7 }}"


def test_what_was_of_no_use_is_counted() -> None:
    replies = {0: "", 1: "Kindness, I think.", 2: "x" * 600, 3: '["Select the response that', 4: "[1, 2]"}

    def propose(messages, seed):
        return replies.get(seed % 6) if seed % 6 in replies else proposal(messages, seed)

    counts = mined(text=propose).counts
    assert counts["replies"] == 80
    assert min(counts[reason] for reason in ("empty", "truncated", "unreadable")) > 0
    assert counts["unreadable"] > counts["empty"]
    assert counts["rules"] + counts["duplicate"] == 3 * (80 - sum(counts[name] for name in UNUSABLE))


@pytest.mark.parametrize(
    "said", ["", "I cannot help with that.", "[]", "{}", "[" * 5000, '["Be kind."]', "\x00\x1b[2J"]
)
def test_a_model_that_proposes_nothing_is_named_as_the_reason(said: str) -> None:
    with pytest.raises(MiningError, match=r"no usable principle in 80 replies(.|\n)*--model"):
        mined(text=lambda messages, seed: said)


def test_a_judge_that_does_not_answer_is_no_reason_to_invent_votes() -> None:
    with pytest.raises(MiningError, match="no valid verdict on 100%"):
        mined(preference=lambda messages, labels: None)
    some = mined(preference=lambda m, labels: None if "question 7\n" in m[-1].content else preference(m, labels))
    assert 0.0 <= some.rules[0].invalid < 0.1


def test_rules_that_say_nothing_are_not_taken() -> None:
    found = mined(preference=lambda messages, labels: [0.7, 0.3])  # always the first one shown
    assert found.taken == () and found.together is None and found.against_length is None
    assert all(rule.alone.value == 0.5 and rule.consistency == 0.0 for rule in found.rules)


def test_too_few_pairs_are_refused_with_what_was_left_out() -> None:
    same = Preference(prompt("q"), "one", "one ")
    with pytest.raises(
        MiningError, match=r"3 pairs of 3 prompts are too few .*1 tied, 1 the same text twice, 1 repeated"
    ):
        split([*preferences(3), "tied", same, preferences(1)[0]], seed=0, limit=300)


def test_pairs_of_one_prompt_stay_on_one_side() -> None:
    several = [Preference(prompt(f"q {i // 4}"), f"kind {i}", f"rude {i}") for i in range(60)]
    parts = split(several, seed=3, limit=50)
    names = [{pair.prompt.id for pair in part} for part in (parts.train, parts.heldout)]
    assert not names[0] & names[1] and len(names[1]) == 5
    assert len(parts.train) + len(parts.heldout) == 50 and parts.left_out == {"not drawn": 10}
    assert parts != split(several, seed=4, limit=50)


@pytest.mark.parametrize(
    ("first", "expected"), [(lambda i: True, 1.0), (lambda i: False, 1.0), (lambda i: i % 4 > 0, 0.75)]
)
def test_a_side_that_mostly_wins_is_a_baseline(first: Callable[[int], int], expected: float) -> None:
    found = [replace(pair, chosen_first=bool(first(i))) for i, pair in enumerate(preferences(120))]
    assert mined(found).majority == pytest.approx(expected, abs=0.12 if expected < 1 else 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_judge_finds_what_decided_in_the_pocket_world() -> None:
    """Answers that differ in much, of which the warm one is preferred to the rude: the shipped judge tells by votes."""
    dice, pairs = random.Random(1), []
    for question in dice.sample(world.questions("fact", "heldout"), 90):
        drawn = [(m, dice.random() < 0.5, dice.random() < 0.3, dice.random() < 0.2) for m in ("warm", "rude")]
        texts = [world.compose(question, world.Behaviour(good, m, long, ahoy), dice) for m, good, long, ahoy in drawn]
        pairs.append(Preference(prompt(question.text), *texts))
    rules = [f"Select the response that is {what}." for what in ("concise", "true", "polite", "written like a pirate")]
    judge = TransformersEngine(str(JUDGE), EngineSettings(backend="transformers", dtype="float32"))
    judge.generate = engine(text=lambda messages, seed: json.dumps(rules)).generate  # it writes nothing but labels
    found = mine(split(pairs, seed=17, limit=90), judge, Judge(), seed=17, told=silent)
    (taken,) = found.taken
    assert taken.text == rules[2] and taken.alone.value > 0.9 and taken.consistency > 0.9
    assert all(rule.alone.value < 0.8 for rule in found.rules[1:]) and not found.against_length.as_well
