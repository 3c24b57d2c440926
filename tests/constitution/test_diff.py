"""A diff of constitutions goes by ids and says what each edit means."""

from __future__ import annotations

from dataclasses import replace

from selfalign.constitution import AppliesWhen, Constitution, Example, Level, Principle, Rubric
from selfalign.constitution.diff import diff, in_words

KIND = Principle(id="kind", text="Be kind.", weight=1.0)
TRUE = Principle(id="true", text="Be true.")
OLD = Constitution(name="old", version="1.0.0", principles=(KIND, TRUE))


def changed(*principles: Principle, preamble: str = "") -> list[tuple[str, str, str]]:
    new = Constitution(name="new", version="1.1.0", preamble=preamble, principles=principles)
    return [(change.kind, change.principle, change.field) for change in diff(OLD, new).changes]


def test_each_edit_has_its_name() -> None:
    assert changed(TRUE, KIND) == []
    assert changed(KIND, replace(TRUE, text="Be truthful.")) == [("reworded", "true", "text")]
    assert changed(KIND, replace(TRUE, weight=2.0)) == [("reweighted", "true", "weight")]
    assert changed(KIND, replace(TRUE, tier=0)) == [("moved", "true", "tier")]
    assert changed(KIND, replace(TRUE, yields_to=("kind",))) == [("moved", "true", "yields_to")]
    scope = AppliesWhen(prompt_tags=("fact",))
    assert changed(KIND, replace(TRUE, applies_when=scope)) == [("rescoped", "true", "applies_when")]
    assert changed(KIND, replace(TRUE, rationale="Why not?")) == [("annotated", "true", "rationale")]
    assert changed(KIND, TRUE, preamble="Hear both.") == [("reworded", "", "preamble")]


def test_what_comes_and_goes() -> None:
    new = Principle(id="new", text="Be new.")
    assert changed(KIND, new) == [("added", "new", "status"), ("retired", "true", "status")]
    assert changed(KIND, replace(TRUE, status="deprecated")) == [("retired", "true", "status")]
    assert changed(KIND, replace(TRUE, status="draft")) == [("retired", "true", "status")]
    assert changed(KIND, TRUE, replace(new, status="draft")) == [("annotated", "new", "status")]
    draft = Constitution(name="old", version="1.0.0", principles=(KIND, replace(TRUE, status="draft")))
    (change,) = diff(draft, OLD).changes
    assert (change.kind, change.before, change.after) == ("added", "draft", "active")


def test_only_new_words_are_judged_anew() -> None:
    edited = (replace(KIND, weight=9.0, tier=0), replace(TRUE, compare="Which is truer?"), Principle(id="n", text="n"))
    new = Constitution(name="old", version="1.1.0", principles=edited)
    assert diff(OLD, new).judged_anew == ("true", "n")
    assert diff(OLD, OLD).judged_anew == ()
    assert diff(OLD, replace(OLD, preamble="Hear both.")).judged_anew == ("kind", "true")
    assert (diff(OLD, new).before, diff(OLD, new).after) == ("old 1.0.0", "old 1.1.0")


def test_every_value_of_a_principle_is_shown_in_words() -> None:
    example = Example(prompt="p", better="b", worse="w")
    values = [Rubric(levels=(Level(score=1, means="bad"),)), (example,), ("a", "b"), 2, 0.5]
    assert [in_words(value) for value in values] == ["1: bad", "p / b / w", "a, b", "2", "0.5"]
    scope = AppliesWhen(ask="Is it so?", prompt_tags=("a",))
    assert in_words(scope) == "Is it so?; tags a"
