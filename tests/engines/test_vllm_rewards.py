"""Reward models in vLLM's pooling runner against the trainer's own scorer, on a tiny model of random weights."""

from __future__ import annotations

import pytest

from selfalign.config import EngineSettings
from tests.engines import checks

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SETTINGS = EngineSettings(backend="vllm", dtype="float32", max_model_len=448, max_num_seqs=16)


def test_rewards_are_the_trainers(make_model, make_reward_model, prompts):
    from selfalign.engines.vllm import VllmEngine

    first, second = make_reward_model(0), make_reward_model(1)
    engine = VllmEngine(str(first), SETTINGS)
    try:
        assert engine.accepts(str(second)) and not engine.accepts(str(make_model(0)))
        checks.check_reward_reload(engine, first, second, prompts)
    finally:
        engine.close()
