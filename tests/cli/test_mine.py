"""`selfalign constitution mine`: what it prints and writes, what it refuses, and that a run stays as it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from selfalign.cli import worker
from selfalign.constitution import load
from selfalign.constitution.lint import lint
from tests.cli.conftest import Cli
from tests.cli.test_hostile import assert_harmless, on_a_terminal
from tests.engines.conftest import MakeModel, make_model  # noqa: F401 (a fixture)
from tests.engines.test_openai import GOOD, Server, completion, server  # noqa: F401 (a fixture)
from tests.mining.world import engine, preferences

HOSTILE = "\x1b]52;c;aGk=\x07[bold]\u202e"
Ask = Callable[..., list[str]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Have a scripted engine answer in place of any model; returns the list of the models that were asked for."""

    def scripted(**functions: object) -> list[str]:
        asked = []

        @contextmanager
        def opened(who: worker.Asked) -> Iterator[object]:
            asked.append(who.path)
            yield engine(**functions)

        monkeypatch.setattr(worker, "opened", opened)
        return asked

    return scripted


def write_pairs(folder: Path, name: str = "kind.jsonl") -> None:
    rows = ({"prompt": p.prompt.messages[0].content, "chosen": p.chosen, "rejected": p.rejected} for p in preferences())
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_file_becomes_a_draft_and_a_table(tmp_path: Path, cli: Cli, ask: Ask) -> None:
    asked = ask()
    write_pairs(tmp_path)
    done = cli("constitution", "mine", "kind.jsonl", "--model", "openai:judge", "-o", "draft.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked == ["openai:judge"]
    head, first, *others = done.stdout.splitlines()
    assert head.split() == ["principle", "alone", "together", "support", "coverage", "swap"]
    assert "kindness" in first and first.split()[-4:] == ["1.00", "40", "1.00", "1.00"]
    assert ["–" in line for line in others] == [True] * 3 and ("is shorter" in others[-1] or "is longer" in others[-1])
    assert (
        "40 pairs to learn from, 20 held out; asking openai:judge for 80 replies and up to 1,920 verdicts"
        in done.stderr
    )
    assert "1 of 4 rules taken, as drafts: draft.yaml" in done.stderr
    assert "asking what may explain each pair: 80 of 80\n" in done.stderr
    assert "judging the pairs by each rule: 60 of 60\n" in done.stderr
    assert "together 1.000" in done.stderr and "length alone 0." in done.stderr
    assert "selfalign constitution lint draft.yaml" in done.stderr
    path = tmp_path / "draft.yaml"
    assert len(lint(path)) == 1
    path.write_text(path.read_text().replace("status: draft", "status: active"))
    assert load(path).name == "kind-mined" and lint(path) == []


def test_json_and_the_name_of_the_draft(tmp_path: Path, cli: Cli, ask: Ask) -> None:
    ask()
    write_pairs(tmp_path)
    arguments = ("constitution", "mine", "kind.jsonl", "--model", "openai:judge", "--json", "--pairs", "30")
    found = json.loads(cli(*arguments, cwd=tmp_path).stdout)
    assert found["draft"] == "kind.mined.yaml" and (tmp_path / "kind.mined.yaml").is_file()
    assert (found["num_train"], found["num_heldout"], found["majority"]) == (20, 10, 0.5)
    assert "kindness" in found["rules"][0]["text"] and found["rules"][0]["alone"]["value"] == 1.0
    assert found["counts"]["replies"] == 40 and found["counts"]["not drawn"] == 30
    assert found["together"]["bootstrap"] == [1.0, 1.0]
    again = cli(*arguments, cwd=tmp_path)
    assert again.returncode == 2 and "kind.mined.yaml exists" in again.stderr


def test_a_run_is_asked_about_by_its_own_judge_and_stays_as_it_was(tmp_path: Path, cli: Cli, ask: Ask, sample) -> None:
    (tmp_path / "model").mkdir()
    asked, before = ask(text=lambda messages, seed: "no"), contents(sample)
    done = cli("constitution", "mine", "sample", "--model", "openai:x", "--runs", str(sample / "runs"), cwd=tmp_path)
    assert done.returncode == 1
    assert "no usable principle in 16 replies (replies: 16 unreadable)" in done.stderr
    assert asked == ["openai:x"]
    assert contents(sample) == before and list(tmp_path.iterdir()) == [tmp_path / "model"]
    own = cli("constitution", "mine", "sample", "--runs", str(sample / "runs"), cwd=tmp_path)
    assert own.returncode == 2 and "cannot be asked" in own.stderr  # the policy of this run is no real model


def test_nothing_is_written_where_nothing_explains(tmp_path: Path, cli: Cli, ask: Ask) -> None:
    ask(preference=lambda messages, labels: [0.7, 0.3])
    write_pairs(tmp_path)
    done = cli("constitution", "mine", "kind.jsonl", "--model", "openai:judge", cwd=tmp_path)
    assert done.returncode == 1
    assert "no rule explains the preferences better than a coin" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kind.jsonl"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, cli: Cli, ask: Ask) -> None:
    def interrupted(messages, labels):
        raise KeyboardInterrupt

    ask(preference=interrupted)
    write_pairs(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli("constitution", "mine", "kind.jsonl", "--model", "openai:judge", cwd=tmp_path)
    assert ended.value.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["kind.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kind.jsonl"], "which model is to be asked"),
        (["kind.jsonl", "--model", "no/such/folder"], 'there is no model "no/such/folder"'),
        (["kind.jsonl", "--model", "openai:x", "-o", "nowhere/draft.yaml"], "there is no folder nowhere"),
        (["kind.jsonl", "--model", "openai:x", "--pairs", "0"], "are 1 or more"),
        (["nothing.jsonl", "--model", "openai:x"], 'there is no file "nothing.jsonl"'),
        (["nothing"], 'there is no run "nothing"'),
        (["bad.csv", "--model", "openai:x"], "bad.csv:1: has no column 'text_a'"),
    ],
)
def test_what_is_refused_before_a_model_is_asked(
    arguments: list[str], expected: str, tmp_path: Path, cli: Cli, ask: Ask
) -> None:
    asked = ask()
    write_pairs(tmp_path)
    (tmp_path / "bad.csv").write_text("a,b\n")
    done = cli("constitution", "mine", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and expected in done.stderr
    assert asked == []


def test_a_run_without_pairs_names_what_it_holds(tmp_path: Path, cli: Cli, sample: Path) -> None:
    done = cli("constitution", "mine", "mixed", "--round", "1", "--runs", str(sample / "runs"), cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no pairs to explain" in done.stderr and "selfalign rankings ls" in done.stderr


def test_hostile_proposals_do_not_act_on_a_terminal(tmp_path: Path) -> None:
    write_pairs(tmp_path, "kind.jsonl")
    script = tmp_path / "script.py"
    script.write_text(
        "import contextlib, json, sys\n"
        "from selfalign.cli import main, worker\n"
        "from tests.mining.world import engine\n"
        f"rules = ['Select the response that shows kindness {HOSTILE!s} to: all # or', {HOSTILE!r}]\n"
        "rules[0] = rules[0].replace('[bold]', '')\n"
        "text = lambda messages, seed: json.dumps(rules)\n"
        "worker.opened = lambda who: contextlib.nullcontext(engine(text=text))\n"
        "sys.exit(main(['constitution', 'mine', 'kind.jsonl', '--model', 'openai:x']))\n".replace("\x1b", "\\x1b")
    )
    assert_harmless(on_a_terminal([str(script)], cwd=tmp_path))
    path = tmp_path / "kind.mined.yaml"
    path.write_text(path.read_text().replace("status: draft", "status: active"))
    (principle,) = load(path).principles
    assert principle.compare == "Select the response that shows kindness to: all # or."


def test_an_api_that_always_takes_the_first_answer_is_found_out(
    tmp_path: Path,
    cli: Cli,
    server: Server,  # noqa: F811
) -> None:
    rules = json.dumps(["Select the response that shows kindness", "Select the response that is longer"])
    server.replies = {"Somebody": [(200, {}, completion(None, rules))], "Compare": [(200, {}, GOOD)]}
    write_pairs(tmp_path)
    arguments = ("--model", "openai:judge", "--base-url", server.url, "--pairs", "9", "--json")
    done = cli("constitution", "mine", "kind.jsonl", *arguments, cwd=tmp_path, OPENAI_API_KEY="none")
    assert done.returncode == 1, done.stderr
    assert server.asked == {"Somebody": 12, "Compare": 36}
    found = json.loads(done.stdout)
    assert [(rule["alone"]["value"], rule["consistency"]) for rule in found["rules"]] == [(0.5, 0.0)] * 2
    assert found["draft"] is None and "no rule explains" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_of_random_weights_survives_the_whole_way_and_is_told_so(
    tmp_path: Path,
    cli: Cli,
    make_model: MakeModel,  # noqa: F811
) -> None:
    """A real engine in a worker of its own: what it says is noise, and no rule is made of noise."""
    write_pairs(tmp_path)
    words = "select the response that is kind compare two user question answer word json list rule"
    arguments = ("--model", str(make_model(0, words=words)), "--backend", "transformers", "--pairs", "12")
    done = cli("constitution", "mine", "kind.jsonl", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "no usable principle in 16 replies" in done.stderr and "--model" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kind.jsonl"]
