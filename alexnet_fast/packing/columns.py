"""Further fields of the samples to pack: their names, types and values, known before the first image is read."""

from __future__ import annotations

import hashlib
import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..beton.columns import EXPECTED, ColumnType, type_of
from ..common.untrusted import printable
from ..errors import UserError

IMAGE, LABEL = "image", "label"
MAX_NAME = 16
"""Characters of a name: FFCV stores no more."""
TAKEN = frozenset((IMAGE, "images", "labels", "indices", "slot"))
"""Names that a Loader's batch uses for other things."""

FieldTypes = Mapping[str, ColumnType]
"""Of the fields behind the image, by their names, in the file's order."""


@dataclass(frozen=True)
class Column:
    """One field of all samples.

    Attributes:
        name: of the field.
        kind: what its values are.
        values: of each sample, as they are stored: a number, or a payload.
    """

    name: str
    kind: ColumnType
    values: Sequence[float | bytes]

    def reordered(self, order: Sequence[int]) -> Column:
        """The values at these places, in this order."""
        return replace(self, values=[self.values[i] for i in order])

    def digest(self) -> str:
        """Of all values in their order."""
        found = hashlib.blake2b(digest_size=16)
        for value in self.values:
            content = value if isinstance(value, bytes) else repr(value).encode()
            found.update(b"%d:" % len(content) + content)
        return found.hexdigest()


def columns_of(source: object) -> tuple[Column, ...]:
    """The further fields of a source; a source without any need not have the attribute."""
    found: tuple[Column, ...] = getattr(source, "columns", ())
    return found


def packed(name: str, kind: ColumnType, values: Iterable[tuple[str, Any]]) -> Column:
    """A column of values that each come with the name of their image.

    Raises:
        UserError: a value is not of the type; names the image and the field.
    """
    made = list[float | bytes]()
    for image, value in values:
        try:
            made.append(kind.pack(value))
        except ValueError as error:
            raise UserError(f"{image}: the field {name!r} is {kind}, but {error}") from None
    return Column(name, kind, made)


def field_types(given: Mapping[str, str], flag: str) -> dict[str, ColumnType]:
    """Names and types of fields, by their words.

    Args:
        flag: what gave them, for messages.

    Raises:
        UserError: a name that no batch or file can have, or no such type.
    """
    found = dict[str, ColumnType]()
    for name, words in given.items():
        if not (isinstance(name, str) and isinstance(words, str)):
            raise UserError(
                f"{flag} has {printable(repr(name))}: {printable(repr(words))}, expected words: {EXPECTED}"
            )
        good = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name[0] != "_"
        if not good or len(name) > MAX_NAME or name in TAKEN:
            raise UserError(
                f"{flag} names a field {printable(repr(name))}; expected a name of up to {MAX_NAME} letters, digits and _, "
                f"which starts with a letter and is none of {', '.join(sorted(TAKEN))}"
            )
        try:
            found[name] = type_of(words)
        except ValueError as error:
            raise UserError(f"{flag}, {name}: {error}") from None
    return found


def field_words(text: str) -> dict[str, str]:
    """``name:type,name:type`` as a table; commas within brackets are a type's own.

    Raises:
        UserError: it has another form, or a name twice.
    """
    found = dict[str, str]()
    for part in re.split(r",(?![^\[]*\])", text):
        name, colon, words = (each.strip() for each in part.partition(":"))
        if not colon or name in found:
            again = " a second time" if name in found else ""
            raise UserError(
                f"--fields has {printable(repr(part))}{again}; expected name:type,name:type with types {EXPECTED}"
            )
        found[name] = words
    return found
