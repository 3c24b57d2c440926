"""Damage to any file and any broken link is named, set aside and mended, and never read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from selfalign import store
from selfalign.records import Candidate, Prompt
from selfalign.store import FileDamaged, Run, StepDamaged, StoreError
from tests.crash_child import tree, work
from tests.store.helpers import flip, prompts


def artifacts(root: Path) -> list[str]:
    return sorted(tree(root))


def test_a_flip_anywhere_in_a_small_file_is_named(finished: Path) -> None:
    run = Run.open(finished)
    for name in ("rounds/000/pairs/done.json", "rounds/000/pairs/step.json", "written.json", "rounds/000/report.json"):
        whole = (finished / name).read_bytes()
        for position in range(0, len(whole), 7):
            flip(finished / name, position)
            assert name in "\n".join(map(str, run.verify())), (name, position)
            (finished / name).write_bytes(whole)


def test_damage_to_any_artifact_is_named(finished: Path) -> None:
    run = Run.open(finished)
    for name in artifacts(finished):
        whole = (finished / name).read_bytes()
        for position in {0, len(whole) // 2, len(whole) - 1}:
            flip(finished / name, position)
            assert name in "\n".join(map(str, run.verify())), (name, position)
            (finished / name).write_bytes(whole)
        (finished / name).write_bytes(whole[:-2])
        assert name in "\n".join(map(str, run.verify())), (name, "truncated")
        (finished / name).unlink()
        if not name.endswith("done.json"):  # without it a step is unfinished, not damaged
            assert name in "\n".join(map(str, run.verify())), (name, "removed")
        (finished / name).write_bytes(whole)
    assert run.verify() == []


def test_a_damaged_step_is_set_aside_and_made_anew(finished: Path) -> None:
    clean = tree(finished)
    for name in [name for name in artifacts(finished) if len(Path(name).parts) > 3]:
        flip(finished / name, 1)
        with pytest.raises(StepDamaged) as error:
            work(finished)
        assert Path(name).name in str(error.value) and "quarantine" in str(error.value)
        assert "Run the same command again" in str(error.value)
        work(finished)
        assert tree(finished) == clean, name


def test_only_the_damaged_shard_is_made_again(finished: Path) -> None:
    folder = finished / "rounds/000/candidates"
    flip(folder / "part-00001.parquet", 40)
    run = Run.open(finished)
    with run.lock():
        with pytest.raises(StepDamaged):
            begin_candidates(run)
        step = begin_candidates(run)
        assert not step.done and step.pending(2) == [1]
    assert (finished / "quarantine/0001/rounds/000/candidates/part-00001.parquet").is_file()


def begin_candidates(run: Run) -> store.Step:
    prompts = run.view("rounds/000/prompts")
    assert prompts is not None
    return run.step("rounds/000/candidates", inputs={prompts.name: prompts.digest, "policy": "base"})


def test_a_damaged_shard_of_an_unfinished_step_is_seen(run: Run) -> None:
    step = run.step("rounds/000/prompts", inputs={})
    step.write(0, prompts(50))
    path = step.path / "part-00000.parquet"
    flip(path, path.read_bytes().rfind(b"selfalign.counts"))  # where Parquet itself would not notice
    assert [problem.path for problem in run.verify()] == ["rounds/000/prompts/part-00000.parquet"]
    with pytest.raises(StepDamaged, match="part-00000"):
        step.read(Prompt, 0)
    assert run.step("rounds/000/prompts", inputs={}).pending(1) == [0]


def test_damage_since_a_crash_is_never_vouched_for(run: Run) -> None:
    run.step("rounds/000/prompts", inputs={}).write(0, prompts(50))
    path = run.path / "rounds/000/prompts/part-00000.parquet"
    flip(path, path.stat().st_size // 3)
    step = run.step("rounds/000/prompts", inputs={})
    with pytest.raises(StepDamaged, match="part-00000"):
        step.finish({})
    assert not path.exists() and not (step.path / "done.json").exists()


def test_a_reader_meets_damage_and_changes_nothing(finished: Path) -> None:
    flip(finished / "rounds/000/candidates/part-00000.parquet", 40)
    before = tree(finished)
    step = Run.open(finished).view("rounds/000/candidates")
    assert step is not None
    with pytest.raises(StepDamaged, match="part-00000"):
        step.read(Candidate, 0)
    with pytest.raises(FileDamaged, match="part-00000"):
        list(store.read_records(step.path, Candidate))
    assert tree(finished) == before


def test_a_whole_shard_in_the_place_of_another_is_refused(finished: Path) -> None:
    folder = finished / "rounds/000/candidates"
    shutil.copyfile(folder / "part-00000.parquet", folder / "part-00001.parquet")
    step = Run.open(finished).view("rounds/000/candidates")
    assert step is not None and len(step.read(Candidate, 0)) == 6
    with pytest.raises(StepDamaged, match=r"part-00001\.parquet: SHA-256 does not match"):
        step.read(Candidate, 1)


def test_a_foreign_file_in_a_finished_step_is_refused(finished: Path) -> None:
    (finished / "rounds/001/pairs/part-00002.parquet").write_bytes(b"poison")
    assert [problem.path for problem in Run.open(finished).verify()] == ["rounds/001/pairs/part-00002.parquet"]
    with pytest.raises(StepDamaged, match=r"part-00002\.parquet: not listed"):
        work(finished)


def test_a_document_changed_behind_the_runs_back_is_refused(run: Run) -> None:
    run.write_json("rounds/000/report.json", {"win_rate": 0.4})
    assert run.read_json("rounds/000/report.json") == {"win_rate": 0.4}
    run.write_json("rounds/000/report.json", {"win_rate": 0.5})
    assert run.read_json("rounds/000/report.json") == {"win_rate": 0.5}
    (run.path / "rounds/000/report.json").write_text('{"win_rate": 0.9}')
    with pytest.raises(StoreError, match=r"report\.json was changed"):
        run.read_json("rounds/000/report.json")


# Lineage


def test_a_step_of_another_round_in_the_place_of_one_is_named(finished: Path) -> None:
    shutil.rmtree(finished / "rounds/000/policy")
    shutil.copytree(finished / "rounds/001/policy", finished / "rounds/000/policy")
    problems = "\n".join(map(str, Run.open(finished).verify()))
    assert "rounds/000/policy/done.json: belongs to step 'rounds/001/policy'" in problems


def test_a_replayed_step_breaks_the_first_link_after_it(finished: Path, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "other", "name: other\n")
    with other.lock():
        step = other.step("rounds/000/prompts", inputs={"data": "0" * 20}, config={"seed": 1})
        step.write(0, prompts(3, "other"))
        step.finish({})
    shutil.rmtree(finished / "rounds/000/prompts")
    shutil.copytree(step.path, finished / "rounds/000/prompts")
    problems = Run.open(finished).verify()
    assert [problem.path for problem in problems] == ["rounds/000/candidates"]
    assert "broken link: made from rounds/000/prompts" in problems[0].what


def test_a_missing_policy_breaks_the_link_whatever_its_input_is_called(finished: Path) -> None:
    shutil.rmtree(finished / "rounds/000/policy")
    problems = [str(problem) for problem in Run.open(finished).verify()]
    assert len(problems) == 1 and "rounds/001/candidates: broken link: made from policy" in problems[0]
