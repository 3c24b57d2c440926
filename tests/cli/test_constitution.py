"""`selfalign constitution`: what each command prints, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from selfalign import constitution, resources
from selfalign.cli import worker
from tests.cli.conftest import Cli
from tests.cli.test_hostile import assert_harmless, on_a_terminal
from tests.mining.world import engine

HEAD = "schema: selfalign.constitution/v1\nname: rules\nversion: 1.0.0\nprinciples:\n"
KIND = "  - id: kind\n    text: The response is kind.\n"


def write(folder: Path, text: str, name: str = "rules.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def a_run(folder: Path, *rounds: str) -> None:
    """A run with nothing but the constitutions of its rounds."""
    run = folder / "runs" / "mine"
    for number, text in enumerate(rounds):
        (run / "rounds" / f"{number:03d}").mkdir(parents=True)
        write(run / "rounds" / f"{number:03d}", text, "constitution.yaml")
    write(run, "name: mine\n", "campaign.yaml")


def test_lint_tells_by_its_exit_code_how_bad_it_is(tmp_path: Path, cli: Cli) -> None:
    files = {
        "good.yaml": (0, KIND),
        "note.yaml": (0, KIND + "    compare: When the user is sad, which response is kinder?\n"),
        "warn.yaml": (1, KIND + "    compare: Which response is more detailed?\n"),
        "bad.yaml": (2, KIND + "    wieght: 1\n"),
    }
    for name, (code, text) in files.items():
        write(tmp_path, HEAD + text, name)
        assert cli("constitution", "lint", name, cwd=tmp_path).returncode == code
    done = cli("constitution", "lint", *files, cwd=tmp_path)
    assert done.returncode == 2
    assert "good.yaml: nothing to mend" in done.stdout
    assert "warn.yaml:7: warning: kind.compare says" in done.stdout
    assert "bad.yaml:7: error: unknown key 'wieght'. Did you mean \"weight\"?" in done.stdout
    (finding,) = json.loads(cli("constitution", "lint", "warn.yaml", "--json", cwd=tmp_path).stdout)
    assert (finding["line"], finding["rule"], finding["principle"]) == (7, "rewards-length", "kind")


def test_lint_against_an_earlier_file(tmp_path: Path, cli: Cli) -> None:
    write(tmp_path, HEAD + KIND, "old.yaml")
    write(tmp_path, HEAD + KIND.replace("is kind", "is warm"), "new.yaml")
    done = cli("constitution", "lint", "new.yaml", "--against", "old.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert "was changed since old.yaml" in done.stdout
    assert cli("constitution", "lint", "new.yaml", "old.yaml", "--against", "old.yaml", cwd=tmp_path).returncode == 2
    assert "which constitution?" in cli("constitution", "lint", cwd=tmp_path).stderr


def test_diff_compares_files_shipped_names_and_rounds(tmp_path: Path, cli: Cli) -> None:
    a_run(tmp_path, HEAD + KIND, HEAD + KIND.replace("is kind", "is very kind") + "    weight: 2\n")
    done = cli("constitution", "diff", "mine@0", "mine@1", cwd=tmp_path)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines[1:]] == [["reworded", "kind"], ["reweighted", "kind"]]
    assert "text: The response is {+very +}kind." in done.stdout
    assert "1 to be judged anew: kind" in done.stderr
    found = json.loads(cli("constitution", "diff", "mine@0", "mine@1", "--json", cwd=tmp_path).stdout)
    assert found["judged_anew"] == ["kind"]
    assert found["changes"][1] == {
        "kind": "reweighted", "principle": "kind", "field": "weight", "before": 1.0, "after": 2.0,
    }  # fmt: skip
    assert "no principle differs" in cli("constitution", "diff", "pocket", "pocket", cwd=tmp_path).stdout
    assert cli("constitution", "diff", "pocket", "mine@0", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("name", "message", "fix"),
    [
        ("huose", 'there is no constitution "huose"', 'Did you mean "house"?'),
        ("mine@7", 'the run "mine" has no constitution of round 7', "selfalign status mine"),
        ("mien@0", 'there is no run "mien"', 'Did you mean "mine"?'),
        ("../../etc/passwd@0", "there is no run", ""),
    ],
)
def test_what_is_not_there_is_said_with_a_way_out(name: str, message: str, fix: str, tmp_path: Path, cli: Cli) -> None:
    a_run(tmp_path, HEAD + KIND)
    done = cli("constitution", "diff", name, "pocket", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and fix in done.stderr


def test_import_prints_or_writes_and_overwrites_nothing(tmp_path: Path, cli: Cli) -> None:
    write(tmp_path, '["Choose the kinder response.", "Be true."]', "Our Rules.json")
    done = cli("constitution", "import", "Our Rules.json", cwd=tmp_path)
    rules = constitution.load(write(tmp_path, done.stdout, "printed.yaml"))
    assert (rules.name, [principle.id for principle in rules.principles]) == ("our-rules", ["kinder", "true"])
    done = cli("constitution", "import", "Our Rules.json", "-o", "new.yaml", "--name", "mine", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "new.yaml\n")
    assert "2 principles, read as icai" in done.stderr
    assert constitution.load(tmp_path / "new.yaml").principles == rules.principles
    assert "new.yaml exists" in cli("constitution", "import", "Our Rules.json", "-o", "new.yaml", cwd=tmp_path).stderr
    for arguments in (["--format", "icia"], ["--name", "../x"]):
        assert cli("constitution", "import", "Our Rules.json", *arguments, cwd=tmp_path).returncode == 2


def test_what_is_exported_can_be_loaded_again(tmp_path: Path, cli: Cli) -> None:
    child = HEAD.replace("principles", "extends: [honest, house-style]\npreamble: 'Hear both 😀.'\nprinciples") + KIND
    rules = constitution.load(write(tmp_path, child))
    for format in ("json", "yaml"):
        done = cli("constitution", "export", "rules.yaml", "--format", format, cwd=tmp_path)
        assert constitution.load(write(tmp_path, done.stdout, f"out.{format}")) == rules
    done = cli("constitution", "export", "rules.yaml", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"{len(rules.active)}. The response is kind."
    assert json.loads(cli("constitution", "schema", cwd=tmp_path).stdout) == json.loads(
        resources.schema("constitution")
    )


def test_the_shipped_constitutions_go_together(tmp_path: Path, cli: Cli) -> None:
    names = ["harmless", "helpful", "honest", "house-style"]
    write(tmp_path, HEAD.replace("principles:", f"extends: {names}"))
    rules = constitution.load(tmp_path / "rules.yaml")
    each = [constitution.load(resources.find_constitution(name)) for name in names]
    assert len(rules.principles) == sum(len(one.principles) for one in each)  # no id stands in two of them
    assert all(p.examples and p.rationale and p.source.name for p in rules.principles)
    write(tmp_path, rules.to_yaml(), "flat.yaml")
    assert cli("constitution", "lint", "flat.yaml", cwd=tmp_path).stdout == "flat.yaml: nothing to mend\n"


def test_a_hostile_constitution_does_not_act_on_a_terminal(tmp_path: Path) -> None:
    hostile = "[/INST] [@click=app.quit]x[/] [bold red]\u200e\u061c"
    write(tmp_path, HEAD + KIND, "a.yaml")
    write(tmp_path, HEAD + KIND.replace("is kind.", f"'{hostile}'").replace("text: The response ", "text: "), "b.yaml")
    write(tmp_path, HEAD + KIND.replace("kind.", "\x1b]0;t\x07."), "c.yaml")
    write(tmp_path, json.dumps([hostile]), "d.json")
    code = (
        "from selfalign.cli import main\n"
        "print([main(['constitution', *a.split()]) for a in ('diff a.yaml b.yaml', 'lint b.yaml c.yaml', "
        "'export b.yaml', 'export b.yaml --format yaml', 'export b.yaml --format json', 'import d.json')])"
    )
    received = on_a_terminal(["-c", code], tmp_path)
    assert_harmless(received)
    assert received.count(b"[/INST]") > 3
    assert b"[0, 2, 0, 0, 0, 0]" in received


def test_lint_asks_a_judge_about_the_examples(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "opened", lambda who: nullcontext(engine()))
    examples = "    compare: Which response shows more kindness?\n    examples:\n"
    examples += "      - {prompt: hello, better: rude words, worse: kind words}\n"
    write(tmp_path, HEAD + KIND + examples)
    write(tmp_path, HEAD + KIND + "    wieght: 1\n", "bad.yaml")
    assert cli("constitution", "lint", "rules.yaml", cwd=tmp_path).returncode == 0
    done = cli("constitution", "lint", "rules.yaml", "bad.yaml", "--judge", "openai:x", cwd=tmp_path)
    assert done.returncode == 2
    assert "rules.yaml:9: warning: kind.examples 1: the judge prefers the worse answer" in done.stdout
    assert "asking openai:x for 2 verdicts on examples" in done.stderr
    found = cli("constitution", "lint", "rules.yaml", "--judge", "openai:x", "--json", cwd=tmp_path)
    assert found.returncode == 1
    assert [(f["line"], f["rule"]) for f in json.loads(found.stdout)] == [(9, "judge-prefers-worse")]
    write(tmp_path, HEAD + KIND, "bare.yaml")
    done = cli("constitution", "lint", "bare.yaml", "--judge", "openai:x", cwd=tmp_path)
    assert done.returncode == 0 and "no active principle has an example" in done.stderr
    done = cli("constitution", "lint", "bare.yaml", "--backend", "vllm", cwd=tmp_path)
    assert done.returncode == 2 and "go with --judge" in done.stderr
    done = cli("constitution", "lint", "rules.yaml", "--judge", "no/such/folder", cwd=tmp_path)
    assert done.returncode == 2 and "there is no model" in done.stderr


def test_lint_without_a_judge_loads_nothing_heavy(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + KIND)
    heavy = "{'torch', 'transformers', 'vllm', 'selfalign.mining', 'selfalign.cli.worker'}"
    code = f"import sys; from selfalign.cli import main; main(['constitution', 'lint', {str(path)!r}])\n"
    code += f"assert not {heavy} & sys.modules.keys(), {heavy} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
