"""Screen 4: the list of what rounds learned, its filter, an opened example, and what was left out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from selfalign.records import Candidate, Judgment, Message, Pair, Prompt
from selfalign.store import Run
from selfalign.tui.pairs.filter import FilterError, needles, parse
from selfalign.tui.pairs.filter import selected as let_through
from selfalign.tui.pairs.index import PairIndex
from selfalign.tui.pairs.origin import Origin, origin_of
from selfalign.tui.pairs.pair import OnePair
from selfalign.tui.pairs.screen import Pairs
from selfalign.tui.widgets import Grid, Words
from tests.cli.fabricate import make_judged_run, make_run
from tests.tui.conftest import look, page_of, press, screen_of, until
from tests.tui.evaluated import evaluate


def selected(index: PairIndex, words: str) -> np.ndarray:
    """The rows that a filter lets through, once all texts were searched."""
    tests = parse(words)
    list(index.search(needles(tests)))
    return let_through(index, tests)


def indexed(run: Run, kind: Any = "pairs") -> PairIndex:
    index = PairIndex(run, run.rounds(), kind)
    list(index.grow())
    assert index.complete and not index.problems
    return index


def opened(index: PairIndex, row: int = 0) -> Origin:
    return origin_of(index, index.spot(row))


# The filter -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> PairIndex:
    return indexed(make_judged_run(tmp_path_factory.mktemp("judged"), prompts=40))


def records(index: PairIndex) -> list[Origin]:
    return [opened(index, row) for row in range(len(index))]


@pytest.fixture(scope="module")
def known(judged: PairIndex) -> list[Origin]:
    return records(judged)


def tokens(view: Origin, side: str) -> int:
    answer = view.first if side == "chosen" else view.last
    assert answer is not None
    return len(answer.token_ids)


FILTERS = {
    "tokens>50": lambda view: max(tokens(view, "chosen"), tokens(view, "rejected")) > 50,
    "chosen<30": lambda view: tokens(view, "chosen") < 30,
    "rejected>=40": lambda view: tokens(view, "rejected") >= 40,
    "round=1": lambda view: view.spot.round == 1,
    "-round=1": lambda view: view.spot.round == 0,
    "invalid": lambda view: any(one.verdict == "invalid" for one in view.on_both),
    "-invalid chosen<30": lambda view: (
        not any(one.verdict == "invalid" for one in view.on_both) and tokens(view, "chosen") < 30
    ),
    '"the gold answer"': lambda view: "the gold answer" in view.first.text,
    '-"gold answer" round=0': lambda view: "gold answer" not in view.first.text and view.spot.round == 0,
    "1.7": lambda view: "1.7" in view.prompt.messages[-1].content,
    "ANSWER 2": lambda view: "answer 2" in f"{view.first.text}\n{view.last.text}"
    or ("answer" in f"{view.first.text}\n{view.last.text}" and "2" in view.prompt.messages[-1].content),
}  # fmt: skip


@pytest.mark.parametrize("words", FILTERS)
def test_a_filter_lets_through_what_the_records_say(judged: PairIndex, known: list[Origin], words: str) -> None:
    expected = [row for row, view in enumerate(known) if FILTERS[words](view)]
    assert selected(judged, words).tolist() == expected
    assert 0 < len(expected) < len(known)


def test_disagreement_and_dissent_are_of_the_votes(judged: PairIndex, known: list[Origin]) -> None:
    def leads(view: Origin) -> Iterator[list[float]]:
        for name in {one.principle_id for one in view.on_both}:
            said = [one for one in view.on_both if one.principle_id == name and one.p_first is not None]
            yield [one.p_first if one.first_id == view.ends[0] else 1 - one.p_first for one in said]

    split = [row for row, v in enumerate(known) if any(sum(p) / len(p) < 0.5 for p in leads(v) if p)]
    disagree = [row for row, v in enumerate(known) if any(min(p) < 0.5 < max(p) for p in leads(v) if p)]
    assert selected(judged, "split").tolist() == split and len(split) > 0
    assert selected(judged, "disagree").tolist() == disagree and len(disagree) > 0
    assert selected(judged, "-disagree").tolist() == sorted({*range(len(known))} - {*disagree})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("margn>0.3", 'Did you mean "margin"'),
        ("margin>", "is no filter"),
        ("prinicple:kind", 'Did you mean "principle"'),
        ("principle:cruel", "there are: contrary, fickle, garbled, kind, long, mute, twin"),
        ("margin=0.8x", "margin>0.3  tokens>200"),
    ],
)
def test_a_filter_that_is_none_says_what_could_be_meant(judged: PairIndex, words: str, said: str) -> None:
    with pytest.raises(FilterError) as error:
        selected(judged, words)
    assert said in str(error.value)


def test_texts_that_were_not_searched_yet_are_not_let_through(judged: PairIndex) -> None:
    tests = parse("-nobody")
    index = indexed(judged.run)
    assert len(let_through(index, tests)) == 0 and index.lacks(needles(tests))
    search = index.search(needles(tests))
    assert next(search) == 0.5 and len(let_through(index, tests)) == 40
    assert list(search) == [1.0] and len(let_through(index, tests)) == 80 and not index.lacks(needles(tests))


# Other kinds, and what was left out -----------------------------------------------------------------------------------


def test_rankings_and_demonstrations_are_indexed_as_they_are(made: Path) -> None:
    run = Run.open(made / "mixed")
    rankings, demonstrations = indexed(run, "rankings"), indexed(run, "demonstrations")
    assert [rankings.facts(row)["answers"] for row in range(6)] == [1, 2, 2, 2, 2, 2]
    assert [rankings.facts(row)["good"] for row in range(2)] == [0, 1]
    assert selected(rankings, "good=0").tolist() == [0]
    origins = [set(demonstrations.facts(row)["labels"]) for row in range(6)]
    assert origins == [{"revision 1"}, {"sample"}, *[{"gold answer"}] * 4]
    assert selected(demonstrations, "from:gold").tolist() == [2, 3, 4, 5]
    view = opened(demonstrations)
    assert [one.step for one in view.revised_from(view.first)] == [1]
    assert view.training.rounds == (0,) and view.training.next == (1, 2)
    ranked = opened(rankings, 1)
    assert [ranked.role(one) for one in ranked.answers.values()] == ["1 good", "2 bad", ""]


def _pairs_of(run: Run, number: int) -> dict[str, Pair]:
    step = run.view(f"rounds/{number:03d}/pairs")
    assert step is not None
    return {row.prompt_id: row for _, rows in step.shards(Pair) for row in rows}


@pytest.fixture
def dropped(tmp_path: Path) -> Run:
    """A run whose only round has four prompts, of which one is learned, and three are left out for known reasons."""
    run = make_run(tmp_path, "dropped", finished=False)
    shutil.rmtree(run.path / "rounds" / "001")
    for name in ("prompts", "candidates", "judgments", "pairs", "policy"):
        shutil.rmtree(run.path / "rounds" / "000" / name)
    prompts = [Prompt.make((Message("user", f"question {i}"),), tags=(f"t{i}",)) for i in range(4)]
    answers = [
        Candidate(f"{p.id}{side}", p.id, "policy", side, 0, "same" if i == 3 else f"answer {side}", (1,), "stop")
        for i, p in enumerate(prompts)
        for side in (0, 1)
    ]
    leads = (0.9, 0.5, 0.53, None)
    judgments = [
        Judgment(f"{p.id}{x}", p.id, f"{p.id}{x}", f"{p.id}{1 - x}", "kind", "hash", "j", "t", "first", abs(x - lead))
        for p, lead in zip(prompts, leads, strict=True)
        for x in (0, 1)
        if lead is not None
    ]
    pairs = [Pair(prompts[0].id, f"{prompts[0].id}0", f"{prompts[0].id}1", 0.9, 0.8)]
    made: dict[str, str] = {}
    with run.lock():
        for name, rows in (("prompts", prompts), ("candidates", answers), ("judgments", judgments), ("pairs", pairs)):
            step = run.step(f"rounds/000/{name}", inputs=made, config={})
            step.write(0, rows)
            step.finish({name: len(rows)})
            made = {**made, step.name: step.digest}
    return run


def test_what_was_left_out_says_why(dropped: Run) -> None:
    index = indexed(dropped, "left out")
    assert [set(index.facts(row)["labels"]) for row in range(3)] == [{"tie"}, {"below_margin"}, {"identical_text"}]
    assert selected(index, "reason:tie").tolist() == [0] and selected(index, "tag:t3").tolist() == [2]
    assert [opened(index, row).prompt.tags for row in range(3)] == [("t1",), ("t2",), ("t3",)]
    assert opened(index, 1).considered == {"below_margin": "the difference is smaller than pairs.min_margin"}
    assert opened(index, 2).considered == {"identical_text": "all candidates have the same text"}
    with pytest.raises(FilterError, match="there are: below_margin, identical_text, tie"):
        selected(index, "reason:vetoed")


def test_a_pair_that_the_settings_of_today_would_make_is_said_to_be_one(dropped: Run) -> None:
    campaign = dropped.path / "campaign.yaml"
    index = indexed(dropped, "left out")
    campaign.write_text(campaign.read_text().replace("min_margin: 0.1", "min_margin: 0.01"))
    again = indexed(dropped, "left out")
    assert set(index.facts(1)["labels"]) == {"below_margin"} and set(again.facts(1)["labels"]) == {"other_settings"}


# The screen -----------------------------------------------------------------------------------------------------------


def shown(pilot: Pilot[None], name: str) -> str:
    """What a part of the opened example says."""
    width = 100
    words = pilot.app.screen.query_one(name, Words)
    lines = pilot.app.console.render_lines(words.content, pilot.app.console.options.update_width(width))
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


def shown_spans(pilot: Pilot[None]) -> list[Any]:
    return list(pilot.app.screen.query_one("#chosen", Words).content.spans)


def rows(pilot: Pilot[None]) -> int:
    return page_of(pilot).query_one(Grid).count


def test_the_list_is_filtered_searched_and_turned_to_other_kinds(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "a")
        page = page_of(pilot)
        assert isinstance(page, Pairs) and "6 demonstrations" in screen_of(pilot)
        await press(pilot, "c")
        assert pilot.app.clipboard.startswith("selfalign demonstrations show ")
        await press(pilot, "t")
        assert "6 rankings" in screen_of(pilot) and "good/bad" in screen_of(pilot)
        await press(pilot, "enter")  # of one answer: what stands beside it is what a policy says
        one = page_of(pilot)
        assert isinstance(one, OnePair) and (one.stop, [stop.name for stop in one.stops]) == (0, ["round 0"])
        await press(pilot, "escape")
        await press(pilot, "t")
        assert "6 pairs" in screen_of(pilot) and "rejected" in screen_of(pilot)
        await press(pilot, "t", "slash")
        await pilot.press(*"prompt 0.3")
        await until(pilot, lambda: page.settled and rows(pilot) == 1)
        assert "1 of 6 demonstrations" in screen_of(pilot) and "0:3" in screen_of(pilot)
        await press(pilot, "escape", "slash")
        await pilot.press(*"nowhere")
        await until(pilot, lambda: page.settled and "Nothing is let through" in screen_of(pilot))
        await press(pilot, "escape", "slash")
        await pilot.press(*"colour:red")
        await until(pilot, lambda: "'colour:red' is no filter" in screen_of(pilot))
        await until(pilot, lambda: "What was typed is no filter" in screen_of(pilot))
        assert "Nothing is let through" not in screen_of(pilot)
        await press(pilot, "escape")
        assert rows(pilot) == 6

    look(made, at, run="mixed")


def test_a_list_begins_on_its_first_row_however_it_is_read(judged: PairIndex) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "s")
        assert page_of(pilot).query_one(Grid).cursor == 0
        await press(pilot, "a")
        assert page_of(pilot).query_one(Grid).cursor == 0  # not on the pair that was read first
        gap = page_of(pilot).query_one(Grid)._gap
        await press(pilot, "slash", *"margin>9", "enter")
        await pilot.resize_terminal(100, 30)
        assert page_of(pilot).query_one(Grid)._gap == gap == 2  # without a scrollbar as with it

    look(judged.run.path.parent, at, run=judged.run.path.name, size=(100, 20))


def test_left_out_is_a_key_away_and_back(dropped: Run) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "o")
        assert "Nothing was left out here" in screen_of(pilot)  # of round 1
        await press(pilot, "a")
        assert "3 prompts left out" in screen_of(pilot) and "below_margin" in screen_of(pilot)
        await press(pilot, "j", "enter")
        assert "Left out: below_margin" in screen_of(pilot) and "pairs.min_margin" in screen_of(pilot)
        assert "All answers to this prompt: 2" in shown(pilot, "#every")
        await press(pilot, "escape", "o", "enter")
        marked = shown_spans(pilot)
        await press(pilot, "d")
        assert len(shown_spans(pilot)) == len(marked) - 1

    look(dropped.path.parent, at, run="dropped")


def test_an_open_pair_has_its_lineage_and_its_answers_by_key(made: Path) -> None:
    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "a", "enter")
        page = page_of(pilot)
        assert isinstance(page, OnePair)
        lineage = shown(pilot, "#lineage")
        for said in ("tags", "2 sampled by policy policy0", "1 chosen, 1 rejected", "2 on all answers", "round 0"):
            assert said in lineage or said == "tags", lineage
        assert "the policy of round 0 was accepted" in lineage and "rounds/000/pairs" in lineage
        for key, part in (("a", "#every"), ("v", "#said"), ("enter", "#every")):
            before = page.query_one(part).display
            await press(pilot, key)
            assert page.query_one(part).display != before
        await press(pilot, "n")
        assert page.position == 1 and "pair 0:1" in screen_of(pilot)
        await press(pilot, "p", "c")
        assert pilot.app.clipboard == f"selfalign pairs show {made / 'sample'} 0:0"
        await press(pilot, "y")
        assert "chosen: answer 0" in pilot.app.clipboard and "rejected:" in pilot.app.clipboard

    look(made, at, run="sample", size=(120, 50))


def test_the_slider_shows_what_each_rounds_policy_says(tmp_path: Path) -> None:
    run = make_run(tmp_path, "slid")
    asked = evaluate(run, ["prompt that no round had", "another"], 2)
    step = run.view("rounds/000/prompts")
    assert step is not None
    prompt = step.read(Prompt, 0)[0]

    async def at(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "a", "enter")
        page = page_of(pilot)
        assert isinstance(page, OnePair)
        assert [stop.name for stop in page.stops] == ["rejected", "base"]
        assert "not asked this prompt: rounds 0, 1" in shown(pilot, "#slider")
        await press(pilot, "right")
        assert page.stop == 1 and "base" in shown(pilot, "#rejected") and "the first of 2" in shown(pilot, "#rejected")
        assert "before round 0 learned this" in shown(pilot, "#rejected")
        await press(pilot, "right")
        assert page.stop == 1
        await press(pilot, "left_square_bracket")
        assert page.stop == 0 and "rejected" in shown(pilot, "#rejected")
        await press(pilot, "right_square_bracket", "left", "left")
        assert page.stop == 0

    look(tmp_path / "runs", at, run="slid")
    _ask_again(run, prompt, asked)

    async def again(pilot: Pilot[None]) -> None:
        await press(pilot, "4", "a", "enter", "right", "right")
        page = page_of(pilot)
        assert isinstance(page, OnePair) and [stop.name for stop in page.stops] == ["rejected", "base", "round 0"]
        assert "what round 0 says now" in shown(pilot, "#rejected")
        assert "after round 0 learned this" in shown(pilot, "#rejected")
        assert "not asked this prompt: round 1" in shown(pilot, "#slider")

    look(tmp_path / "runs", again, run="slid")


def _ask_again(run: Run, prompt: Prompt, asked: list[Prompt]) -> None:
    """Let round 1 draw a prompt of round 0 once more."""
    for name in ("prompts", "candidates", "judgments", "pairs"):
        shutil.rmtree(run.path / "rounds" / "001" / name)
    answer = Candidate("again", prompt.id, "policy1", 0, 0, "what round 0 says now", (1, 2, 3), "stop")
    with run.lock():
        for name, row in (("prompts", prompt), ("candidates", answer)):
            step = run.step(f"rounds/001/{name}", inputs={}, config={})
            step.write(0, [row])
            step.finish({})
