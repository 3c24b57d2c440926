"""A step: shards, counts, manifest, digest, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from selfalign import store
from selfalign.records import Candidate, Prompt
from selfalign.store import Run, StepChanged, StoreError, tables
from tests.crash_child import tree
from tests.store.helpers import prompts


def test_a_step_is_written_shard_by_shard_and_read_back(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={"data": "d1"}, config={"seed": 3})
    assert step.pending(3) == [0, 1, 2] and not step.done
    step.write(2, prompts(1, "c"), {"kept": 1})
    step.write(0, prompts(2, "a"), {"kept": 2, "dropped": 4})
    assert step.pending(3) == [1]
    step.write(1, [])
    step.finish({"seconds": 1.5})
    again = Run.open(run.path).view("rounds/000/prompts")
    assert again is not None and again.done and again.digest == step.digest
    assert again.counts == {"kept": 3, "dropped": 4, "seconds": 1.5}
    assert list(again.shards(Prompt)) == [(0, prompts(2, "a")), (1, []), (2, prompts(1, "c"))]
    assert list(store.read_records(step.path, Prompt)) == [*prompts(2, "a"), *prompts(1, "c")]


def test_a_file_from_before_a_field_existed_is_read_with_its_default() -> None:
    """Rollouts of earlier versions hold no log-probabilities of single tokens."""
    kept = [field for field in fields(Candidate) if field.name != "logprobs"]
    older = make_dataclass("Candidate", [(field.name, get_type_hints(Candidate)[field.name]) for field in kept])
    values = ("c", "p", "policy", 0, 7, "Because.", (1, 2), "stop", -1.5, None)
    data = tables.encode([older(*values)], older, {})
    assert tables.decode(data, Candidate, "here") == [Candidate(*values)]


def test_counts_survive_a_new_process(run: Run) -> None:
    run.step("rounds/000/prompts", inputs={}).write(0, prompts(1), {"kept": 1})
    step = run.step("rounds/000/prompts", inputs={})
    step.write(1, prompts(2), {"kept": 2})
    step.finish({})
    assert step.counts == {"kept": 3}


def test_the_manifest_lists_what_others_wrote_but_not_their_working_folder(run: Run) -> None:
    step = run.step("rounds/000/policy", inputs={})
    (step.path / "adapter").mkdir()
    (step.path / "checkpoint").mkdir()
    (step.path / "checkpoint" / "rng.bin").write_bytes(b"x")
    (step.path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (step.path / ".model.safetensors.tmp").write_bytes(b"stray")
    step.finish({})
    assert list(step.files) == ["adapter/adapter_model.safetensors"]
    manifest = json.loads((step.path / "done.json").read_text())
    assert manifest["files"]["adapter/adapter_model.safetensors"]["size"] == 7
    assert manifest["versions"]["python"].startswith("3.") and "pyarrow" in manifest["versions"]
    (step.path / "checkpoint" / "rng.bin").write_bytes(b"changed")
    assert Run.open(run.path).verify() == []


def test_a_missing_shard_keeps_a_step_open(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={})
    step.write(1, prompts(1))
    with pytest.raises(StoreError, match="shard 0 of 2 is missing"):
        step.finish({})
    assert not (step.path / "done.json").exists()


def test_a_finished_step_takes_nothing_more_and_an_open_one_has_no_digest(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={})
    with pytest.raises(StoreError, match="not finished"):
        _ = step.digest
    step.finish({})
    with pytest.raises(StoreError, match="finished"):
        step.write(0, prompts(1))
    with pytest.raises(StoreError, match="finished already"):
        step.finish({})


def test_the_digest_follows_inputs_configuration_and_contents_alone(tmp_path: Path) -> None:
    def digest(name: str, inputs: dict[str, str], config: object, rows: list[Prompt], counts: dict[str, int]) -> str:
        run = Run.create(tmp_path / name, "name: x\n")
        with run.lock():
            step = run.step("rounds/000/prompts", inputs=inputs, config=config)
            step.write(0, rows)
            step.finish(counts)
        return step.digest

    first = digest("a", {"i": "1"}, {"c": 1}, prompts(2), {"seconds": 1})
    assert digest("b", {"i": "1"}, {"c": 1}, prompts(2), {"seconds": 2}) == first
    others = [
        digest("c", {"i": "2"}, {"c": 1}, prompts(2), {}),
        digest("d", {"i": "1"}, {"c": 2}, prompts(2), {}),
        digest("e", {"i": "1"}, {"c": 1}, prompts(3), {}),
    ]
    assert len({first, *others}) == 4


# Changed settings


@pytest.mark.parametrize("done", [False, True])
def test_changed_inputs_and_configuration_are_refused_naming_both_sides(run: Run, done: bool) -> None:
    before = {"temperature": 1.0, "model": {"name": "a"}}
    step = run.step("rounds/002/candidates", inputs={"policy": "aaa", "prompts": "ppp"}, config=before)
    if done:
        step.finish({})
    state = tree(run.path)
    after = {"temperature": 0.7, "model": {"name": "a"}}
    with pytest.raises(StepChanged) as error:
        run.step("rounds/002/candidates", inputs={"policy": "bbb", "prompts": "ppp"}, config=after)
    message = str(error.value)
    assert "policy: was 'aaa', now 'bbb'" in message and "temperature: was 1.0, now 0.7" in message
    assert "ppp" not in message and "model" not in message
    assert f"selfalign branch {run.path} NEW_NAME --round 1" in message
    assert tree(run.path) == state
    assert run.step("rounds/002/candidates", inputs={"policy": "aaa", "prompts": "ppp"}, config=before).done is done
