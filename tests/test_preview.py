"""What an edit would change: asked of the run's own judge, on stored pairs, beside what chance changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import constitution as constitutions
from selfalign.campaign import run_campaign
from selfalign.constitution import AppliesWhen, Constitution, Principle
from selfalign.engines.base import Choice, ChoiceRequest
from selfalign.preview import PreviewError, _flip, preview
from selfalign.records import derived_seed
from selfalign.stages.judge.cache import FILE
from tests.scripted import RESPONSE, RESPONSES, KindEngine, ScriptedWorkers, start, write_campaign

RULES = """\
schema: selfalign.constitution/v1
name: kindness
version: 1.0.0
principles:
  - {id: kind, compare: Choose the kinder response., text: Be kind.}
  - {id: whim, compare: Choose by a whim., text: Follow a whim.}
  - {id: even, compare: Choose the response with the smaller number., text: Name a small number.}
"""
RUDE = "Choose the ruder response."


class Reader(KindEngine):
    """Reads the principle: prefers the kinder or the ruder answer, or by a whim that hangs on every mark it sees."""

    def choose(self, requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
        for request in requests:
            asked = request.messages[-1].content
            if len(request.labels) > 2:
                good = self._worth(RESPONSE.search(asked).group(1), asked)
                yield Choice(request.id, (0.5 - good / 2, 0.0, 0.0, 0.0, 0.5 + good / 2), "", 5, 0.0)
                continue
            first, second = RESPONSES.search(asked).groups()
            p = 0.5 + 0.4 * (self._worth(first, asked) - self._worth(second, asked)) / 2
            yield Choice(request.id, (p, 1 - p), "", 5, 0.0)

    def _worth(self, answer: str, asked: str) -> float:
        principle = asked.rpartition(" end>\n")[2].lower()
        if "whim" in principle:
            return derived_seed(answer, asked.partition(" conversation>")[0]) / 2**31
        if "number" in principle:
            return -int(answer.rpartition(" ")[2]) / 50
        return answer.startswith("kind") * (-1.0 if "ruder" in principle or "rude." in principle else 1.0)


class Workers(ScriptedWorkers):
    """`asked` holds the words that went to the judge."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def engine(self, model: str, *, trust_remote_code: bool = False) -> Reader:
        super().engine(model)
        reader = Reader(model)
        choose = reader.choose

        def noted(requests: Iterable[ChoiceRequest]) -> Iterator[Choice]:
            for request in requests:
                self.asked.append(request.messages[-1].content)
                yield from choose([request])

        reader.choose = noted
        return reader


def campaign(folder: Path, **settings):
    settings = write_campaign(folder, rounds=1, judge__principles="all", **settings)
    (folder / "constitution.yaml").write_text(RULES)
    work = start(folder, settings, Workers())
    with work.run.lock():
        run_campaign(work)
    return work.run, settings, constitutions.load(folder / "constitution.yaml")


@pytest.fixture(scope="module", params=["pairwise-logprob", "pointwise-logprob"])
def world(request, tmp_path_factory):
    return campaign(tmp_path_factory.mktemp("preview"), judge__method=request.param)


def edited(rules: Constitution, name: str, **fields) -> Constitution:
    principles = tuple(replace(p, **fields) if p.id == name else p for p in rules.principles)
    return replace(rules, version="1.1.0", principles=principles)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_principle_turned_round_flips_its_pairs_and_no_others(world):
    run, settings, rules = world
    before = files(run.path)
    workers = Workers()
    found = preview(run, settings, edited(rules, "kind", compare=RUDE, text="Be rude."), workers, pairs=40)
    (group,) = found.principles
    decided = [case for case in found.cases if case.before.verdict != "tie"]
    assert (group.name, group.beyond_noise, len(found.cases)) == ("kind", True, 40)
    assert decided and all(case.flip == "reversed" for case in decided)
    assert not any(case.flip for case in found.cases if case.before.verdict == "tie")
    assert group.kinds == {"reversed": len(decided)} and group.noise.count == 0
    assert set(found.unchanged) == {"whim", "even"} and min(found.unchanged.values()) > 20
    assert files(run.path) == before, "a preview writes nothing into the run"
    assert all("kinder" in asked or "ruder" in asked or "Be " in asked for asked in workers.asked)


def test_the_words_of_the_run_are_not_asked_again_but_for_noise_and_nothing_is_asked_twice(world):
    run, settings, rules = world
    change, workers = edited(rules, "even", compare="The smaller number?", text="A small number."), Workers()
    first = preview(run, settings, change, workers, pairs=30)
    assert first.cost.asked == len(workers.asked) == len(set(workers.asked))
    once_more, again = preview(run, settings, change, nobody := Workers(), pairs=30), first
    assert nobody.asked == [] and nobody.served == [], "no engine is started for what is known"
    assert once_more.cases == again.cases
    assert once_more.cost.asked == 0 and once_more.cost.known == first.cost.asked + first.cost.known
    (group,) = first.principles
    assert (group.flips.count, group.noise.count, group.beyond_noise) == (0, 0, False)


def test_a_judge_that_follows_a_whim_is_not_said_to_follow_the_edit(world):
    run, settings, rules = world
    found = preview(run, settings, edited(rules, "whim", compare="Choose by whim!", text="Whim."), Workers(), pairs=200)
    (group,) = found.principles
    assert group.noise.count > 10
    assert not group.beyond_noise


def test_an_added_principle_stands_against_the_verdicts_so_far(world):
    run, settings, rules = world
    rude = Principle(id="rude", compare=RUDE, text="Be rude.")
    found = preview(run, settings, replace(rules, principles=(*rules.principles, rude)), Workers(), pairs=50)
    (group,) = found.added
    assert found.principles == () and group.name == "rude" and group.flips.count > 0
    assert all(case.again is None for case in found.cases)


def test_a_narrower_scope_leaves_pairs_unasked(world):
    run, settings, rules = world
    scoped = edited(rules, "kind", applies_when=AppliesWhen(prompt_tags=("nowhere",)))
    found = preview(run, settings, scoped, workers := Workers(), pairs=10)
    assert {case.flip for case in found.cases} == {"not asked"}
    assert workers.asked == []


def test_the_sample_is_drawn_evenly_and_by_its_seed(world):
    run, settings, rules = world
    both = edited(edited(rules, "kind", compare=RUDE, text="Be rude."), "even", compare="The lesser?", text="Less.")
    one, same, other = (preview(run, settings, both, Workers(), pairs=21, seed=seed) for seed in (1, 1, 2))

    def drawn(found):
        return [(case.principle, case.first.id, case.second.id) for case in found.cases]

    assert drawn(one) == drawn(same) != drawn(other)
    assert sorted(group.flips.n for group in one.principles) == [10, 11]


def test_weights_and_titles_ask_nothing(world):
    run, settings, rules = world
    found = preview(run, settings, edited(rules, "kind", weight=3.0, title="Kindness"), workers := Workers())
    assert (found.cases, found.cost.asked, workers.served) == ((), 0, [])
    assert {change.kind for change in found.change.changes} == {"reweighted", "annotated"}


def test_a_run_that_cannot_be_written_beside_is_previewed_all_the_same(tmp_path):
    run, settings, rules = campaign(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    told: list[str] = []
    change = edited(rules, "kind", compare=RUDE)
    found = preview(run, settings, change, Workers(), pairs=10, tell=told.append)
    assert len(found.cases) == 10 and len(told) == 1


def test_what_cannot_be_previewed_says_why(tmp_path):
    run, settings, rules = campaign(tmp_path)
    with pytest.raises(PreviewError, match=r"round 7 .* finished judgments: 0"):
        preview(run, settings, rules, Workers(), round=7)
    (tmp_path / "base" / "config.json").write_text('{"skill": 0.5}')
    with pytest.raises(PreviewError, match="not the one that it was"):
        preview(run, settings, edited(rules, "kind", compare=RUDE), Workers())


@pytest.mark.parametrize(
    ("before", "after", "flip"),
    [
        ("first", "first", None), ("first", "second", "reversed"), ("second", "tie", "to tie"),
        ("tie", "first", "from tie"), ("tie", "invalid", "to invalid"), ("invalid", "tie", "from invalid"),
        ("tie", "not asked", "not asked"),
    ],
)  # fmt: skip
def test_flips_have_names(before, after, flip):
    assert _flip(before, after) == flip
