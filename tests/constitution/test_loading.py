"""The constitution: what is loaded and refused, how parents merge, and which principle a prompt meets."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from selfalign import constitution, resources
from selfalign.constitution import ConstitutionError
from selfalign.records import Message, Prompt

HEAD = "schema: selfalign.constitution/v1\nname: rules\nversion: 1.0.0\n"
RULES = (
    HEAD
    + """\
preamble: Be fair.   # said first
principles:
  # the first of all
  - id: truthful
    text: "The response is true."
    weight: 3
  - id: kind
    compare: 'Which response is kinder?'
    applies_when: {prompt_tags: [sad, angry]}
  - id: brief
    status: draft
    text: The response is brief.
"""
)


def write(folder: Path, text: str, name: str = "rules.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> ConstitutionError:
    with pytest.raises(ConstitutionError) as caught:
        constitution.load(path)
    return caught.value


def prompt(words: str, *tags: str) -> Prompt:
    return Prompt.make((Message("user", words),), tags=tags)


def test_a_constitution_is_loaded_with_its_principles(tmp_path: Path) -> None:
    rules = constitution.load(write(tmp_path, RULES))
    assert (rules.name, rules.version, rules.preamble) == ("rules", "1.0.0", "Be fair.")
    assert [principle.id for principle in rules.principles] == ["truthful", "kind", "brief"]
    assert [principle.id for principle in rules.active] == ["truthful", "kind"]
    assert (
        rules.principles[0].comparison()
        == "Choose the response that follows this principle better: The response is true."
    )
    assert rules.principles[1].norm() == "Which response is kinder?"


def test_everything_the_design_names_is_kept(tmp_path: Path) -> None:
    text = (
        HEAD
        + """\
principles:
  - id: no-flattery
    title: Don't flatter
    kind: hard_constraint
    tier: 2
    weight: 0.5
    tags: [honesty]
    text: "The norm."
    critique: "What flatters?"
    revise: "Remove it."
    rubric: {levels: [{score: 1, means: "flatters"}, {score: 5, means: "does not"}]}
    applies_when: {ask: "Is there an opinion?", prompt_tags: [claim]}
    examples: [{prompt: "p", better: "b", worse: "w"}, {prompt: "q", better: "b", worse: "w", critique: "It flatters."}]
    rationale: "Trust."
    source: {name: "Own", license: "CC0-1.0"}
"""
    )
    rules = constitution.load(write(tmp_path, text))
    principle = rules.principles[0]
    assert (principle.kind, principle.tier, principle.weight) == ("hard_constraint", 2, 0.5)
    assert principle.rubric.levels[1] == constitution.Level(score=5, means="does not")
    plain, worked = principle.examples
    assert plain == constitution.Example(prompt="p", better="b", worse="w")
    assert worked == constitution.Example(prompt="q", better="b", worse="w", critique="It flatters.")
    assert (principle.rationale, principle.source.license) == ("Trust.", "CC0-1.0")
    assert constitution.load(write(tmp_path, rules.to_yaml(), "again.yaml")) == rules


def test_an_editor_can_complete_and_describe_every_key() -> None:
    schema = json.loads(resources.schema("constitution"))
    principle = schema["$defs"]["principle"]["properties"]
    parts = {
        constitution.Principle: principle,
        constitution.Source: principle["source"]["properties"],
        constitution.AppliesWhen: principle["applies_when"]["properties"],
        constitution.Example: principle["examples"]["items"]["properties"],
        constitution.Level: principle["rubric"]["properties"]["levels"]["items"]["properties"],
    }
    for kind, properties in parts.items():
        assert {field.name for field in fields(kind)} == properties.keys()
        assert all("description" in described for described in properties.values())
    assert all("description" in described for described in schema["properties"].values())
    for name in resources.constitutions():
        first = resources.find_constitution(name).read_text(encoding="utf-8").splitlines()[0]
        assert first == "# yaml-language-server: $schema=../selfalign/schemas/constitution.schema.json"


def test_a_rubric_or_a_revision_alone_gives_words(tmp_path: Path) -> None:
    text = (
        HEAD
        + """\
principles:
  - {id: a, rubric: {levels: [{score: 1, means: bad}, {score: 2, means: good}]}}
  - {id: b, critique: "What is unclear?", revise: "Say it clearly."}
"""
    )
    first, second = constitution.load(write(tmp_path, text)).principles
    assert first.norm() == "1: bad\n2: good"
    assert second.norm() == "What is unclear?"


def test_critique_and_revision_are_asked_for_in_given_or_derived_words() -> None:
    given = constitution.Principle(id="a", text="The norm.", critique="What flatters?", revise="Remove it.")
    assert (given.critique_request(), given.revision_request()) == ("What flatters?", "Remove it.")
    derived = constitution.Principle(id="b", text="The norm.")
    assert (
        derived.critique_request()
        == "Point out where your response falls short when judged by this principle: The norm."
    )
    assert (
        derived.revision_request()
        == "Rewrite your response so that it does well when judged by this principle: The norm."
    )
    asked = constitution.Principle(id="c", compare="Which is kinder?")
    assert asked.critique_request().endswith("principle: Which is kinder?")


def test_the_words_of_revisions_have_a_hash_of_their_own() -> None:
    """`hash` names what judges see: verdicts stay valid when only the words of critique and revision change."""
    plain = constitution.Principle(id="a", text="The norm.")
    example = constitution.Example(prompt="p", better="b", worse="w", critique="c")
    for change in ({"critique": "Why?"}, {"revise": "Mend it."}, {"examples": (example,)}):
        changed = replace(plain, **change)
        assert changed.hash == plain.hash
        assert changed.revision_hash != plain.revision_hash
        before, after = (
            constitution.Constitution(name="n", version="1.0.0", principles=(p,)) for p in (plain, changed)
        )
        assert before.hash == after.hash
        assert before.revision_hash != after.revision_hash
    assert replace(plain, title="t", rationale="r").revision_hash == plain.revision_hash


def test_what_is_left_out_is_not_written(tmp_path: Path) -> None:
    """Built in code, a principle has every field; an empty text in the file would be refused when it is read."""
    principle = constitution.Principle(
        id="a",
        text="t",
        examples=(constitution.Example(prompt="p", better="b", worse="w"),),
        applies_when=constitution.AppliesWhen(prompt_tags=("harm",)),
        source=constitution.Source(name="Own"),
    )
    rules = constitution.Constitution(name="n", version="1.0.0", principles=(principle,))
    assert constitution.load(write(tmp_path, rules.to_yaml())) == rules


@pytest.mark.parametrize(
    ("change", "line", "message", "suggestion"),
    [
        (("weight: 3", "wieght: 3"), 9, "unknown key 'wieght'", 'Did you mean "weight"?'),
        (("weight: 3", "weight: heavy"), 9, "principles[1].weight is 'heavy', not a number", ""),
        (("weight: 3", "weight: -1"), 9, "principles[1].weight", ""),
        (("weight: 3", "weight: .nan"), 9, ".nan is not a finite number", ""),
        (("status: draft", "status: darft"), 14, "principles[3].status is 'darft'", 'Did you mean "draft"?'),
        (("id: brief", "id: truthful"), 13, 'the id "truthful" stands twice, first on line 7', "its own id"),
        (("id: kind", "id: Be Kind!"), 10, "principles[2].id is 'Be Kind!', which is not allowed", "no-flattery"),
        (("  - id: brief\n", "  - title: x\n"), 13, "principle 3 has no id", "Add `id:`"),
        (("version: 1.0.0", "version: 1.0"), 3, "version is 1.0, not a text", "Put it in quotes."),
        (("version: 1.0.0", "version: '1'"), 3, "version is '1', which is not allowed", "1.0.0"),
        (("schema: selfalign.constitution/v1", "schema: v1"), 1, "schema is 'v1'", "selfalign.constitution/v1"),
        (("name: rules", "naem: rules"), None, "unknown key 'naem'", 'Did you mean "name"?'),
        (("    text: The response is brief.\n", ""), 13, 'the principle "brief" has no words', "text or compare"),
        (("Be fair.", '"Be \\e[31mfair."'), 4, "hidden character U+001B", "Delete"),
        (("Be fair.", '"Be \\u202Efair."'), 4, "hidden character U+202E", "Delete"),
        (("is brief", "is \U000e0041brief"), 15, "hidden character U+E0041", "Delete"),
        (("id: kind", "id: kind\n    id: kind"), 11, '"id" stands twice, first on line 10', ""),
        (("[sad, angry]", "sad"), 12, "applies_when.prompt_tags is 'sad', not a list", ""),
    ],
)
def test_what_is_wrong_is_refused_at_its_line(
    change: tuple[str, str], line: int | None, message: str, suggestion: str, tmp_path: Path
) -> None:
    path = write(tmp_path, RULES.replace(*change, 1))
    problems = refused(path).problems
    found = next((problem for problem in problems if message in problem.message), None)
    assert found is not None, problems
    assert found.file == str(path)
    assert suggestion in found.suggestion
    if line is not None:
        assert found.line == line


def test_no_active_principle_is_refused(tmp_path: Path) -> None:
    text = RULES.replace("  - id: kind", "    status: draft\n  - id: kind").replace(
        "    compare", "    status: deprecated\n    compare"
    )
    assert "no active principle" in refused(write(tmp_path, text)).message
    assert "no active principle" in refused(write(tmp_path, HEAD + "principles: []\n")).message
    assert "has no principles" in refused(write(tmp_path, HEAD)).message


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    assert "empty" in refused(write(tmp_path, "")).message
    assert "cannot be read" in refused(tmp_path / "none.yaml").message


def test_a_child_overrides_by_id_and_field(tmp_path: Path) -> None:
    write(tmp_path, RULES)
    child = (
        HEAD.replace("name: rules", "name: child")
        + """\
extends: [rules]
principles:
  - {id: truthful, weight: 9}
  - {id: brief, status: active}
  - {id: new, text: The response is new.}
"""
    )
    rules = constitution.load(write(tmp_path, child, "child.yaml"))
    assert [principle.id for principle in rules.active] == ["truthful", "kind", "brief", "new"]
    assert (rules.principles[0].weight, rules.principles[0].text) == (9.0, "The response is true.")
    assert rules.preamble == "Be fair."
    flat = constitution.load(write(tmp_path, rules.to_yaml(), "flat.yaml"))
    assert flat == rules


def test_a_later_parent_wins_and_a_shipped_one_is_found_by_name(tmp_path: Path) -> None:
    write(tmp_path, RULES)
    write(tmp_path, RULES.replace("The response is true.", "Say what is."), "other.yaml")
    child = write(tmp_path, HEAD + "extends: [rules.yaml, other.yaml]\n", "child.yaml")
    assert constitution.load(child).principles[0].text == "Say what is."
    child = write(tmp_path, HEAD + "extends: [pocket]\n", "child.yaml")
    shipped = constitution.load(resources.find_constitution("pocket"))
    assert constitution.load(child).principles == shipped.principles


@pytest.mark.parametrize(
    ("added", "message", "suggestion"),
    [
        ("yields_to: [kid]", "yields_to names 'kid', which is no principle", 'Did you mean "kind"?'),
        ("yields_to: [Kind!]", "yields_to[1] is 'Kind!', which is not allowed", "ids of other principles"),
        ("yields_to: [late]", '"brief" yields to "late", which it outranks by its tier', "change the tier"),
        ("yields_to: [firm]", '"brief" yields to "firm" yields to "brief": a circle', "Drop one"),
        ("yields_to: [brief]", '"brief" yields to "brief": a circle', "Drop one"),
        ("replaced_by: bref", "replaced_by names 'bref', which is no principle", 'Did you mean "brief"?'),
    ],
)
def test_references_lead_somewhere_and_upwards(added: str, message: str, suggestion: str, tmp_path: Path) -> None:
    rest = "  - {id: late, text: The response is late., tier: 3}\n  - {id: firm, text: t, yields_to: [brief]}\n"
    error = refused(write(tmp_path, RULES.replace("id: brief\n", f"id: brief\n    {added}\n") + rest))
    assert message in str(error)
    assert (error.line, suggestion in error.suggestion) == (14, True)


def test_what_yields_is_part_of_the_hash_and_of_the_file(tmp_path: Path) -> None:
    base = constitution.load(write(tmp_path, RULES))
    text = RULES.replace("    weight: 3\n", "    weight: 3\n    yields_to: [kind]\n")
    rules = constitution.load(write(tmp_path, text))
    assert rules.principles[0].yields_to == ("kind",)
    assert rules.hash != base.hash
    assert constitution.load(write(tmp_path, rules.to_yaml(), "again.yaml")) == rules


def test_parents_named_over_and_over_are_read_once(tmp_path: Path) -> None:
    """Each of 40 files names the next by three spellings: read anew each time, they would be 3^40."""
    for number in range(40):
        names = [f"{dots}c{number + 1}.yaml" for dots in ("", "./", "././")]
        write(tmp_path, HEAD + f"extends: {names}\n", f"c{number}.yaml")
    write(tmp_path, RULES, "c40.yaml")
    assert len(constitution.load(tmp_path / "c0.yaml").principles) == 3


def test_circles_and_missing_parents_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "extends: [b]\n", "a.yaml")
    path = write(tmp_path, HEAD + "extends:\n  - a\n", "b.yaml")
    error = refused(path)
    assert "extends this file again" in error.message
    assert error.line == 4
    error = refused(write(tmp_path, HEAD + "extends: [pockett]\n", "c.yaml"))
    assert (error.line, error.suggestion) == (4, 'Did you mean "pocket"?')


def test_a_wordless_principle_that_only_the_child_has_is_refused_there(tmp_path: Path) -> None:
    write(tmp_path, RULES)
    path = write(tmp_path, HEAD + "extends: [rules]\nprinciples:\n  - {id: typo, weight: 2}\n", "child.yaml")
    error = refused(path)
    assert (error.file, error.line) == (str(path), 6)


def test_the_hash_follows_what_changes_labels(tmp_path: Path) -> None:
    base = constitution.load(write(tmp_path, RULES)).hash
    prose = RULES.replace("version: 1.0.0", "version: 1.0.1").replace("weight: 3", "weight: 3\n    rationale: Because.")
    assert constitution.load(write(tmp_path, prose)).hash == base
    drafts = RULES.replace("is brief", "is short")
    assert constitution.load(write(tmp_path, drafts)).hash == base
    for old, new in [
        ("is true", "is so"),
        ("weight: 3", "weight: 4"),
        ("Be fair", "Be just"),
        ("[sad, angry]", "[sad]"),
    ]:
        assert constitution.load(write(tmp_path, RULES.replace(old, new))).hash != base


def test_a_principle_applies_by_any_of_its_tags(tmp_path: Path) -> None:
    rules = constitution.load(write(tmp_path, RULES))
    assert [p.id for p in rules.applicable(prompt("a"))] == ["truthful"]
    assert [p.id for p in rules.applicable(prompt("a", "angry", "x"))] == ["truthful", "kind"]


def test_sampling_follows_weights_and_the_seed_alone(tmp_path: Path) -> None:
    rules = constitution.load(write(tmp_path, RULES))
    sad = [prompt(f"prompt {n}", "sad") for n in range(4000)]
    drawn = [rules.sample(one, seed=5).id for one in sad]
    assert drawn == [rules.sample(one, seed=5).id for one in sad]
    assert drawn != [rules.sample(one, seed=6).id for one in sad]
    share = Counter(drawn)["truthful"] / len(drawn)
    assert abs(share - 3 / 4) < 4 * (0.75 * 0.25 / len(drawn)) ** 0.5
    assert {rules.sample(prompt(str(n)), seed=5).id for n in range(20)} == {"truthful"}


def test_an_added_principle_changes_only_the_draws_it_wins(tmp_path: Path) -> None:
    before = constitution.load(write(tmp_path, RULES))
    after = constitution.load(write(tmp_path, RULES + "  - {id: new, text: The response is new.}\n"))
    prompts = [prompt(f"prompt {n}", "sad") for n in range(300)]
    changed = [after.sample(one, 1).id for one in prompts if after.sample(one, 1) != before.sample(one, 1)]
    assert changed
    assert set(changed) == {"new"}


def test_no_applicable_principle_draws_none(tmp_path: Path) -> None:
    text = RULES.replace("weight: 3", "weight: 0")
    rules = constitution.load(write(tmp_path, text))
    assert rules.sample(prompt("a"), seed=1) is None
    assert rules.sample(prompt("a", "sad"), seed=1).id == "kind"


def test_comments_order_and_quotes_survive_an_edit() -> None:
    document = constitution.open_document(RULES)
    document["principles"][0]["weight"] = 2
    edited = constitution.dump(document)
    assert edited == RULES.replace("weight: 3", "weight: 2")


@pytest.mark.parametrize("name", resources.constitutions())
def test_an_edit_leaves_all_else_of_a_shipped_file_as_it_is(name: str) -> None:
    text = resources.find_constitution(name).read_text(encoding="utf-8")
    assert constitution.dump(constitution.open_document(text)) == text


@pytest.mark.parametrize("name", resources.constitutions())
def test_every_shipped_constitution_is_valid(name: str) -> None:
    rules = constitution.load(resources.find_constitution(name))
    assert rules.name == name
    assert len({principle.hash for principle in rules.principles}) == len(rules.principles)
