"""Reading by column: what the records hold, without the records."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selfalign.records import Candidate, Judgment, Message, Prompt
from selfalign.store import FileDamaged, Run, StepDamaged
from selfalign.store.tables import Texts, columns, encode
from tests.store.helpers import flip


def judgment(number: int, **fields: object) -> Judgment:
    values = {"verdict": "first", "p_first": 0.25 * number}
    return Judgment(f"j{number}", f"p{number % 3}", "a", "", "kind", "hash", "judge", "template", **values | fields)


JUDGMENTS = [judgment(0), judgment(1, verdict="invalid", p_first=None), judgment(2), judgment(3, p_first=None)]


def rows(texts: Texts) -> list[str | None]:
    return [texts.distinct[code] if code >= 0 else None for code in texts.codes.tolist()]


def test_columns_are_those_of_the_records_in_order_over_all_shards(run: Run) -> None:
    step = run.step("rounds/000/judgments", inputs={})
    step.write(1, JUDGMENTS[2:])
    step.write(0, JUDGMENTS[:2])
    for _ in range(2):  # before the step has a manifest, and after
        found = step.columns(Judgment, "prompt_id", "verdict", "p_first", "num_tokens")
        assert rows(found["prompt_id"]) == [one.prompt_id for one in JUDGMENTS]
        assert len(found["prompt_id"].distinct) == 3
        assert rows(found["verdict"]) == [one.verdict for one in JUDGMENTS]
        assert [None if math.isnan(p) else p for p in found["p_first"]] == [one.p_first for one in JUDGMENTS]
        assert found["num_tokens"].tolist() == [0] * 4
        if not step.done:
            step.finish({})


def test_of_tuples_the_lengths_are_kept_and_of_no_text_nothing(run: Run) -> None:
    step = run.step("rounds/000/candidates", inputs={})
    sampled = [Candidate(f"c{n}", "p", "policy", n, n, "x", tuple(range(n)), "stop") for n in (3, 0, 5)]
    step.write(0, sampled)
    found = step.columns(Candidate, "token_ids", "duplicate_of", "logprob")
    assert found["token_ids"].tolist() == [3, 0, 5]
    assert rows(found["duplicate_of"]) == [None] * 3
    assert all(map(math.isnan, found["logprob"]))
    prompts = [Prompt.make((Message("user", str(n)),), response=answer) for n, answer in enumerate(("x", None, "x"))]
    golds = columns([(encode(prompts, Prompt, {}), "here")], Prompt, ["response"])["response"]
    assert (golds.distinct, golds.codes.tolist()) == (["x"], [0, -1, 0])


def test_a_step_without_rows_has_empty_columns(run: Run) -> None:
    step = run.step("rounds/000/judgments", inputs={})
    for _ in range(2):
        found = step.columns(Judgment, "prompt_id", "rating", "num_tokens")
        assert [len(rows(found["prompt_id"])), len(found["rating"]), len(found["num_tokens"])] == [0, 0, 0]
        if not step.num_shards:
            step.write(0, [])


def test_a_field_that_is_younger_than_the_file_has_its_default() -> None:
    @dataclass(frozen=True)
    class Old:
        id: str

    @dataclass(frozen=True)
    class New(Old):
        seconds: float = 1.5
        name: str = "none"
        score: float | None = None

    found = columns([(encode([Old("a"), Old("b")], Old, {}), "here")], New, ["id", "seconds", "name", "score"])
    assert found["seconds"].tolist() == [1.5, 1.5]
    assert rows(found["name"]) == ["none"] * 2
    assert all(map(math.isnan, found["score"]))
    with pytest.raises(FileDamaged, match="the column id is missing"):
        columns([(encode([Old("a")], Old, {}), "here"), (encode([Other()], Other, {}), "there")], Old, ["id"])


@dataclass(frozen=True)
class Other:
    number: int = 1


@dataclass(frozen=True)
class Free:
    verdict: str = "whatever"


def test_damage_and_odd_values_are_refused(run: Run) -> None:
    step = run.step("rounds/000/judgments", inputs={})
    step.write(0, JUDGMENTS)
    flip(step.path / "part-00000.parquet", 300)
    with pytest.raises(StepDamaged, match=r"part-00000\.parquet"):
        step.columns(Judgment, "prompt_id")
    with pytest.raises(FileDamaged, match="'whatever', which is none of"):
        columns([(encode([Free()], Free, {}), "here")], Judgment, ["verdict"])


def test_reading_by_column_does_not_load_pandas(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(encode([*JUDGMENTS, replace(JUDGMENTS[0], rating=3.0)], Judgment, {}))
    code = (
        "import sys; from pathlib import Path; from selfalign.records import Judgment\n"
        "from selfalign.store.tables import columns\n"
        f"columns([(Path({str(file)!r}).read_bytes(), 'x')], Judgment, ['id', 'rating', 'verdict', 'num_tokens'])\n"
        "assert 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
