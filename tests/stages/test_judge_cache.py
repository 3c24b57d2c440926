"""What judges have answered before: found by its content, never wrong, never lost, and never a campaign's end."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.config import Judge
from selfalign.constitution import Constitution, Principle
from selfalign.engines.base import ChoiceRequest
from selfalign.engines.scripted import ScriptedEngine
from selfalign.records import Message
from selfalign.stages.judge import judge
from selfalign.stages.judge.cache import FILE, RememberingJudge
from tests.stages.world import FakeEngine, candidate, prompt

WARM = Principle(id="warm", compare="Choose the warmer response.", text="Be warm.")
BRIEF = Principle(id="brief", compare="Choose the briefer response.", text="Be brief.")
HOUSE = Constitution(name="house", version="1", principles=(WARM, BRIEF))
ASKS = [prompt(f"Question {i}?") for i in range(6)]
ANSWERS = [candidate(ask, f"answer {i} to {ask.id}", i) for ask in ASKS for i in range(3)]


class Remembered:
    """A judge that remembers in a folder; `engine` tells what it was asked."""

    def __init__(self, folder: Path, *, identity: str = "j", choose=None, window: int = 4) -> None:
        scripted = ScriptedEngine("model")

        def by_content(request: ChoiceRequest) -> tuple[float, ...] | None:
            return next(scripted.choose([request])).probabilities

        self.engine = FakeEngine(choose=choose or by_content, window=window)
        self.told: list[str] = []
        self.opened = 0
        self.engine_or_memory = RememberingJudge(self._open, folder / FILE, [identity], self.told.append)

    def _open(self) -> FakeEngine:
        self.opened += 1
        return self.engine

    def judge(self, constitution: Constitution = HOUSE, **settings):
        shards = [(i, [ask], [c for c in ANSWERS if c.prompt_id == ask.id]) for i, ask in enumerate(ASKS)]
        stage = judge(
            shards, self.engine_or_memory, constitution, Judge(principles="all", **settings), judge_id="j", seed=3
        )
        return [judgment for _, judgments in sorted(stage) for judgment in judgments]

    def choose(self, texts: list[str]):
        asked = [ChoiceRequest(str(i), (Message("user", text),), ("A", "B")) for i, text in enumerate(texts)]
        return list(self.engine_or_memory.choose(asked))


def timeless(judgments):
    return [replace(judgment, seconds=0.0) for judgment in judgments]


@pytest.mark.parametrize("settings", [{}, {"method": "pointwise-logprob"}, {"comparisons": "active", "budget": 2}])
def test_verdicts_from_the_file_are_those_of_the_judge_field_by_field(tmp_path, settings):
    first, again = Remembered(tmp_path), Remembered(tmp_path)
    asked = first.judge(**settings)
    assert timeless(again.judge(**settings)) == timeless(asked)
    assert len(first.engine.asked) == len(asked)
    assert (again.engine.asked, again.opened) == ([], 0), "an engine that is not asked is not even opened"
    assert again.engine_or_memory.known == len(asked)


def test_an_edited_principle_alone_is_asked_anew(tmp_path):
    before = Remembered(tmp_path).judge()
    louder = replace(WARM, compare="Choose the much warmer response.")
    edited = Remembered(tmp_path)
    after = edited.judge(replace(HOUSE, principles=(louder, BRIEF)))
    assert len(edited.engine.asked) == len(after) / 2
    assert all("much warmer" in request.messages[0].content for request in edited.engine.asked)
    kept = [[j for j in said if j.principle_id == "brief"] for said in (before, after)]
    assert timeless(kept[0]) == timeless(kept[1])


def test_another_tie_margin_asks_nothing(tmp_path):
    Remembered(tmp_path).judge()
    again = Remembered(tmp_path)
    assert [j.verdict for j in again.judge(tie_margin=0.45)].count("tie") > 60
    assert again.engine.asked == []


@pytest.mark.parametrize("change", [{"identity": "another judge"}, {"labels_pairwise": ("X", "Y")}])
def test_another_judge_and_other_labels_are_other_questions(tmp_path, change):
    asked = Remembered(tmp_path).judge()
    settings = {key: value for key, value in change.items() if key != "identity"}
    other = Remembered(tmp_path, identity=change.get("identity", "j"))
    other.judge(**settings)
    assert len(other.engine.asked) == len(asked)


def test_the_order_of_two_texts_is_part_of_the_question(tmp_path):
    Remembered(tmp_path).judge(both_orders=False)
    both = Remembered(tmp_path)
    asked = both.judge(both_orders=True)
    assert len(both.engine.asked) == len(asked) / 2


def test_invalid_answers_are_asked_again(tmp_path):
    assert {j.verdict for j in Remembered(tmp_path, choose=lambda _: None).judge()} == {"invalid"}
    again = Remembered(tmp_path)
    assert "invalid" not in {j.verdict for j in again.judge()}


def test_known_and_unknown_questions_may_come_in_any_mixture(tmp_path):
    texts = [f"question {i}" for i in range(20_000)]
    first = Remembered(tmp_path, window=256)
    first.choose([text for i, text in enumerate(texts) if i % 7 or 3000 < i < 15_000])
    mixed = Remembered(tmp_path, window=256)
    found = mixed.choose(texts)
    alone = Remembered(tmp_path / "nowhere", window=256)
    assert sorted(c.id for c in found) == sorted(str(i) for i in range(len(texts)))
    fresh = {c.id: c.probabilities for c in alone.choose(texts)}
    assert {c.id: c.probabilities for c in found} == fresh
    assert 0 < len(mixed.engine.asked) < 1500


def test_a_stream_that_is_closed_closes_the_engines_and_keeps_what_came(tmp_path):
    first = Remembered(tmp_path, window=1)
    texts = [ChoiceRequest(str(i), (Message("user", f"q {i}"),), ("A", "B")) for i in range(10)]
    stream = first.engine_or_memory.choose(texts)
    next(stream), next(stream)
    stream.close()
    assert first.engine.closed
    again = Remembered(tmp_path)
    list(again.engine_or_memory.choose(texts))
    assert len(again.engine.asked) == 8


def test_only_the_owner_may_read_it(tmp_path):
    Remembered(tmp_path).choose(["secret"])
    assert {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {FILE: 0}


@pytest.mark.parametrize("damage", ["text", "foreign", "cut", "newer"])
def test_what_is_no_file_of_ours_is_set_aside_with_a_message(tmp_path, damage):
    path = tmp_path / FILE
    if damage == "text":
        path.write_text("not a database, and long enough to be sure of it " * 10)
    elif damage == "foreign":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE answers (mine)")
    else:
        Remembered(tmp_path).choose([f"question {i}" for i in range(500)])
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:5000])
        else:
            with sqlite3.connect(path) as database:
                database.execute("PRAGMA user_version = 99")
    held = path.read_bytes()
    judging = Remembered(tmp_path)
    assert len(judging.choose([f"question {i}" for i in range(500)])) == 500
    (aside,) = tmp_path.glob(f"{FILE}.damaged-1")
    assert aside.read_bytes() == held
    assert len(judging.told) == 1 and aside.name in judging.told[0]
    Remembered(tmp_path).choose(["question 0"])  # a file that broke while it was in use is made anew at the next call
    healthy = Remembered(tmp_path)
    healthy.choose(["question 0"])
    assert (healthy.told, healthy.engine.asked) == ([], [])


def test_a_flipped_bit_is_a_question_asked_again(tmp_path):
    Remembered(tmp_path).choose(["question"])
    with sqlite3.connect(tmp_path / FILE) as database:
        ((value,),) = database.execute("SELECT value FROM answers")
        database.execute("UPDATE answers SET value = ?", (value[:-1] + bytes([value[-1] ^ 1]),))
    again, never = Remembered(tmp_path), Remembered(tmp_path / "nowhere")
    assert again.choose(["question"])[0].probabilities == never.choose(["question"])[0].probabilities
    assert len(again.engine.asked) == 1


@pytest.mark.parametrize("place", ["link", "folder", "missing"])
def test_where_no_file_can_be_the_judge_is_asked_as_ever(tmp_path, place):
    if place == "link":
        (tmp_path / "elsewhere").touch()
        (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    elif place == "folder":
        (tmp_path / FILE).mkdir()
    judging = Remembered(tmp_path if place != "missing" else tmp_path / "gone")
    assert len(judging.choose(["a", "b"])) == len(judging.engine.asked) == 2
    judging.choose(["a"])
    assert len(judging.told) == 1, "told once"
    if place == "link":
        assert (tmp_path / "elsewhere").read_bytes() == b""


def test_campaigns_beside_one_another_share_it(tmp_path):
    def judged(number: int):
        texts = [f"question {i}" for i in range(number * 100, number * 100 + 400)]
        mine = Remembered(tmp_path, window=16)
        return mine.told, {c.id: c.probabilities for c in mine.choose(texts)}

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(judged, range(6)))
    assert [told for told, _ in results] == [[]] * 6
    assert {len(found) for _, found in results} == {400}
    again = Remembered(tmp_path)
    again.choose([f"question {i}" for i in range(900)])
    assert again.engine.asked == []


CHILD = """
import sys, time
from pathlib import Path
from tests.stages.test_judge_cache import Remembered
def slow(request):
    time.sleep(0.002)
    print(request.messages[0].content, flush=True)
    return (0.25, 0.75)
Remembered(Path(sys.argv[1]), choose=slow, window=1).choose([f"question {i}" for i in range(100_000)])
"""


def test_a_crash_repeats_nothing_that_is_a_second_old(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    answered, until = [], time.monotonic() + 60
    while len(answered) < 200 and time.monotonic() < until:
        answered.append(child.stdout.readline().strip())
    time.sleep(1.5)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    again = Remembered(tmp_path)
    assert {c.probabilities for c in again.choose(answered)} == {(0.25, 0.75)}
    assert (again.told, again.engine.asked) == ([], [])
