"""The scripted engine: the same answers always, and other answers for other seeds, prompts and models."""

from __future__ import annotations

from selfalign.engines.base import ChoiceRequest, GenerateRequest, Sampling, ScoreRequest
from selfalign.engines.scripted import ScriptedEngine
from selfalign.records import Message
from selfalign.stages.judge.replies import answer_schema, read_reply

PROMPT = (Message("user", "What is it?"),)
OTHER = (Message("user", "Who is it?"),)


def texts(engine: ScriptedEngine, messages=PROMPT, seeds=range(5)) -> list[str]:
    return [g.text for g in engine.generate([GenerateRequest(str(s), messages, s) for s in seeds], Sampling())]


def test_answers_depend_on_prompt_seed_and_model_alone():
    engine = ScriptedEngine("first")
    assert texts(engine) == texts(ScriptedEngine("first"))
    assert len(set(texts(engine) + texts(engine, OTHER) + texts(ScriptedEngine("second")))) == 15
    engine.load("second")
    assert texts(engine) == texts(ScriptedEngine("second"))
    assert engine.loaded == ["first", "second"]


def test_texts_are_cut_at_max_tokens_and_scored_alike():
    engine = ScriptedEngine(text=lambda messages, seed: f"{messages[0].content} {seed}")
    whole, cut = (next(engine.generate([GenerateRequest("x", PROMPT, 7)], Sampling(max_tokens=n))) for n in (100, 4))
    assert (whole.text, whole.finish_reason) == ("What is it? 7", "stop")
    assert (cut.text, cut.finish_reason, cut.token_ids) == ("What", "length", tuple(b"What"))
    (score,) = engine.score([ScoreRequest("x", PROMPT, cut.token_ids)])
    assert score.logprobs == cut.logprobs and sum(score.logprobs) == cut.logprob
    assert all(value < 0 for value in score.logprobs)
    (rewarded,) = engine.reward([ScoreRequest("x", PROMPT, cut.token_ids)])
    assert rewarded.reward == cut.logprob


def test_choices_are_weights_normalised_or_none():
    engine = ScriptedEngine(preference=lambda messages, labels: None if "Who" in messages[0].content else [3.0, 1.0])
    asked = [ChoiceRequest("a", PROMPT, ("A", "B")), ChoiceRequest("b", OTHER, ("A", "B"))]
    first, second = engine.choose(asked)
    assert (first.probabilities, first.raw) == ((0.75, 0.25), "A")
    assert (second.probabilities, second.raw) == (None, "no label")


def test_a_schema_is_filled_with_words_that_the_request_spells():
    asked = (Message("user", 'Answer {"id": "12ab", "verdict": "A or B"}'),)
    sampling = Sampling(schema=answer_schema(("A", "B"), 99))
    (answer,) = ScriptedEngine().generate([GenerateRequest("x", asked, 1)], sampling)
    assert read_reply(answer.text, "stop", ("A", "B"), "12ab").verdict in ("A", "B")
