"""The transformers engine against one plain forward pass for each sequence."""

from __future__ import annotations

import math

import pytest
import torch

from selfalign.config import EngineSettings
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.transformers import TransformersEngine, _nucleus
from selfalign.records import Message
from tests.engines import checks

LIMIT = 448
SETTINGS = EngineSettings(backend="transformers", dtype="float32", max_model_len=LIMIT, max_num_seqs=16)


@pytest.fixture(scope="module")
def engine(make_model):
    return TransformersEngine(str(make_model(0)), SETTINGS)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_generations_agree_with_the_model(engine, make_model, prompts, temperature):
    checks.check_generations(engine, make_model(0), prompts, temperature)


def test_seeds_decide(engine, prompts):
    checks.check_seeds(engine, prompts)


def test_temperature_zero_and_top_p_take_the_likeliest(engine, prompts):
    greedy = checks.generate(engine, prompts, Sampling(temperature=0.0, max_tokens=5))
    narrow = checks.generate(engine, prompts, Sampling(top_p=1e-6, max_tokens=5))
    assert {i: g.token_ids for i, g in greedy.items()} == {i: g.token_ids for i, g in narrow.items()}


def test_the_first_token_is_drawn_from_the_models_distribution(engine, make_model):
    """2,000 seeds: total variation to the softmax stays within what sampling alone gives."""
    messages, temperature, draws = (Message("user", "one"),), 0.7, 2000
    oracle = checks.Oracle(make_model(0))
    want = (oracle.next(messages) / temperature).softmax(0)
    requests = [GenerateRequest(str(i), messages, i) for i in range(draws)]
    answers = list(engine.generate(requests, Sampling(temperature=temperature, max_tokens=1)))
    seen = torch.bincount(torch.tensor([a.token_ids[0] for a in answers]), minlength=len(want)) / draws
    expected = (want * (1 - want) / draws).sqrt().sum().item() / math.sqrt(2 * math.pi)
    assert (seen - want).abs().sum().item() / 2 < 1.4 * expected


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p():
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]], dtype=torch.float64)
    assert _nucleus(probabilities, 0.5).tolist() == [[0.0, 0.5, 0.0, 0.0]]
    assert _nucleus(probabilities, 0.51).tolist() == [[0.0, 0.5, 0.0, 0.25]]
    assert _nucleus(probabilities, 0.76).tolist() == [[0.0, 0.5, 0.15, 0.25]]


def test_choices_are_the_models_probabilities(engine, make_model, prompts):
    checks.check_choices(engine, make_model(0), prompts)


def test_choices_after_a_prefix_are_the_models_probabilities(engine, make_model, prompts):
    checks.check_prefixes(engine, make_model(0), prompts)


def test_scores_are_the_models_log_probabilities(engine, make_model, prompts):
    checks.check_scores(engine, make_model(0), prompts)


def test_rewards_are_the_trainers(engine, make_model, make_reward_model, prompts):
    rewarding = TransformersEngine(str(make_reward_model(0)), SETTINGS)
    second = make_reward_model(1)
    assert rewarding.accepts(str(second)) and not rewarding.accepts(str(make_model(0)))
    checks.check_reward_reload(rewarding, make_reward_model(0), second, prompts)
    checks.check_no_rewards(engine, prompts)


def test_weights_come_and_go_in_place(engine, make_model, prompts):
    checks.check_reload(engine, make_model(0), make_model(1), prompts)


def test_what_does_not_fit_is_refused(engine, make_model):
    checks.check_refusals(engine, make_model(0, hidden=128), make_model(0, words="other words entirely here now"))


def test_long_prompts_do_not_stop_a_stage(engine):
    checks.check_long_prompts(engine, LIMIT)


def test_requests_are_pulled_lazily(engine, prompts):
    checks.check_laziness(engine, prompts, most=8 * SETTINGS.max_num_seqs)
