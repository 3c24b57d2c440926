"""Prompts: what is read and refused, that training and held-out stay apart, and each round's share."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pyarrow import parquet

from selfalign import resources
from selfalign.records import Message, Prompt
from selfalign.stages import prompts
from selfalign.stages.prompts import PromptError


def write(folder: Path, *rows: object, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def refused(path: Path | str, split: str = "train") -> PromptError:
    with pytest.raises(PromptError) as caught:
        prompts.load(str(path), split)
    return caught.value


def some(count: int) -> list[Prompt]:
    return [Prompt.make((Message("user", f"prompt {n}"),)) for n in range(count)]


def test_rows_become_prompts(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    path = write(
        tmp_path,
        {"prompt": "One?", "tags": ["fact"]},
        {"messages": chat, "id": 7, "source": "web"},
        "",
        {"prompt": "🙂"},
    )
    first, second, third = prompts.load(str(path), "train")
    assert first == Prompt.make((Message("user", "One?"),), source="set", tags=("fact",))
    assert second.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert second.source == "web#7"
    assert third.messages[0].content == "🙂"


def test_a_row_of_another_split_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a", "split": "train"}, {"prompt": "b", "split": "heldout"}, {"prompt": "c"})
    assert [p.messages[0].content for p in prompts.load(str(path), "heldout")] == ["b", "c"]
    assert {p.split for p in prompts.load(str(path), "heldout")} == {"heldout"}
    assert (
        "holds no prompt of the split 'redteam'"
        in refused(write(tmp_path, {"prompt": "a", "split": "x"}), "redteam").message
    )


def test_globs_lists_and_folders(tmp_path: Path) -> None:
    write(tmp_path, {"prompt": "b"}, name="b.jsonl")
    write(tmp_path, {"prompt": "a"}, name="a.jsonl")
    write(tmp_path, {"prompt": "c"}, name="c.txt")
    assert len(prompts.load("*.jsonl", "train", folder=tmp_path)) == 2
    loaded = prompts.load([str(tmp_path / "b.jsonl"), str(tmp_path / "a.jsonl")], "train")
    assert [p.messages[0].content for p in loaded] == ["b", "a"]
    assert "matches no file" in refused(tmp_path / "none*.jsonl").message
    assert "is neither .jsonl nor .parquet" in refused(tmp_path / "c.txt").message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "a", "prompt": "b"}', "has the key 'prompt' twice"),
        ('{"prompt": NaN}', "holds NaN"),
        ('{"prompt": "a", "n": 1e999}', "holds 1e999"),
        ('{"prompt": "a", "n": -Infinity}', "holds -Infinity"),
        ('{"prompt": "a", "n": ' + "9" * 5000 + "}", "holds a number of 5000 digits"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"prompt": "a"', "is not valid JSON at character"),
        ('{"prompt": "a"} {"prompt": "b"}', "is not valid JSON at character 17"),
        ('"a"', "is not a JSON object"),
        ("{}", "needs either prompt or messages"),
        ('{"prompt": "a", "messages": []}', "needs either prompt or messages"),
        ('{"prompt": ""}', "has a user message without text"),
        ('{"prompt": "  \\n"}', "has a user message without text"),
        ('{"prompt": 3}', "has a user message without text"),
        ('{"messages": []}', "is not a list of messages"),
        ('{"messages": [{"role": "bot", "content": "a"}]}', "has a message whose role is not"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "ends with a message of the assistant"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, '
         '{"role": "user", "content": "c"}]}',
         "has a system message that is not the first"),
        ('{"prompt": "\\ud800"}', "holds half of a surrogate pair"),
        ('{"prompt": "a", "tags": "x"}', "tags is not a list of texts"),
        ('{"prompt": "a", "tag": ["x"]}', "has the unknown key 'tag'"),
        ('{"prompt": "a", "source": 3}', "source is not a text"),
    ],
)  # fmt: skip
def test_a_bad_row_is_refused_with_its_line(row: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "fine"}, row, {"prompt": "fine too"})
    error = refused(path)
    assert message in error.message
    assert (error.file, error.line) == (str(path), 2)


def test_bad_rows_are_told_together_and_not_without_end(tmp_path: Path) -> None:
    assert [p.line for p in refused(write(tmp_path, {}, {"prompt": "a"}, {})).problems] == [1, 3]
    assert len(refused(write(tmp_path, *[{}] * 500)).problems) == prompts.MAX_PROBLEMS


def test_bytes_that_are_no_text_and_endless_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    assert (refused(path).line, refused(path).message) == (2, "is not UTF-8 text")
    path.write_bytes(b'{"prompt": "' + b"a" * prompts.MAX_LINE_BYTES + b'"}')
    assert "longer than" in refused(path).message


def test_odd_characters_do_not_cut_rows(tmp_path: Path) -> None:
    texts = ["one\u2028two", "one\u2029two", "one\x85two", "a\x00b", "👩\u200d👩\u200d👧", "x\ry"]
    path = tmp_path / "set.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(json.dumps({"prompt": t}, ensure_ascii=False) for t in texts).encode()
    )
    assert [p.messages[0].content for p in prompts.load(str(path), "train")] == texts


def test_repeats_are_left_out_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a", "tags": ["x"]}, {"prompt": "a"})
    found = prompts.read(str(path), "train")
    assert len(found.prompts) == 2
    assert found.repeats == (prompts.Repeat(f"{path}:1", f"{path}:3"), prompts.Repeat(f"{path}:1", f"{path}:4"))
    with pytest.warns(UserWarning, match=r"2 repeated prompts left out: .*:3 has the words of .*:1"):
        assert len(prompts.load(str(path), "train")) == 2


def test_one_id_for_two_prompts_is_refused(tmp_path: Path) -> None:
    error = refused(write(tmp_path, {"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}))
    assert "the id 'x' names another prompt already" in error.message
    assert error.line == 2


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    assert "holds no prompt" in refused(write(tmp_path)).message


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    rows = [
        {"prompt": "a", "tags": ["x"], "other": 1},
        {"prompt": "b", "tags": None, "other": 2},
        {"prompt": " ", "tags": [], "other": 3},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows[:2]), path)
    loaded = prompts.load(str(path), "train")
    assert [(p.messages[0].content, p.tags) for p in loaded] == [("a", ("x",)), ("b", ())]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert refused(path).line == 3
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": [{"role": "user", "content": "c"}]}]), path)
    assert prompts.load(str(path), "train")[0].messages == (Message("user", "c"),)
    path.write_bytes(b"no parquet")
    assert "cannot be read as Parquet" in refused(path).message


def test_a_dataset_by_name(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the extra `datasets`")
    write(tmp_path, {"question": "a", "tags": ["x"]}, {"question": "b", "tags": []}, name="train.jsonl")
    loaded = prompts.load(f"datasets:{tmp_path}:train:question", "train")
    assert [(p.messages[0].content, p.tags) for p in loaded] == [("a", ("x",)), ("b", ())]
    error = refused(f"datasets:{tmp_path}")
    assert "no column of prompts" in error.message
    assert "question" in error.suggestion
    assert "cannot be loaded" in refused(f"datasets:{tmp_path}:nosplit").message
    assert "is not datasets:NAME" in refused("datasets:a:b:c:d").message
    assert "is not datasets:NAME" in refused("datasets:").message


def test_a_dataset_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert "pip install 'selfalign[datasets]'" in refused("datasets:org/set").suggestion


def test_overlap_of_train_and_heldout_is_refused_by_words() -> None:
    train = [Prompt.make((Message("user", "What  is LOVE?\n"),)), *some(3)]
    heldout = [
        Prompt.make((Message("user", "what is love?"),), source="web#3"),
        Prompt.make((Message("user", "else"),)),
    ]
    with pytest.raises(PromptError) as caught:
        prompts.check_disjoint(train, heldout)
    assert "1 held-out prompts are training prompts too" in caught.value.message
    assert "'what is love?' (web#3)" in caught.value.message
    prompts.check_disjoint(train, heldout[1:])


def test_a_system_message_makes_another_prompt() -> None:
    plain = Prompt.make((Message("user", "a"),))
    prompts.check_disjoint([plain], [Prompt.make((Message("system", "s"), Message("user", "a")))])


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 3))
def test_rounds_walk_through_all_prompts_before_any_comes_again(total: int, per_round: int, seed: int) -> None:
    pool, per_round = some(total), min(total, per_round)
    rounds = [prompts.draw(pool, per_round, seed, number) for number in range(2 * total // per_round + 2)]
    assert all(len({p.id for p in drawn}) == per_round for drawn in rounds)
    sequence = [p.id for drawn in rounds for p in drawn]
    for start in range(0, len(sequence) - total + 1, total):
        counts = [sequence[: start + total].count(p.id) for p in pool]
        assert max(counts) - min(counts) <= 2 * (start > 0)
    assert set(sequence[:total]) == {p.id for p in pool}


def test_draws_depend_on_seed_and_words_alone() -> None:
    pool = some(20)
    drawn = [p.id for p in prompts.draw(pool, 8, seed=1, round=1)]
    assert drawn == [p.id for p in prompts.draw(pool[::-1], 8, seed=1, round=1)]
    assert drawn != [p.id for p in prompts.draw(pool, 8, seed=2, round=1)]
    assert not set(drawn) & {p.id for p in prompts.draw(pool, 8, seed=1, round=0)}
    assert len(prompts.draw(pool, None, seed=1, round=3)) == 20


def test_more_prompts_a_round_than_there_are_is_refused() -> None:
    with pytest.raises(PromptError, match="Set it to 20 or less"):
        prompts.draw(some(20), 21, seed=1, round=0)


@pytest.mark.parametrize(
    ("row", "valid"),
    [
        ({"prompt": "a"}, True),
        ({"messages": [{"role": "user", "content": "a"}], "x": 1}, True),
        ({"prompt": " "}, False),
        ({}, False),
        ({"prompt": "a", "messages": []}, False),
        ({"prompt": "a", "tags": "x"}, False),
    ],
)
def test_the_schema_agrees_with_the_reader(row: dict, valid: bool, tmp_path: Path) -> None:
    validator = Draft202012Validator(json.loads(resources.schema("prompts")))
    assert validator.is_valid(row) == valid
    path = write(tmp_path, row)
    if valid:
        assert prompts.load(str(path), "train")
    else:
        refused(path)


def test_a_reward_model_needs_prompts_to_be_judged_by() -> None:
    prompts.check_held_out(300, 0.1, 30)
    with pytest.raises(PromptError, match=r"about 26 of a round's 256 prompts(?s:.*)Set it to 0\.15 or more"):
        prompts.check_held_out(256, 0.1, 30)
    with pytest.raises(PromptError, match="Draw more prompts"):
        prompts.check_held_out(60, 0.1, 30)
