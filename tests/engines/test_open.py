"""Which engine is opened, in which environment, and which model folders are taken."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from selfalign import engines
from selfalign.config import EngineSettings
from selfalign.engines import hardware
from selfalign.engines.base import EngineError, softmax
from selfalign.engines.folders import Identity, resolve_model
from selfalign.engines.transformers import TransformersEngine


def test_without_vllm_auto_is_transformers_and_says_so(monkeypatch, make_model):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    settings = EngineSettings(dtype="float32")
    with pytest.warns(UserWarning, match="vLLM is not installed: the transformers engine answers instead"):
        engine = engines.open_engine(str(make_model(0)), settings)
    assert isinstance(engine, TransformersEngine)


def test_the_seam_needs_neither_torch_nor_vllm():
    code = "import sys, selfalign.engines; print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"


def test_the_workers_environment_keeps_what_the_user_has_set(monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    values = engines.worker_environment(EngineSettings())
    assert "OMP_NUM_THREADS" not in values
    assert values["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert values["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in engines.worker_environment(EngineSettings(enforce_eager=False))


def test_threads_leave_a_core_to_the_machine(monkeypatch):
    for cores, threads in ((1, 1), (2, 2), (3, 2), (16, 15)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setattr(hardware, "_cgroup_quota", lambda: None)
        assert hardware.free_cores() == threads
        monkeypatch.setattr(hardware, "_cgroup_quota", lambda: 2.0)
        assert hardware.free_cores() == min(threads, 2)


def test_the_dtype_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda: True)
    assert hardware.compute_dtype("auto") == "bfloat16"
    monkeypatch.setattr(hardware, "has_fast_bf16", lambda: False)
    assert hardware.compute_dtype("auto") == "float32"
    assert hardware.compute_dtype("float16") == "float16"


def test_folders_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(EngineError, match="is not a folder"):
        resolve_model(str(tmp_path / "none"))
    with pytest.raises(EngineError, match=r"no config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(EngineError, match=r"no \*\.safetensors.*can run code"):
        resolve_model(str(tmp_path))


def test_identity_is_shape_and_vocabulary_not_provenance(tmp_path, make_model):
    first = Identity.of(make_model(0))
    for path in make_model(1).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "transformers_version": "0", "dtype": "bfloat16"}))
    assert first.difference(Identity.of(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    assert first.difference(Identity.of(tmp_path)) == "its config.json differs: num_hidden_layers is 3, not 2"
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer, indent=7))  # saved again by another version
    assert first.difference(Identity.of(tmp_path)) is None
    tokenizer["model"]["vocab"]["new"] = len(tokenizer["model"]["vocab"]) + 100
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert first.difference(Identity.of(tmp_path)) == "its tokenizer differs"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match="cannot be read as a tokenizer"):
        first.difference(Identity.of(tmp_path))


def test_settings_are_compared_by_meaning_not_by_spelling(tmp_path, make_model):
    """transformers 5 saves `rope_parameters` where model cards of before have `rope_theta`."""
    for path in make_model(0).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    old = {k: v for k, v in config.items() if k != "rope_parameters"} | {"rope_theta": 10000.0, "rope_scaling": None}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert Identity.of(make_model(0)).difference(Identity.of(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps(old | {"rope_theta": 500.0}))
    assert "rope_parameters" in Identity.of(make_model(0)).difference(Identity.of(tmp_path))


def test_softmax_is_exact_far_from_zero():
    assert softmax([-1000.0, -1000.0]) == (0.5, 0.5)
    assert softmax([-800.0, float("-inf")]) == (1.0, 0.0)
    assert softmax([float("-inf"), float("-inf")]) is None
    assert softmax([float("nan"), 0.0]) is None
    assert softmax([0.0, float("nan")]) is None


def test_an_engine_is_compared_though_the_folder_that_it_was_loaded_from_is_gone(tmp_path, make_model):
    held = shutil.copytree(make_model(0), tmp_path / "held")
    identity = Identity.of(held)
    shutil.rmtree(held)
    assert identity.difference(Identity.of(make_model(0))) is None
