"""From flags, variables, a file and recipes to one tree of settings, and where each value came from."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from selfalign import resources, source
from selfalign.config.contradictions import contradictions, unread
from selfalign.config.tree import Campaign
from selfalign.settings import Builder, Layer, Setting, flag_layer, leaves, merge, origin_layer, problem_at
from selfalign.source import InputError, Problem

ENVIRONMENT_PREFIX = "SELFALIGN_"


class ConfigError(InputError):
    """The settings are refused. Each of `problems` has the file or flag, the line, what is wrong and what to write."""


@dataclass(frozen=True)
class Loaded:
    """A campaign's settings, and where each one came from."""

    campaign: Campaign
    layers: tuple[Layer, ...]  # from the strongest to the weakest
    file: Path | None
    recipe: str | None

    def origin(self, path: str) -> str:
        """The origin of a setting such as "train.beta".

        Returns "file:line", "--set", a variable's name, "recipe NAME" or "default".
        """
        setting = _setting(path)
        layer = origin_layer(self.layers, setting)
        return layer.origin(setting) if layer else "default"

    def problem(self, path: str, message: str, fix: str = "") -> Problem:
        """Something wrong with what a setting names, placed where the setting was given."""
        return problem_at(self.layers, _setting(path), message, fix)

    def settings(self) -> Iterator[tuple[str, Any, str]]:
        """Every setting as (dotted name, value, origin)."""
        for path, value in leaves(msgspec.to_builtins(self.campaign)):
            name = ".".join(path)
            yield name, value, self.origin(name)

    def to_yaml(self) -> str:
        """All settings, defaults written out: loading this text gives the same campaign."""
        return to_yaml(self.campaign)


def load(
    file: Path | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Read, merge and validate the settings of a campaign; `check_files` of `preflight` then looks at what they name.

    `overrides` are "key=value" with a dotted key and a YAML value. A file may name its base with `recipe: NAME`; the
    argument wins. Paths of the user's own files come back absolute. Raises ConfigError with everything that is wrong.
    """
    own = [*_flag_layers(overrides), *_environment_layers(environ or {})]
    if file is not None:
        own.append(_file_layer(Path(file), str(file)))
    recipe = recipe or next((layer.values["recipe"] for layer in own if "recipe" in layer.values), None)
    recipes = _recipe_layers(recipe, own)
    unasked = {section for section, *_ in unread(_build([*own, *recipes]))}
    layers = [*own, *(_without(layer, unasked) for layer in recipes)]
    campaign = _build(layers)
    _refuse_contradictions(campaign, layers)
    return Loaded(_find_paths(campaign, Path(file).parent if file else None), tuple(layers), file, recipe)


def _build(layers: Sequence[Layer]) -> Campaign:
    """The campaign that the layers make together, each setting of the right type."""
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = merge(values, layer.values)
    values.pop("recipe", None)
    builder = Builder(Campaign, layers)
    campaign = builder.build(values)
    if not builder.problems:
        for number, phase in enumerate(campaign.schedule):
            for name in ("train", "pairs"):
                whole = merge(msgspec.to_builtins(getattr(campaign, name)), getattr(phase, name))
                builder.check(type(getattr(campaign, name)), whole, ("schedule", number, name))
    if builder.problems:
        raise ConfigError(builder.problems)
    return campaign


def _without(recipe: Layer, sections: Collection[str]) -> Layer:
    """A recipe without the sections that nothing reads: it is made for several choices, and only one is taken."""
    values = {name: value for name, value in recipe.values.items() if name not in sections}
    return dataclasses.replace(recipe, document=dataclasses.replace(recipe.document, value=values))


def _refuse_contradictions(campaign: Campaign, layers: Sequence[Layer]) -> None:
    problems = [problem_at(layers, _setting(path), message, fix) for path, message, fix in contradictions(campaign)]
    if problems:
        raise ConfigError(problems)


def _setting(dotted: str) -> Setting:
    """From "schedule.1.train.beta" to ("schedule", 1, "train", "beta")."""
    return tuple(int(key) if key.isdecimal() else key for key in dotted.split("."))


def to_yaml(campaign: Campaign) -> str:
    from ruamel.yaml import YAML

    stream, writer = io.StringIO(), YAML()
    writer.width = 4096
    writer.dump(msgspec.to_builtins(campaign), stream)
    return stream.getvalue()


def schema_text() -> str:
    """The JSON Schema of a campaign file: the text of schemas/campaign.schema.json."""
    schema = msgspec.json.schema(Campaign)
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
        definition.pop("required", None)
    schema["$defs"]["Campaign"]["properties"]["recipe"] = {"enum": resources.recipes()}
    for name in ("train", "pairs"):
        schema["$defs"]["Phase"]["properties"][name] = {"$ref": f"#/$defs/{name.capitalize()}"}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "selfalign campaign"} | schema
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# The layers.


def _flag_layers(overrides: Sequence[str]) -> list[Layer]:
    """One layer a flag; of two flags for one setting the later wins."""
    layers = []
    for text in reversed(overrides):
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(Problem("--set", None, f"{text!r} is not key=value", "Write --set train.beta=0.2."))
        layers.append(flag_layer("--set", tuple(key.strip().split(".")), value, Campaign))
    return layers


def _environment_layers(environ: Mapping[str, str]) -> list[Layer]:
    """SELFALIGN_TRAIN__BETA sets train.beta. A variable that names no setting is refused, as any misspelling is."""
    names = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX))
    return [
        flag_layer(name, tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")), environ[name], Campaign)
        for name in names
    ]


def _file_layer(file: Path, label: str) -> Layer:
    try:
        document = source.read_yaml(source.read_text(file), str(file))
    except InputError as error:
        raise ConfigError(error.problems) from error
    if not isinstance(document.value, dict):
        raise ConfigError(document.problem((), "holds no settings", "Start with the line `recipe: pocket`."))
    return Layer(label, document)


def _recipe_layers(name: Any, own: Sequence[Layer]) -> list[Layer]:
    """The recipe of that name and those that it stands on, the strongest first."""
    found: list[Layer] = []
    while name is not None:
        found.append(_recipe_layer(name, [*own, *found]))
        name = found[-1].values.get("recipe")
    return found


def _recipe_layer(name: Any, layers: Sequence[Layer]) -> Layer:
    path = resources.recipe(name)
    if path is not None:
        return _file_layer(path, f"recipe {name}")
    message = f"there is no recipe {name!r}"
    fix = source.did_you_mean(name, resources.recipes()) or _known_recipes()
    naming = next((layer.document for layer in layers if layer.values.get("recipe") == name), None)
    raise ConfigError(naming.problem(("recipe",), message, fix) if naming else Problem("--recipe", None, message, fix))


def _known_recipes() -> str:
    return f"The recipes are {', '.join(resources.recipes())}."


# Where the files of a campaign are.


def _find_paths(campaign: Campaign, folder: Path | None) -> Campaign:
    """Make the paths of the user's files absolute; leave shipped files, Hub names and missing files as written."""

    def path(name: str | None) -> str | None:
        return name if name in (None, "self", "base", "policy") else _absolute(name, resources.find(name, folder))

    def patterns(names: str | list[str]) -> str | list[str]:
        return [pattern(name) for name in names] if isinstance(names, list) else pattern(names)

    def pattern(name: str) -> str:
        return name if name.startswith("datasets:") else _absolute(name, resources.find_pattern(name, folder))

    def rules(name: str | None) -> str | None:
        return None if name is None else _absolute(name, resources.find_constitution(name, folder))

    replace, evaluate = dataclasses.replace, campaign.evaluate
    judge = replace(evaluate.judge, model=path(evaluate.judge.model))
    return replace(
        campaign,
        constitution=rules(campaign.constitution),
        policy=replace(campaign.policy, model=path(campaign.policy.model)),
        prompts=replace(
            campaign.prompts, train=patterns(campaign.prompts.train), heldout=patterns(campaign.prompts.heldout)
        ),
        reward_model=replace(campaign.reward_model, model=path(campaign.reward_model.model)),
        revise=replace(
            campaign.revise, prompts=patterns(campaign.revise.prompts), helpful=patterns(campaign.revise.helpful)
        ),
        judge=replace(campaign.judge, model=path(campaign.judge.model), calibration=path(campaign.judge.calibration)),
        evaluate=replace(evaluate, constitution=rules(evaluate.constitution), judge=judge),
        train=replace(campaign.train, accelerate_config=path(campaign.train.accelerate_config)),
    )


def _absolute(name: str, found: Path | None) -> str:
    return name if found is None or resources.is_shipped(found) else str(found)
