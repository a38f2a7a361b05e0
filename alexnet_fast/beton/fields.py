"""Which of a file's fields are the image and the label: the only ones of their types, or the ones that are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from . import format as fmt

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
ARGUMENTS = {fmt.RGB_IMAGE_ID: "image_field", fmt.INT_ID: "label_field"}
PURPOSES = {fmt.RGB_IMAGE_ID: "image", fmt.INT_ID: "label"}


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


def choose(fields: Sequence[Field], type_id: int, name: str | None) -> int:
    """The place of the one field of a type, of which there is at least one, or of the field of that type that is named.

    To take the first of several gave {index, image, label} the labels 1000, 1001, ... without a word.

    Raises:
        ValueError: there is no such field, or more than one; the text goes behind the file's name.
    """
    argument, purpose, kind = ARGUMENTS[type_id], PURPOSES[type_id], KINDS[type_id]
    of_type = [place for place, field in enumerate(fields) if field.type_id == type_id]
    if name is None:
        if len(of_type) == 1:
            return of_type[0]
        raise ValueError(
            f"has {len(of_type)} {kind} fields, and one of them is the {purpose}: it has {listed(fields)}; "
            f"{_how(argument, [fields[place].name for place in of_type])}"
        )
    named = [place for place, field in enumerate(fields) if field.name == name]
    candidates = [fields[place].name for place in of_type]
    if not named:
        raise ValueError(
            f"has no field {str(name)!r} to be the {purpose}: it has {listed(fields)}; {_how(argument, candidates)}"
        )
    if len(named) > 1:
        raise ValueError(
            f"has {len(named)} fields of the name {name!r}, which nobody can tell apart: it has {listed(fields)}; "
            "write it again with a name for each"
        )
    if named[0] not in of_type:
        raise ValueError(
            f"has {fields[named[0]]}, which cannot be the {purpose}: that is of type {kind}, and it has "
            f"{listed(fields)}; {_how(argument, candidates)}"
        )
    return named[0]


def _how(argument: str, names: Sequence[str]) -> str:
    """What to pass."""
    given = " or ".join(repr(name) for name in list(dict.fromkeys(names))[:MAX_LISTED])
    return f"give {argument} = {given} (in a recipe data.{argument}, to the tools --{argument.replace('_', '-')})"
