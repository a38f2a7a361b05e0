"""Recipes as TOML: read, checked, written, compared.

A recipe file includes no other file; `--set section.key=value` overrides single keys.  A mistake is one sentence that
names the key; `keys()` lists all keys.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from .common.paths import check_text
from .common.untrusted import printable, read_text
from .common.urls import scrubbed
from .errors import UserError
from .recipe import GivenBetons, HeightAndWidth, Operations, Pair, Recipe, Section, Stages, Weights

MAX_BYTES = 1 << 16
"""Maximum size of a recipe: ten times our longest one."""
MAX_LINE = 5_000
"""Maximum characters of a line: a path fits. tomllib takes 18 s for one key of 30,000 parts."""


class Key(NamedTuple):
    """One recipe key, for tables."""

    name: str
    type: str
    default: str
    description: str


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with each "section.key=value" of `overrides` applied.

    Raises UserError, which names the file or key, the given value and the expected one.
    """
    path = Path(path)
    try:
        text = read_text(path, MAX_BYTES)
        if max(map(len, text.split("\n"))) > MAX_LINE:
            raise ValueError(f"a line has more than {MAX_LINE:,} characters")
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"there is no recipe {path}: {_recipes_beside(path)}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the recipe {path} is not valid TOML: {printable(str(error))}") from error
    except RecursionError:
        raise UserError(f"{path} is not a recipe: its values nest too deeply") from None
    except (OSError, ValueError) as error:  # ValueError also for a number of thousands of digits
        reason = printable(str(error))
        raise UserError(
            f"the recipe {printable(str(path))} cannot be read ({reason}): expected a TOML text file"
        ) from error
    return validate(table, str(path), [_apply(table, override) for override in overrides])


def validate(table: dict[str, Any], source: str = "the recipe", overridden: Collection[str] = ()) -> Recipe:
    """A recipe from nested tables; raises UserError for the first thing that is wrong in it.

    Args:
        source: where the tables come from, for messages.
        overridden: names of the keys that come from the command line instead (--set or a flag).
    """
    try:
        # Through JSON, where pydantic accepts an array as a tuple and 3 as a float, but not "3" as a number.
        return Recipe.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        name, sentence = _sentence(error)
        raise UserError(f"{'on the command line' if name in overridden else source}: {sentence}") from None
    except RecursionError:
        raise UserError(f"{source} is not a recipe: its values nest too deeply") from None
    except ValueError as error:
        raise UserError(f"{source} contains an invalid number: {printable(str(error))}") from None


def overridden(table: Mapping[str, Any], source: str, overrides: Sequence[str]) -> Recipe:
    """The recipe that ``Recipe.model_dump`` made a table of, with each "section.key=value" applied; raises UserError as ``load``."""
    own: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return validate(own, source, [_apply(own, override) for override in overrides])


def dump(recipe: Recipe) -> str:
    """The recipe as a complete TOML file, which `load` reads back to an equal recipe."""
    lines: list[str] = []
    for section, values in recipe.model_dump(mode="json").items():
        lines += [
            f"[{section}]",
            *(f"{key} = {toml(value)}" for key, value in values.items()),
            "",
        ]
    return "\n".join(lines)


def keys() -> Iterator[Key]:
    """Every key in the order of the sections."""
    for section, field in Recipe.model_fields.items():
        for name, key in _section(field).model_fields.items():
            yield Key(f"{section}.{name}", _type_name(key), json.dumps(key.default), key.description or "")


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the keys in which two dumped recipes differ.

    A missing key counts as its default: a recipe of an older version has fewer keys.
    """
    default = Recipe().model_dump(mode="json")

    def value(recipe: dict[str, Any], section: str, name: str) -> Any:
        return {**default.get(section, {}), **recipe.get(section, {})}.get(name)

    return [
        f"{section}.{name}"
        for section in {**one, **other}
        for name in {**one.get(section, {}), **other.get(section, {})}
        if value(one, section, name) != value(other, section, name)
    ]


def toml(value: Any) -> str:
    """The value as TOML: its JSON, with the one control character escaped that only TOML wants escaped, and tables in TOML's own way."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _apply(table: dict[str, Any], override: str) -> str:
    """Set one "section.key=value", whose value is TOML or else plain text; return the key's name."""
    name, equals, text = override.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot:
        raise UserError(f"--set {printable(override)}: expected section.key=value, as in --set optim.lr=0.02")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # not TOML, or a number or nesting too long for Python
        value = check_text(text, f"--set {section}.{key} =")
    values = table.setdefault(section, {})
    if not isinstance(values, dict):
        given = printable(repr(values))
        raise UserError(f"{section} = {given} is not a section: write [{section}] and its keys below it")
    values[key] = value
    return f"{section}.{key}"


def _sentence(error: ValidationError) -> tuple[str, str]:
    """The first mistake: its key, and one sentence. Unknown keys come first, since they explain the others."""
    mistakes = sorted(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    mistake = mistakes[0]
    name = printable(".".join(str(part) for part in mistake["loc"][:2]))
    if mistake["type"] == "json_invalid":  # nested too deeply for pydantic, or text that is not Unicode
        return name, f"it is not a recipe ({printable(mistake['msg'])})"
    if mistake["type"] == "extra_forbidden":
        return name, f"unknown {'key' if '.' in name else 'section'} {name}{_nearest(name)}"
    given = printable(json.dumps(mistake["input"], default=str))
    given = scrubbed(given) if "://" in given else given
    if mistake["type"] == "value_error":  # a validator's own sentence
        return name, f"{name} = {given} is not accepted: {printable(str(mistake['ctx']['error']))}"
    return name, f"{name} = {given} is not accepted: expected {_expected(name, mistake)}"


def _expected(name: str, mistake: Any) -> str:
    """What the key expects: its type, and its limits where the type was right."""
    kind = next((key.type for key in keys() if key.name == name), f"a section, [{name}] with keys below it")
    of_type = mistake["type"].endswith(("_type", "_from_float", "literal_error", "too_long", "missing"))
    limit = mistake["msg"].removeprefix("Input should be ").removeprefix("String should ")
    number, *stages = kind.partition(" or a list by epoch")
    return kind if of_type else f"{number}, {limit}{''.join(stages)}"


def _nearest(name: str) -> str:
    """'; did you mean X?', looking in the same section first, then everywhere."""
    section, _, key = name.partition(".")
    if not key:
        found = difflib.get_close_matches(section, Recipe.model_fields, 1, 0.5)
        return (
            f"; did you mean [{found[0]}]?"
            if found
            else f": the sections are {', '.join(Recipe.model_fields)}"
        )
    names = [known.name for known in keys()]
    own = [known for known in names if known.startswith(f"{section}.")]
    for scope, cutoff in ((own, 0.6), (names, 0.7)):
        full = {known.partition(".")[2]: known for known in scope}
        if near := difflib.get_close_matches(key, full, 1, cutoff):
            return f"; did you mean {full[near[0]]}?"
    return f": the keys of [{section}] are {', '.join(known.partition('.')[2] for known in own)}"


def _section(field: FieldInfo) -> type[Section]:
    assert isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    return field.annotation


def _type_name(field: FieldInfo) -> str:
    """A key's type in words."""
    names = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        Pair: "[number, number]",
        GivenBetons: "text or a list of texts",
        Weights: "a list of numbers",
        HeightAndWidth: "[height, width]",
        Operations: 'a list of tables, [{op = "NAME", parameter = value}]',
        Stages: "a list by epoch, [[0, number], [epoch, number]]",
    }
    if field.annotation in names:
        return names[field.annotation]
    options: list[str] = []
    for member in getattr(field.annotation, "__args__", ()):
        members = (member,) if member in names else getattr(member, "__args__", (member,))
        options += [json.dumps(option) if isinstance(option, str) else names[option] for option in members]
    return " or ".join(options)


def _recipes_beside(path: Path) -> str:
    names = sorted(other.name for other in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, 1, 0.4)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    return f"{path.parent} has {', '.join(names)}" if names else "give the path of a TOML file"
