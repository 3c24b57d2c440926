"""Principles of others: each format becomes a constitution, whatever cannot be read is refused with its place."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfalign import constitution, resources
from selfalign.constitution import Constitution, Level, importing
from selfalign.constitution.importing import FORMATS, Imported
from selfalign.source import InputError

CRITIQUES = {
    "harm0": {
        "prompt": ["\n\nCritiqueRequest: Say what is unkind.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Make it kind.\n\nRevision:",
    },
    "harm1": {
        "prompt": ["\n\nCritiqueRequest: Say what is false.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Make it true.\n\nRevision:",
    },
}
SWARM = {
    "constitutions": [{"critic": "Say what is unkind.", "revision": "Make it kind. 😀"}],
    "system_chat": [[{"role": "user", "content": "Hi"}], []],
}
PYTHON = """
from langchain import ConstitutionalPrinciple
raise SystemExit("never run")
PRINCIPLES = {
    "kind": ConstitutionalPrinciple(
        name="Kind Words",
        critique_request="Say what is "
        "unkind.",
        revision_request="Make it kind.",
    ),
}
"""
PROMPTFOO = """\
defaultTest:
  assert:
    - {type: llm-rubric, value: Is kind., weight: 2, metric: Kindness}
tests:
  - vars: {q: hi}
    assert:
      - {type: contains, value: hi}
      - type: assert-set
        assert: [{type: llm-rubric, value: Is kind}, {type: llm-rubric, value: Is kind, threshold: 0.8}]
      - {type: select-best, value: choose the kindest}
      - {type: llm-rubric, value: file://rubric.txt}
"""
SPEC = """\
# Overview {#overview}

Not a norm.

## Be kind {#be_kind authority=root}

The assistant is **kind**, see also [?](#be_true)[^a1] and [links](https://example.com).

!!! meta "Commentary"
    Because people matter.

    So much.

**Example**: a greeting

~~~xml
<user>
Hello
## not a heading {#no authority=user}
</user>
<comparison>
<assistant> <!-- GOOD -->
Hello, good to see you.
</assistant>
<assistant> <!-- BAD: cold -->
State your business.
</assistant>
</comparison>
~~~

### Be true {#be_true authority=guideline}

Say what is true --- always.

## Only gathers others {#gathers authority=user}

### Plain heading

Words under it.
"""
PROMETHEUS = {"criteria": "Is it kind?", "score1_description": "rude", "score2_description": "kind"}
G_EVAL = {"name": "Kind Words", "criteria": "Is it kind?", "evaluation_steps": ["1. Read it.", "Look for insults."]}


def read(folder: Path, name: str, content: object, format: str = "") -> Imported:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    found = importing.read(path, format)
    rules = Constitution(name="n", version="1.0.0", principles=found.principles)
    (folder / "out.yaml").write_text(rules.to_yaml(), encoding="utf-8")
    assert constitution.load(folder / "out.yaml") == rules
    return found


def refused(folder: Path, name: str, content: object, format: str = "") -> InputError:
    with pytest.raises(InputError) as caught:
        read(folder, name, content, format)
    return caught.value


def test_anthropics_critiques_lose_their_scaffolding(tmp_path: Path) -> None:
    found = read(tmp_path, "a.json", CRITIQUES)
    assert found.format == "anthropic-critiques"
    assert [(p.id, p.critique, p.revise) for p in found.principles] == [
        ("harm0", "Say what is unkind.", "Make it kind."),
        ("harm1", "Say what is false.", "Make it true."),
    ]
    assert found.principles[0].source.name == "a.json"
    assert any("critique and revision alone" in note for note in found.notes)


def test_anthropics_questions_lose_their_options(tmp_path: Path) -> None:
    found = read(tmp_path, "a.json", ["\nPlease choose the kinder response. Options:", "\nWhich is truer? Options:"])
    assert found.format == "anthropic-comparisons"
    assert [(p.id, p.compare) for p in found.principles] == [
        ("kinder", "Please choose the kinder response."),
        ("truer", "Which is truer?"),
    ]


def test_llm_swarm_tells_of_the_conversations_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "a.json", SWARM)
    assert found.format == "llm-swarm"
    assert found.principles[0].revise == "Make it kind. 😀"
    assert "2 worked conversations" in found.notes[0]
    assert read(tmp_path, "b.json", SWARM["constitutions"]).format == "llm-swarm"


def test_langchain_is_read_from_python_without_running_it(tmp_path: Path) -> None:
    found = read(tmp_path, "principles.py", PYTHON)
    (principle,) = found.principles
    assert (found.format, principle.id, principle.title) == ("langchain", "kind-words", "Kind Words")
    assert (principle.critique, principle.revise) == ("Say what is unkind.", "Make it kind.")
    row = {"name": "kind", "critiqueRequest": "Say what is unkind.", "revisionRequest": "Make it kind."}
    assert read(tmp_path, "a.json", {"principles": row}).principles[0].id == "kind"


def test_lists_of_sentences_are_questions_or_norms(tmp_path: Path) -> None:
    expected = [("compare", "Select the kinder response."), ("text", "The answer is short.")]
    sentences = [words for _, words in expected]
    numbered = "1. Select the kinder response.\n2. The answer is short."
    files = {
        "a.json": sentences,
        "b.json": dict(zip("01", sentences, strict=True)),
        "c.txt": numbered,
        "d.json": numbered,
    }
    for name, content in files.items():
        content = json.dumps(content) if name.endswith(".json") else content
        found = read(tmp_path, name, content)
        assert found.format == "icai"
        assert [("compare", p.compare) if p.compare else ("text", p.text) for p in found.principles] == expected


def test_prometheus_rubrics_keep_their_levels(tmp_path: Path) -> None:
    levels = (Level(score=1, means="rude"), Level(score=2, means="kind"))
    for name, content in {
        "a.json": PROMETHEUS,
        "b.jsonl": json.dumps({f"orig_{key}": value for key, value in PROMETHEUS.items()}),
        "c.txt": "[Is it kind?]\nScore 1: rude\nScore 2: kind\n",
        "d.json": [{"instruction": "hi", "rubric": "[Is it kind?]\nScore 1: rude\nScore 2: kind"}],
    }.items():
        found = read(tmp_path, name, content)
        (principle,) = found.principles
        assert (found.format, principle.text, principle.rubric.levels) == ("prometheus", "Is it kind?", levels)
    bare = {key: value for key, value in PROMETHEUS.items() if key != "criteria"}
    assert read(tmp_path, "e.json", bare).principles[0].rubric.levels == levels


def test_promptfoo_rubrics_are_found_however_deep(tmp_path: Path) -> None:
    found = read(tmp_path, "promptfooconfig.yaml", PROMPTFOO)
    assert found.format == "promptfoo"
    assert [(p.id, p.weight, p.text or p.compare) for p in found.principles] == [
        ("kindness", 2.0, "Is kind."),
        ("kind", 1.0, "Is kind"),
        ("kindest", 1.0, "choose the kindest"),
    ]
    notes = "\n".join(found.notes)
    for said in ("1 assertions that no judge", "1 that stand in files", "1 thresholds", "1 that say what another"):
        assert said in notes


def test_g_eval_criteria_and_steps(tmp_path: Path) -> None:
    expected = ("kind-words", "Kind Words", "Is it kind?\n1. Read it.\n2. Look for insults.")
    arguments = ", ".join(f"{key}={value!r}" for key, value in G_EVAL.items())
    call = f"from deepeval.metrics import GEval\nm = GEval(model=pick(), **more, {arguments})"
    for name, content in {"a.json": G_EVAL, "b.json": [G_EVAL], "c.py": call}.items():
        found = read(tmp_path, name, content)
        (principle,) = found.principles
        assert (found.format, principle.id, principle.title, principle.text) == ("g-eval", *expected)
    rubric = [{"score_range": [0, 4], "expected_outcome": "rude"}, {"score_range": [5, 9], "expected_outcome": "kind"}]
    (principle,) = read(tmp_path, "d.json", {**G_EVAL, "rubric": rubric}).principles
    assert principle.rubric.words() == "0: rude\n5: kind"


def test_the_model_spec_gives_tiers_reasons_and_examples(tmp_path: Path) -> None:
    found = read(tmp_path, "model_spec.md", SPEC)
    kind, true = found.principles
    assert found.format == "model-spec"
    assert (kind.id, kind.title, kind.tier, kind.tags) == ("be_kind", "Be kind", 0, ("root",))
    assert kind.text == 'The assistant is **kind**, see also "Be true" and links.'
    assert kind.rationale == "Because people matter.\n\nSo much."
    (example,) = kind.examples
    assert example.prompt.startswith("Hello\n## not a heading")
    assert (example.better, example.worse) == ("Hello, good to see you.", "State your business.")
    assert example.critique == "cold"
    assert (true.id, true.tier, true.text) == ("be_true", 4, "Say what is true – always.")
    assert kind.source.url == "https://model-spec.openai.com/#be_kind"
    assert "1 headings without words" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "format", "line", "message"),
    [
        ("a.json", '[{"critic": "c",\n"revision": 3}]', "", 2, "[1].revision is a number, not a text"),
        ("a.json", '[{"critic": "c",\n"revison": "r"}]', "", 1, "[1] has no 'revision'. Did you mean \"revison\"?"),
        ("a.json", '[{"critic": "c", "revision": "r"},\n 7]', "", 2, "[2] is a number, not a mapping"),
        ("a.json", '["a",\n"b\\u202e"]', "", 2, "[2] holds the hidden character U+202E"),
        ("a.json", '["a",\n" "]', "", 2, "[2] is empty"),
        ("a.json", '["a",\n"b"', "", 2, "is not valid JSON"),
        ("a.json", '{"a": "b", "a": "c"}', "", None, "has the key 'a' twice"),
        ("a.json", '{"a": 1}', "", None, "the shape of no format that is known. Name it by --format"),
        ("a.json", "[]", "icai", None, "holds no principle in the format icai. It has a list of sentences"),
        ("a.json", "[1, 2]", "icai", None, "[1] is a number, not a text"),
        ("a.json", '["a"]', "icia", None, 'Did you mean "icai"?'),
        ("a.json", "", "", None, "is empty"),
        ("a.yaml", "schema: selfalign.constitution/v1\nname: a\n", "", None, "is a constitution already"),
        ("a.yaml", "a: &a [*a]\n", "", 1, "nested deeper"),
        (
            "a.yaml",
            "- assert:\n  - {type: llm-rubric, value: v, weight: no}\n",
            "",
            2,
            "weight is not a number from 0 up",
        ),
        ("a.py", "x = (\n", "", 1, "is not valid Python"),
        (
            "a.py",
            "\n\nGEval(criteria=open('x').read(), evaluation_steps=[3])",
            "",
            3,
            "evaluation_steps[1] is a number",
        ),
        ("a.jsonl", '{"score1_description": "a", "score2_description": "b"}\n{"a"', "", 2, "is not valid JSON"),
        ("a.md", "# A {#a authority=root}\n\n## B\x07 {#b authority=user}\n\nx", "", 3, "hidden character U+0007"),
        ("a.txt", "[Kind?]\nScore 1: rude\n", "", None, "fewer than two lines"),
        ("a.json", json.dumps([f"Be {n}." for n in range(1001)]), "", None, "holds 1,001 principles, more than 1,000"),
        ("a.json", json.dumps(["x" * 20001]), "", 1, "has 20,001 characters"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_place(
    name: str, content: str, format: str, line: int | None, message: str, tmp_path: Path
) -> None:
    error = refused(tmp_path, name, content, format)
    assert message in str(error)
    assert line is None or error.line == line


def test_bombs_are_refused(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrst"
    doubled = (f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise(letters))
    bomb = "a: &a [x, x]\n" + "".join(doubled)
    assert "expands to more than" in str(refused(tmp_path, "a.yaml", bomb))
    for name, said in {"a.yaml": "nested deeper", "a.py": "not valid Python"}.items():
        assert said in str(refused(tmp_path, name, "[" * 500))
    deep = '{"assert":[' * 300 + '{"type":"llm-rubric","value":"x"}' + "]}" * 300
    assert refused(tmp_path, "b.json", deep, "promptfoo")
    read(tmp_path, "a.md", "# A {#a authority=root}\n\nx\n\n~~~xml\n" + "<user>\n" * 100_000 + "~~~\n")
    assert refused(tmp_path, "b.md", "# a authority=root " + " " * 1_000_000 + "x\n")


WORD = st.text(st.sampled_from("ab é\n:#-'\"|{}[]%<>\\"), max_size=12)
KEYS = (
    "assert type value tests criteria evaluation_steps rubric critic revision prompt edit_request constitutions name "
    "system_chat score1_description score2_description critique_request revision_request weight metric"
)
TREE = st.recursive(
    WORD | st.integers(-2, 12) | st.none(),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), child, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(value=TREE, format=st.sampled_from(["", *FORMATS]))
def test_any_values_are_read_or_refused(value: object, format: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        read(folder, "any.json", value, format)
    except InputError as error:
        assert error.message


def test_a_plain_list_goes_out_and_comes_back(tmp_path: Path) -> None:
    rules = constitution.load(resources.find_constitution("helpful"))
    found = read(tmp_path, "norms.txt", constitution.to_text(rules))
    assert [principle.text for principle in found.principles] == [principle.text for principle in rules.active]
