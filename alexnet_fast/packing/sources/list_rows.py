"""Rows of a list file: 'relative/path label', or CSV, TSV or JSON lines whose columns have names."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ...common.untrusted import printable
from .listing import FolderError

HEADER = "path,label"
IMAGES = (
    "path",
    "file_name",
    "filename",
    "file",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "image_name",
    "img",
)
LABELS = ("label", "class", "target", "category", "cls", "label_name", "class_name", "label_id", "class_id")
"""Usual names of the columns of images and of labels."""
EXPECTED = f"a line 'relative/path label' for each image, or CSV, TSV or JSON lines whose columns have names, as '{HEADER}'"


class Row(NamedTuple):
    """One image of a list: the number of its line, its path, its label, and the further columns: texts, or JSON's values."""

    line: int
    image: str
    label: str
    cells: Sequence[Any] = ()


class Rows(NamedTuple):
    """The rows of a list, the names of its further columns, and whether their cells are JSON's values."""

    more: list[str]
    rows: Iterator[Row]
    are_values: bool = False


def read_rows(place: object, text: str, columns: tuple[str, str] | None = None) -> Rows:
    """The rows of a list's text.

    Args:
        place: the file's name in messages.
        columns: names of the columns of images and labels; None: the usual ones.

    Raises:
        FolderError: a row is not what is expected; the message names its line.
    """
    # Not splitlines(): a path may hold what Unicode calls the end of a line.
    lines = text.replace("\r\n", "\n").split("\n")
    first = lines[0].strip()
    if first.startswith("{") and first.endswith("}"):
        return _json_rows(place, lines, columns)
    delimiter = "\t" if "\t" in lines[0] else ","
    header = [name.strip() for name in next(csv.reader([lines[0]], delimiter=delimiter), [])]
    lowered = [name.lower() for name in header]
    if columns or (set(lowered) & set(IMAGES) and set(lowered) & set(LABELS)):
        return _table_rows(place, lines, header, delimiter, columns)
    return Rows([], _plain_rows(place, lines))


def chosen(place: object, names: Sequence[str], columns: tuple[str, str] | None = None) -> tuple[str, str]:
    """Which of a table's columns has the images, and which the labels.

    Raises:
        FolderError: it has none of them, or several.
    """
    found = []
    for k, usual in enumerate((IMAGES, LABELS)):
        what = ("the images", "the labels")[k]
        there = [name for name in names if (name == columns[k] if columns else name.lower() in usual)]
        if len(there) != 1:
            of = (
                f"has no column {columns[k]!r}"
                if columns
                else f"has {'several columns' if there else 'no column'} that may be {what}"
            )
            raise FolderError(
                f"{place} {of}; its columns are {printable(', '.join(names))}: name two of them with --columns IMAGES,LABELS"
            )
        found.append(there[0])
    return found[0], found[1]


def label_text(value: Any) -> str | None:
    """A label out of JSON or a table as text; None if it is neither a number nor text."""
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return repr(value)
    return value.strip() if isinstance(value, str) else None


def _plain_rows(place: object, lines: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(None, 1)
        if len(parts) == 2:
            yield Row(number, parts[0].strip(), parts[1])
        elif parts:
            raise FolderError(f"{place}, line {number}: {printable(repr(line))}; expected {EXPECTED}")


def _table_rows(
    place: object, lines: Sequence[str], header: list[str], delimiter: str, columns: tuple[str, str] | None
) -> Rows:
    image, label = map(header.index, chosen(place, header, columns))
    more = [k for k in range(len(header)) if k not in (image, label)]
    if twice := sorted({name for name in header if not name or header.count(name) > 1}):
        raise FolderError(
            f"{place}, line 1: the column {printable(repr(twice[0]))} has no name, or one that comes twice; name each once"
        )
    read = csv.reader((f"{line}\n" for line in lines[1:]), delimiter=delimiter)

    def rows() -> Iterator[Row]:
        try:
            for row in read:
                if row and len(row) != len(header):
                    raise FolderError(
                        f"{place}, line {read.line_num + 1}: {len(row)} columns, expected {len(header)}: {printable(','.join(header))}"
                    )
                if row:
                    yield Row(
                        read.line_num + 1, row[image], row[label].strip(), [row[column] for column in more]
                    )
        except csv.Error as error:
            raise FolderError(f"{place}, line {read.line_num + 1}: {error}; expected CSV") from error

    return Rows([header[column] for column in more], rows())


def _json_rows(place: object, lines: Sequence[str], columns: tuple[str, str] | None) -> Rows:
    first = _json_row(place, 1, lines[0])
    names = chosen(place, list(first), columns)
    more = [name for name in first if name not in names]

    def rows() -> Iterator[Row]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = _json_row(place, number, line)
            image, label = row.get(names[0]), label_text(row.get(names[1]))
            if not isinstance(image, str) or label is None:
                raise FolderError(
                    f"{place}, line {number}: its {names[0]!r} is {printable(repr(image))} and its {names[1]!r} is "
                    f"{printable(repr(row.get(names[1])))}; expected the path of an image, and a number or a name"
                )
            yield Row(number, image, label, [row.get(name) for name in more])

    return Rows(more, rows(), are_values=True)


def _json_row(place: object, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{place}, line {number}: it is not JSON ({error}); expected {EXPECTED}") from error
    if not isinstance(row, dict):
        raise FolderError(f"{place}, line {number}: {printable(line)}; expected an object, as in line 1")
    return row
