"""Which of a file's fields are the image and the label: the only ones of their types, or the ones that are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import format as fmt
from .target_fields import LABEL_TYPES

KINDS = {
    fmt.FLOAT_ID: "float",
    fmt.INT_ID: "int",
    fmt.RGB_IMAGE_ID: "RGB image",
    fmt.BYTES_ID: "bytes",
    fmt.NDARRAY_ID: "ndarray",
    fmt.JSON_ID: "JSON",
    fmt.TENSOR_ID: "tensor",
}
MAX_LISTED = 20


@dataclass(frozen=True)
class Purpose:
    """What a field is used as: the image or the label.

    name: in messages.  argument: which names the field.
    type_ids: the types that it may have; if no field is named, it is the file's only field of the first of these that it has.
    """

    name: str
    argument: str
    type_ids: tuple[int, ...]

    @property
    def kinds(self) -> str:
        """The names of the types."""
        return " or ".join(KINDS[type_id] for type_id in self.type_ids)


IMAGE = Purpose("image", "image_field", (fmt.RGB_IMAGE_ID,))
LABEL = Purpose("label", "label_field", LABEL_TYPES)


class Field(NamedTuple):
    """One field of a file, as its descriptor tells it."""

    name: str
    """FFCV stores the first 16 characters of what it was given."""
    type_id: int

    @property
    def kind(self) -> str:
        """The name of its type, or its number where FFCV has no such type."""
        return KINDS.get(self.type_id, f"type {self.type_id}")

    def __str__(self) -> str:
        return f"{self.name!r} ({self.kind})"


def fields_of(descriptors: np.ndarray) -> tuple[Field, ...]:
    """(num_fields,) ``format.FIELD`` -> the fields in the file's order."""
    return tuple(Field(fmt.field_name(each["name"]), int(each["type_id"])) for each in descriptors)


def listed(fields: Sequence[Field]) -> str:
    """``'image' (RGB image), 'label' (int)``; a hostile file's 64 fields are no sentence."""
    more = f" and {len(fields) - MAX_LISTED} more" if len(fields) > MAX_LISTED else ""
    return ", ".join(map(str, fields[:MAX_LISTED])) + more


def choose(fields: Sequence[Field], purpose: Purpose, name: str | None) -> int:
    """The place of the one field of a type, of which there is at least one, or of the field of that type that is named.

    A float field is the label if it is named, or if there is no int field; an array, if it is named, or if there is neither.

    To take the first of several gave {index, image, label} the labels 1000, 1001, ... without a word.

    Raises:
        ValueError: there is no such field, or more than one; the text goes behind the file's name.
    """
    there = {field.type_id for field in fields}
    if name is None:
        type_id = next(type_id for type_id in purpose.type_ids if type_id in there)
        of_type = [place for place, field in enumerate(fields) if field.type_id == type_id]
        if len(of_type) == 1:
            return of_type[0]
        raise ValueError(
            f"has {len(of_type)} {KINDS[type_id]} fields, and one of them is the {purpose.name}: it has {listed(fields)}; "
            f"{_how(purpose, [fields[place].name for place in of_type])}"
        )
    named = [place for place, field in enumerate(fields) if field.name == name]
    candidates = [field.name for field in fields if field.type_id in purpose.type_ids]
    if not named:
        raise ValueError(
            f"has no field {str(name)!r} to be the {purpose.name}: it has {listed(fields)}; {_how(purpose, candidates)}"
        )
    if len(named) > 1:
        raise ValueError(
            f"has {len(named)} fields of the name {name!r}, which nobody can tell apart: it has {listed(fields)}; "
            "write it again with a name for each"
        )
    if fields[named[0]].type_id not in purpose.type_ids:
        raise ValueError(
            f"has {fields[named[0]]}, which cannot be the {purpose.name}: that is of type {purpose.kinds}, and it has "
            f"{listed(fields)}; {_how(purpose, candidates)}"
        )
    return named[0]


def field_named(fields: Sequence[Field], name: str) -> int:
    """The place of the field of a name.

    Raises:
        ValueError: there is none, or more than one; the text goes behind the file's name.
    """
    named = [place for place, field in enumerate(fields) if field.name == name]
    if len(named) != 1:
        raise ValueError(
            f"has {len(named) or 'no'} field{'s' * (len(named) > 1)} of the name {str(name)!r}: it has {listed(fields)}"
        )
    return named[0]


def _how(purpose: Purpose, names: Sequence[str]) -> str:
    """What to pass."""
    argument = purpose.argument
    given = " or ".join(repr(name) for name in list(dict.fromkeys(names))[:MAX_LISTED])
    return f"give {argument} = {given} (in a recipe data.{argument}, to the tools --{argument.replace('_', '-')})"
