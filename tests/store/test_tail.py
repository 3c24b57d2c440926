"""Following a file that another process writes."""

from __future__ import annotations

from pathlib import Path

from selfalign.store.tail import CHUNK, Tail


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b"one\r\ntwo\nthr")
    assert list(tail.lines()) == [b"one", b"two"]
    assert list(tail.lines()) == []
    with path.open("ab") as file:
        file.write(b"ee\n")
    assert list(tail.lines()) == [b"three"]


def test_a_shorter_file_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)
    assert len(list(tail.lines())) == 2
    path.write_bytes(b"new\n")
    assert list(tail.lines()) == [b"new"]
    assert tail.restarts == 1


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (2 * CHUNK + 10))
    assert [len(line) for line in Tail(path).lines()] == [CHUNK, CHUNK]


def test_events_are_the_objects_among_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event":"a"}\n{"event":"to\n[1]\n{"x":NaN}\n{"event":"b"}\n{"event":"c"')
    assert [event["event"] for event in Tail(path).events()] == ["a", "b"]
