"""Further columns of a list file as fields: what the text of a cell is worth.

int and float are numbers; an array is numbers between spaces, or a JSON list; bytes are the text's UTF-8; json is JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ...beton import format as fmt
from ...beton.columns import ColumnType
from ...common.untrusted import printable
from ..columns import Column
from .listing import FolderError


def column_of(
    place: str, name: str, kind: ColumnType, cells: Iterable[tuple[str, Any]], parsed: bool = False
) -> Column:
    """A column of (image, cell).

    Args:
        place: the list file, for messages.
        parsed: whether cells are values, as in JSON lines, and not text.

    Raises:
        FolderError: a cell's text is not of the type; names the image and the field.
    """
    values = list[float | bytes]()
    for key, text in cells:
        try:
            values.append(kind.pack(_as_bytes(kind, text) if parsed else value_of(kind, text)))
        except (ValueError, RecursionError) as error:
            raise FolderError(
                f"{place}: the field {name!r} of {printable(repr(key))} is {printable(repr(text), 60)}, and no {kind}: "
                f"{printable(str(error))}"
            ) from None
    return Column(name, kind, values)


def _as_bytes(kind: ColumnType, value: Any) -> Any:
    """JSON has no bytes: the UTF-8 of a text, where the field is of bytes."""
    return value.encode() if kind.type_id == fmt.BYTES_ID and isinstance(value, str) else value


def value_of(kind: ColumnType, text: str) -> Any:
    """The value of a cell; raises ValueError where there is none."""
    if kind.type_id == fmt.BYTES_ID:
        return text.encode()
    if kind.type_id == fmt.JSON_ID:
        return json.loads(text)
    if kind.type_id == fmt.INT_ID:
        return int(text)
    if kind.type_id == fmt.FLOAT_ID:
        return float(text)
    if text.lstrip().startswith("["):
        return json.loads(text)
    number = float if kind.dtype.kind == "f" else int
    return [number(each) for each in text.split()]


def check_named(place: str, there: Iterable[str], types: Mapping[str, ColumnType]) -> None:
    """Check that the columns of a list and the fields that were asked for go together.

    Args:
        there: names of the columns behind the label.
        types: of the fields.

    Raises:
        FolderError: a field has no column.
    """
    there = list(there)
    if missing := [name for name in types if name not in ("label", *there)]:
        raise FolderError(
            f"{place} has no column {missing[0]!r}, which --fields names; its columns are path, label"
            + "".join(f", {printable(name)}" for name in there[:20])
        )
