"""Gold labels of pairs: who is better by the checkers, under the principles that apply."""

from __future__ import annotations

from selfalign import constitution as constitutions
from selfalign.pocket.pair_labels import pair_labels, score
from selfalign.records import Message, Prompt
from selfalign.resources import find_constitution
from tests.stages.world import candidate

HOUSE = constitutions.load(find_constitution("pocket"))
ASK = Prompt.make((Message("user", "Which color is a banana?"),), tags=("fact",))


def test_the_better_answer_is_named_whichever_comes_first() -> None:
    right, wrong, rude = (
        candidate(ASK, text, i)
        for i, text in enumerate(["The answer is yellow.", "The answer is blue.", "The answer is blue, you idiot."])
    )
    leads = {(a, b): lead for a, b, lead in pair_labels([ASK], [rude, right, wrong], HOUSE)}
    assert all(a < b for a, b in leads) and len(leads) == 3
    assert score(ASK, right.text, HOUSE) > score(ASK, wrong.text, HOUSE) > score(ASK, rude.text, HOUSE)
    for better, worse in ((right, wrong), (right, rude), (wrong, rude)):
        assert leads.get((better.id, worse.id), -leads.get((worse.id, better.id), 0)) == 1


def test_answers_that_follow_the_principles_alike_are_alike_and_the_same_text_stands_once() -> None:
    same = [candidate(ASK, text, i) for i, text in enumerate(["It is yellow.", "It is yellow.", "Yellow it is."])]
    ((a, b, lead),) = pair_labels([ASK], same, HOUSE)
    assert (a, b, lead) == (same[0].id, same[2].id, 0.0)
