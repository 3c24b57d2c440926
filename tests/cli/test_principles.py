"""`selfalign constitution stats`: what is shown at every width, in JSON, and where there is nothing to show."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfalign import labels
from selfalign.cli.principles import facts, screen
from selfalign.principles import Stats, stats
from selfalign.records import Judgment, Label
from selfalign.store import Run, read_records
from tests.cli.conftest import Cli
from tests.cli.events import HOSTILE
from tests.cli.fabricate import make_judged_run
from tests.cli.test_hostile import assert_harmless


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    make_judged_run(folder)
    make_judged_run(folder, "rated", rated=True, rounds=1)
    make_judged_run(folder, "few", prompts=3, rounds=1)
    return folder


def drawn(found: Stats, width: int, *, unicode: bool = True, colour: bool = False) -> str:
    """The screen on a terminal of some width."""
    with open(os.devnull, "w") as nowhere:
        print_to = Console(file=nowhere, width=width, record=True, force_terminal=True, color_system="standard")
        for part in screen("judged", found, width, unicode=unicode):
            print_to.print(part)
        return print_to.export_text(styles=colour)


@pytest.mark.parametrize("width", [40, 80, 120, 160, 240])
@pytest.mark.parametrize("name", ["judged", "rated", "few"])
def test_no_line_is_wider_than_the_terminal(root: Path, name: str, width: int) -> None:
    found = stats(Run.open(root / "runs" / name))
    lines = drawn(found, width).splitlines()
    assert max(map(len, lines)) <= width
    if width >= 80:
        for letter, record in zip("ABCDEFGH", found.principles, strict=True):
            assert any(re.match(rf"{letter}!? +{record.id} ", line) for line in lines)
        assert any(line.split()[:4] == ["principle", "asked", "prompts", "decides"] for line in lines)


def test_a_wide_terminal_shows_intervals_and_courses_and_a_narrow_one_more_than_names(root: Path) -> None:
    found = stats(Run.open(root / "runs" / "judged"))
    (wide,) = (line for line in drawn(found, 160).splitlines() if " long " in line and "±" in line)
    assert re.search(r"!\d+% ±\d+ [▁▂▃▄▅▆▇█]{2}", wide)
    narrow = drawn(found, 80)
    assert "±" not in narrow
    assert all(title in narrow for title in ("decides", "chosen", "orders", "longer"))
    assert re.search(r"unasked +never", narrow)
    assert not re.search(r"[^\x00-\x7f]", drawn(found, 160, unicode=False))


def test_what_is_wrong_is_said_in_words_with_what_to_do(root: Path, cli: Cli) -> None:
    done = cli("constitution", "stats", "judged", cwd=root)
    assert done.returncode == 0
    assert re.search(r"! [A-H] garbled: 3\d% of its judgments are invalid\n  → shorten its question", done.stdout)
    assert re.search(r"! [A-H] unasked: was never put before the judge\n  → tag prompts with poem", done.stdout)
    assert "the same as twin" in done.stdout or "the same as kind" in done.stdout
    assert len(re.findall(r"says the same as (?:kind|twin) ", done.stdout)) == 1  # not once for each of the two
    assert re.search(r"next:  selfalign pairs ls \S*judged --principle \w+", done.stderr)


def test_colour_is_never_the_only_sign(root: Path) -> None:
    found = stats(Run.open(root / "runs" / "judged"))
    shown = drawn(found, 80, colour=True)
    for coloured in re.findall(r"\x1b\[(?:[0-9;]*;)?33m([^\x1b]*)", shown):
        assert coloured.strip().startswith("!")
    for coloured in re.findall(r"\x1b\[(?:[0-9;]*;)?31m([^\x1b]*)", shown):
        assert coloured.strip().startswith("-")


def test_the_matrix_holds_each_two_once(root: Path) -> None:
    found = stats(Run.open(root / "runs" / "judged"))
    names = [record.id for record in found.principles]
    shown = drawn(found, 80).partition("(kappa x 100)")[2]
    rows = {line.split()[1]: line.split()[2:-1] for line in shown.splitlines() if re.match(r"[A-H]  \w", line)}
    assert [len(cells) for cells in rows.values()] == list(range(7))
    (twins,) = (one for one in found.conflicts if {one.a, one.b} == {"kind", "twin"})
    later, earlier = sorted(("kind", "twin"), key=names.index, reverse=True)
    assert rows[later][names.index(earlier)] == str(round(100 * twins.kappa))


def test_many_principles_give_the_matrix_to_those_that_agree_least_by_chance(root: Path) -> None:
    found = stats(Run.open(root / "runs" / "judged"))
    compact = drawn(found, 40).partition("(kappa x 100)")[2]
    assert len(re.findall(r"^[A-H]  +(?:-?\d+ +)*[A-H]$", compact, re.MULTILINE)) == 7  # by their letters alone
    cut = drawn(found, 24)
    assert "2 more, whose agreement is nearer to chance, are left out" in " ".join(cut.split())
    keys = dict(zip((record.id for record in found.principles), "ABCDEFGH", strict=True))
    rows = re.findall(r"^([A-H])  +(?:-?\d+ +)*[A-H] *$", cut, re.MULTILINE)
    assert len(rows) == 5 and keys["contrary"] in rows and keys["mute"] not in rows


def test_json_has_everything(root: Path, cli: Cli) -> None:
    found = json.loads(cli("constitution", "stats", "judged", "--json", cwd=root).stdout)
    assert (found["rounds"], found["judgments"], found["prompts"], found["pairs"]) == ([0, 1], 5040, 120, 360)
    kind = next(one for one in found["principles"] if one["id"] == "kind")
    assert set(kind["by_round"]) == {"0", "1"}
    assert (
        kind["over_all"]["chosen"]["low"] <= kind["over_all"]["chosen"]["value"] <= kind["over_all"]["chosen"]["high"]
    )
    assert {flag["kind"] for flag in kind["flags"]} >= {"same", "drift"}
    assert found["conflicts"][0].keys() == {"a", "b", "n", "agreement", "opposite", "kappa"}
    one = json.loads(cli("constitution", "stats", "judged", "--round", "1", "--json", cwd=root).stdout)
    assert one["rounds"] == [1]
    assert one["principles"][0]["over_all"] == one["principles"][0]["by_round"]["1"]
    assert "no round 7" in cli("constitution", "stats", "judged", "--round", "7", cwd=root).stderr


def test_ratings_have_no_orders_and_few_comparisons_no_flags(root: Path) -> None:
    rated = drawn(stats(Run.open(root / "runs" / "rated")), 160)
    assert "orders" not in rated and "first" not in rated.splitlines()[2]
    assert "▁" not in rated  # one round has no course
    few = drawn(stats(Run.open(root / "runs" / "few")), 80)
    assert "unasked: was never" in few and "length" not in few.partition("spoke on")[2]
    assert "No two principles spoke on 30 pairs of answers or more" in few


def test_where_nothing_was_judged_it_is_said_what_to_do(sample: Path, root: Path, cli: Cli, tmp_path: Path) -> None:
    make_judged_run(tmp_path, "fresh", prompts=1, rounds=0)
    done = cli("constitution", "stats", "fresh", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no round" in done.stderr and "selfalign run runs/fresh" in done.stderr
    assert json.loads(cli("constitution", "stats", "fresh", "--json", cwd=tmp_path).stdout)["principles"] == []
    (tmp_path / "runs/fresh/rounds/000").mkdir(parents=True)
    assert (
        "no principle was put before a judge in round 0" in cli("constitution", "stats", "fresh", cwd=tmp_path).stderr
    )


def test_a_sampled_principle_has_nobody_to_contradict(root: Path) -> None:
    found = replace(stats(Run.open(root / "runs" / "judged")), conflicts=())
    assert "judge.principles: all" in drawn(found, 80)


def test_names_of_principles_cannot_act_on_the_terminal(root: Path, tmp_path: Path) -> None:
    made = make_judged_run(tmp_path, "hostile", prompts=40, rounds=1)
    judgments = list(read_records(made.path / "rounds/000/judgments", Judgment))
    run = Run.create(tmp_path / "runs" / "copy", (made.path / "campaign.yaml").read_text())
    with run.lock():
        for name in ("prompts", "candidates", "pairs"):
            shutil.copytree(made.path / "rounds/000" / name, run.path / "rounds/000" / name)
        step = run.step("rounds/000/judgments", inputs={})
        step.write(0, [replace(one, principle_id=f"{one.principle_id} {HOSTILE}") for one in judgments])
        step.finish({})
    found = stats(run)
    assert_harmless(drawn(found, 80, colour=True).encode())
    assert json.dumps(as_plain(facts(found)), ensure_ascii=True)


def as_plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def test_principles_are_held_against_what_people_said(tmp_path: Path, cli: Cli) -> None:
    """Ada prefers what `contrary` dislikes; of the pairs on which Bob says the opposite nothing is left."""
    run = make_judged_run(tmp_path)
    said = [j for j in read_records(run.view("rounds/000/judgments").path, Judgment) if j.principle_id == "contrary"]
    pairs = {
        tuple(sorted((j.first_id, j.second_id))): (j.prompt_id, j.second_id if j.p_first > 0.5 else j.first_id)
        for j in said
    }
    made = [
        Label("ada", prompt, *pair, verdict="preferred", preferred_id=better)
        for pair, (prompt, better) in pairs.items()
    ]
    labels.write(run.path, "ada", made)
    labels.write(
        run.path, "bob",
        [replace(one, labeller="bob", preferred_id=one.left_id if one.preferred_id == one.right_id else one.right_id)
         for one in made[:5]],
    )  # fmt: skip
    preferred = labels.preferred(run.path)
    assert len(preferred) == len(pairs) - 5
    found = json.loads(cli("constitution", "stats", "judged", "--round", "0", "--json", cwd=tmp_path).stdout)
    agree = {one["id"]: one["over_all"]["people"] for one in found["principles"]}
    assert agree["contrary"]["value"] < 0.2 < 0.8 < agree["kind"]["value"]
    assert any(flag["kind"] == "people" for one in found["principles"] for flag in one["flags"])
