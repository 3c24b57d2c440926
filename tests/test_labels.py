"""Labels survive what kills their writer, and what was taken back stays taken back."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from selfalign import labels
from selfalign.records import Label
from selfalign.store import FileDamaged, StoreError


def label(number: int = 0, preferred: str | None = "left", *, repeat: bool = False, labeller: str = "ann") -> Label:
    left, right = f"a{number}", f"b{number}"
    verdict = "preferred" if preferred in ("left", "right") else preferred
    chosen = {"left": left, "right": right}.get(preferred)
    return Label(labeller, f"p{number}", left, right, verdict, chosen, round=0, stratum="random", repeat=repeat)


def test_what_was_labelled_is_there_again(tmp_path: Path) -> None:
    with labels.opened(tmp_path, "ann") as file:
        file.add(label(0))
        file.add(label(1, "tie"))
        assert file.undo() == label(1, "tie")
        file.add(label(1, "right"))
    assert labels.read(tmp_path) == {"ann": [label(0), label(1, "right")]}
    assert len((tmp_path / "labels/ann.jsonl").read_text().splitlines()) == 4  # nothing was rewritten
    with labels.opened(tmp_path, "ann") as file:  # undo goes on where the last session ended
        file.undo()
        file.undo()
        assert file.undo() is None
    assert labels.read(tmp_path) == {}


def test_a_torn_line_is_left_out_and_ended_by_the_next(tmp_path: Path) -> None:
    with labels.opened(tmp_path, "ann") as file:
        file.add(label(0))
    path = tmp_path / "labels/ann.jsonl"
    path.write_bytes(path.read_bytes() + b'{"labeller": "ann", "pro')
    with labels.opened(tmp_path, "ann") as file:
        assert file.standing == [label(0)]
        file.add(label(1))
    assert labels.read(tmp_path) == {"ann": [label(0), label(1)]}


def _label_for_ever(run: Path) -> None:
    with labels.opened(run, "ann") as file:
        for number in range(100_000):
            file.add(label(number))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_whoever_is_killed_while_labelling_loses_no_label_before(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=_label_for_ever, args=(tmp_path,))
    child.start()
    path = tmp_path / "labels/ann.jsonl"
    while not path.exists() or path.stat().st_size < 5000:
        assert child.is_alive()
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    kept = labels.read(tmp_path)["ann"]
    assert kept == [label(number) for number in range(len(kept))] and len(kept) > 10
    with labels.opened(tmp_path, "ann") as file:  # the lock died with its holder
        file.add(label(len(kept)))


def test_one_person_labels_in_one_place_at_a_time(tmp_path: Path) -> None:
    elsewhere = pytest.raises(StoreError, match="ann is labelling elsewhere")
    with labels.opened(tmp_path, "ann"), labels.opened(tmp_path, "bob"), elsewhere, labels.opened(tmp_path, "ann"):
        pass


def test_a_line_that_is_no_label_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/ann.jsonl").write_text('{"undo": true}\n{"labeller": "ann"}\n')
    with pytest.raises(FileDamaged, match=r"ann\.jsonl:2: is no label"):
        labels.read(tmp_path)


def test_labels_are_written_once(tmp_path: Path) -> None:
    labels.write(tmp_path, "gold", [label(0, labeller="gold")])
    labels.write(tmp_path, "gold", [label(0, labeller="gold")])
    with pytest.raises(StoreError, match="labels of this name already"):
        labels.write(tmp_path, "gold", [label(1, labeller="gold")])
    assert labels.read(tmp_path) == {"gold": [label(0, labeller="gold")]}


def test_what_counts() -> None:
    said = [
        label(0),
        label(1, "skipped"),
        label(2, "both_bad"),
        label(3, "not_applicable"),
        label(0, "right", repeat=True),
    ]
    assert labels.leads(said) == {("a0", "b0"): 1.0, ("a2", "b2"): 0.0}
    assert labels.repeats(said) == ([1.0], [-1.0])


@pytest.mark.parametrize(
    ("left", "verdict", "preferred"), [("b", "tie", None), ("a", "preferred", None), ("a", "tie", "a")]
)
def test_a_label_that_contradicts_itself_is_refused(left: str, verdict: str, preferred: str | None) -> None:
    with pytest.raises(ValueError, match="prompt p"):
        Label("ann", "p", left, "b", verdict, preferred)


def test_a_file_that_was_deleted_while_it_was_open_takes_no_more_labels(tmp_path: Path) -> None:
    with labels.opened(tmp_path, "ann") as file:
        file.add(label(1, "tie"))
        file.path.unlink()
        with pytest.raises(StoreError, match="was deleted"):
            file.add(label(2, "tie"))
        assert len(file.standing) == 1


def test_labels_of_before_there_were_flags_and_comments_are_read(tmp_path: Path) -> None:
    old = {"labeller": "ann", "prompt_id": "p", "left_id": "a", "right_id": "b", "verdict": "tie"}
    path = tmp_path / labels.FOLDER / "ann.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(old) + "\n")
    assert [(one.flagged, one.comment) for one in labels.said_by(tmp_path, "ann")] == [(False, "")]
    assert labels.said_by(tmp_path, "nobody") == []
