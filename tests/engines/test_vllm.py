"""The vLLM engine against plain transformers, on a tiny model of random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from selfalign.config import EngineSettings
from selfalign.engines.base import ChoiceRequest, EngineError, Sampling, ScoreRequest
from selfalign.engines.hardware import has_gpu
from selfalign.stages.judge.replies import answer_schema, read_reply
from tests.engines import checks

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm

LIMIT = 448
SETTINGS = EngineSettings(backend="vllm", dtype="float32", max_model_len=LIMIT, max_num_seqs=16)


@pytest.fixture(scope="module")
def engine(make_model):
    from selfalign.engines.vllm import VllmEngine

    engine = VllmEngine(str(make_model(0)), SETTINGS)
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def _first_weights(engine, make_model):
    engine.load(str(make_model(0)))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_generations_agree_with_the_model(engine, make_model, prompts, temperature):
    checks.check_generations(engine, make_model(0), prompts, temperature)


def test_seeds_decide(engine, prompts):
    checks.check_seeds(engine, prompts)


def test_temperature_zero_and_top_p_take_the_likeliest(engine, prompts):
    greedy = checks.generate(engine, prompts, Sampling(temperature=0.0, max_tokens=5))
    narrow = checks.generate(engine, prompts, Sampling(top_p=1e-6, max_tokens=5))
    assert [greedy[i].token_ids for i in greedy] == [narrow[i].token_ids for i in greedy]


def test_choices_are_the_models_probabilities(engine, make_model, prompts):
    checks.check_choices(engine, make_model(0), prompts)


def test_choices_after_a_prefix_are_the_models_probabilities(engine, make_model, prompts):
    checks.check_prefixes(engine, make_model(0), prompts)


def test_a_model_held_to_a_schema_says_nothing_else(engine, prompts):
    """Random weights ramble; the grammar makes of it, each time, an object that reads as a verdict or is cut off."""
    schema, labels = answer_schema(("A", "B"), 20), ("A", "B")
    answers = checks.generate(engine, prompts, Sampling(max_tokens=200, schema=schema), seeds=2)
    read = {i: read_reply(a.text, a.finish_reason, labels, "0000") for i, a in answers.items()}
    assert {reply.invalid for reply in read.values()} <= {"forged", "truncated", "contradictory"}
    whole = [json.loads(a.text, strict=False) for a in answers.values() if a.finish_reason == "stop"]
    assert len(whole) > len(answers) / 2
    assert {tuple(found) for found in whole} == {("id", "reason", "verdict")}
    assert {found["verdict"] for found in whole} == {"A", "B"}
    greedy = checks.generate(engine, prompts[:4], Sampling(temperature=0.0, max_tokens=200, schema=schema))
    assert all(answer.text.startswith('{"id":"') for answer in greedy.values())


def test_scores_are_the_models_log_probabilities(engine, make_model, prompts):
    checks.check_scores(engine, make_model(0), prompts)


def test_weights_come_and_go_in_place(engine, make_model, prompts):
    checks.check_reload(engine, make_model(0), make_model(1), prompts)


def test_what_does_not_fit_is_refused(engine, make_model):
    checks.check_refusals(engine, make_model(0, hidden=128), make_model(0, words="other words entirely here now"))


def test_long_prompts_do_not_stop_a_stage(engine):
    checks.check_long_prompts(engine, LIMIT)


def test_requests_are_pulled_lazily(engine, prompts):
    checks.check_laziness(engine, prompts, most=4 * SETTINGS.max_num_seqs)


def test_a_stream_left_open_keeps_others_out(engine, make_model, prompts):
    stream = engine.generate(checks.requests(prompts), Sampling(max_tokens=8))
    next(stream)
    with pytest.raises(EngineError, match="requests are in flight"):
        engine.load(str(make_model(1)))
    with pytest.raises(EngineError, match="another stream"):
        next(engine.choose([ChoiceRequest("other", prompts[0], ("A", "B"))]))
    stream.close()
    engine.load(str(make_model(0)))


def test_an_empty_completion_scores_nothing(engine, prompts):
    (score,) = engine.score([ScoreRequest("empty", prompts[0], ())])
    assert score.logprobs == ()


@pytest.mark.skipif(has_gpu(), reason="NCCL opens sockets of its own")
def test_no_socket_listens(engine):
    assert _listening() == set()


def test_a_folder_that_vllm_cannot_serve_is_named(tmp_path, make_model):
    from selfalign.engines.vllm import VllmEngine

    with pytest.raises(EngineError, match=r"no config\.json"):
        VllmEngine(str(tmp_path), SETTINGS)
    for path in make_model(0).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not to be read")
    with pytest.raises(EngineError, match=r"no \*\.safetensors weights"):
        VllmEngine(str(tmp_path), SETTINGS)


def _listening() -> set[str]:
    """Inodes of this process's TCP sockets in state LISTEN."""
    ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_socket(fd)}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in ours}


def _is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False
