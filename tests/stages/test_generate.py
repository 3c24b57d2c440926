"""The generate stage: seeds, order, marks."""

from __future__ import annotations

from selfalign.config import Generate
from selfalign.engines.base import GenerateRequest, Generation
from selfalign.records import Prompt, derived_seed
from selfalign.stages.generate import count_candidates, generate
from tests.stages.world import FakeEngine, prompt

PROMPTS = [prompt(f"Question {i}?") for i in range(6)]
SHARDS = [(0, PROMPTS[:2]), (3, PROMPTS[2:4]), (4, PROMPTS[4:])]


def by_seed(request: GenerateRequest) -> Generation:
    """An answer that depends on the conversation and the seed alone."""
    text = f"{request.messages[-1].content} {request.seed}"
    return Generation(request.id, text, (1, 2, request.seed % 7), "stop", -float(request.seed % 5), 4)


def run(engine: FakeEngine, shards=SHARDS, samples: int = 3) -> dict[int, list]:
    return dict(generate(shards, engine, Generate(samples=samples), policy_id="p0", seed=17))


def test_candidates_are_ordered_by_prompt_and_sample_whatever_the_engine_does():
    for window in (1, 5, 100):
        shards = run(FakeEngine(generate=by_seed, window=window))
        for index, prompts in SHARDS:
            order = [(candidate.prompt_id, candidate.sample_index) for candidate in shards[index]]
            assert order == [(p.id, i) for p in prompts for i in range(3)]


def test_seeds_depend_on_seed_prompt_and_sample_alone():
    shards = run(FakeEngine(generate=by_seed))
    alone = run(FakeEngine(generate=by_seed, window=9), [(7, [PROMPTS[3]])])
    assert alone[7] == shards[3][3:]
    first = shards[0][0]
    assert first.seed == derived_seed(17, PROMPTS[0].id, 0)
    assert first.text == f"Question 0? {first.seed}"
    assert len({candidate.seed for shard in shards.values() for candidate in shard}) == 18


def test_what_the_engine_says_of_an_answer_is_kept():
    shards = run(FakeEngine(generate=by_seed))
    for candidate in shards[0]:
        assert candidate.policy_id == "p0"
        assert candidate.token_ids == (1, 2, candidate.seed % 7)
        assert candidate.logprob == -float(candidate.seed % 5)
        assert candidate.duplicate_of is None


def test_log_probabilities_of_single_tokens_are_kept_where_asked_for():
    def answer(request: GenerateRequest) -> Generation:
        failed = request.seed % 2 == 0
        return Generation(request.id, "Yes.", (5, 6), "error" if failed else "stop", -3.0, 3, (-1.0, -2.0))

    engine, settings = FakeEngine(generate=answer), Generate(samples=8)
    plain, rollouts = (
        dict(generate(SHARDS[:1], engine, settings, policy_id="p0", seed=17, logprobs=True, by_token=by_token))[0]
        for by_token in (False, True)
    )
    assert {c.logprobs for c in plain} == {()} and {c.logprob for c in plain} == {-3.0, None}
    assert all(c.logprobs == (() if c.finish_reason == "error" else (-1.0, -2.0)) for c in rollouts)


def test_duplicates_truncations_errors_and_empty_answers_are_marked_and_counted():
    script = [("same", "stop"), ("same", "length"), ("half", "error"), ("other", "stop"), ("", "stop")]
    answers = {derived_seed(17, PROMPTS[0].id, i): said for i, said in enumerate(script)}

    def answer(request: GenerateRequest) -> Generation:
        text, reason = answers[request.seed]
        return Generation(request.id, text, (5,), reason, -1.0, 3)

    (candidates,) = run(FakeEngine(generate=answer), [(0, PROMPTS[:1])], samples=5).values()
    assert [c.duplicate_of for c in candidates] == [None, candidates[0].id, None, None, None]
    failed = candidates[2]
    assert (failed.text, failed.token_ids, failed.finish_reason, failed.logprob) == ("", (), "error", None)
    assert count_candidates(candidates) == {"candidates": 5, "duplicate": 1, "truncated": 1, "error": 1, "empty": 1}


def test_the_same_text_for_another_prompt_is_no_duplicate():
    def answer(request: GenerateRequest) -> Generation:
        return Generation(request.id, "Yes.", (5,), "stop", -1.0, 3)

    (candidates,) = run(FakeEngine(generate=answer), [(0, PROMPTS[:2])]).values()
    assert [c.duplicate_of is None for c in candidates] == [True, False, False, True, False, False]


def test_prompts_are_read_as_the_engine_needs_them():
    read: list[int] = []

    def shards():
        for index, prompts in SHARDS:
            read.append(index)
            yield index, prompts

    stream = generate(shards(), FakeEngine(generate=by_seed), Generate(samples=2), policy_id="p", seed=1)
    index, candidates = next(stream)
    assert (index, len(candidates), read) == (0, 4, [0])


def test_an_empty_shard_has_no_candidates():
    empty: list[Prompt] = []
    assert run(FakeEngine(generate=by_seed), [(0, empty), (1, PROMPTS[:1]), (2, empty)]).keys() == {0, 1, 2}
