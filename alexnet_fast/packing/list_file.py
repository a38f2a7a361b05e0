"""A list file as a source: images anywhere below a folder, and their labels.

Either a line for each image, ``relative/path label`` (the path may have spaces), or CSV whose first line is ``path,label``.
Labels that are all whole numbers from 0 on stay what they are.  Labels that are all numbers, of which one has a decimal
point or an exponent, are not classes: they are stored as floats.  Other labels are names of classes, numbered in sorted
order as folders of classes are.  ``--label-type`` decides if this guess is wrong.

CSV may have further columns behind the label, named in its first line: ``path,label,attrs``.  ``--fields attrs:float32[3]`` packs those
that it names; ``label`` may be one of them, for labels that are vectors.
"""

from __future__ import annotations

import csv
import math
import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..beton.columns import ColumnType
from ..common.untrusted import printable, read_text
from .columns import LABEL, Column, FieldTypes
from .image_folder import SPLITS, ImageFolder, check_folder
from .list_columns import check_named, column_of
from .listing import FolderError, Ignored, cannot
from .sources import FileReader, LabelType, Source

HEADER = "path,label"
MAX_BYTES = 1 << 30  # of a list; ImageNet's has 50 MB
MAX_LABEL = 1 << 20  # a number beyond it is an identifier, and would make as many classes
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
NO_NUMBER = re.compile(
    r"[+-]?(nan|inf|infinity)", re.IGNORECASE
)  # how programs write what they could not compute


@dataclass(frozen=True)
class ImageList(ImageFolder):
    """The images of a list file."""

    file: Path = Path()

    @property
    def reader(self) -> FileReader:
        return FileReader(self.root, str(self.file))


@dataclass(frozen=True)
class ListDataset:
    """A list file and the folder that its paths are relative to.  It is one split, called as the file is."""

    folder: Path
    file: Path
    label_type: LabelType = "auto"
    fields: tuple[tuple[str, ColumnType], ...] | None = None
    """Further columns to pack, and their types; None = nobody has said which."""

    kind = "list"

    def with_fields(self, types: FieldTypes) -> ListDataset:
        """The same list with these of its columns as fields."""
        return replace(self, fields=tuple(types.items()))

    @property
    def without_train(self) -> str:
        return f"{self.file} is not the split {SPLITS[0]}"

    def splits(self) -> list[str]:
        return [self.file.stem]

    def class_names(self, split: str) -> list[str]:
        labels = list(_listed(self.file).labels.values())
        return [] if self._has_numbers(labels, None) else classes_of(labels)

    def open(self, split: str, classes: list[str] | None = None) -> Source:
        self._check_folder()
        listed = _listed(self.file).labels
        columns, ignored = self._columns()
        of_file = ImageList(self.folder, list(listed), [], [], ignored, file=self.file, columns=columns)
        if self._are_vectors:
            return of_file
        if self._has_numbers(listed.values(), classes):
            numbers = [self._number(key, label) for key, label in listed.items()]
            return replace(of_file, labels=numbers)
        if not classes:
            classes = classes_of(list(listed.values()))
        elif unknown := sorted(set(listed.values()) - set(classes)):
            raise FolderError(
                f"{self.file} has the class {unknown[0]!r}, which the training split does not have; remove or rename it"
                + (
                    ", or, if labels are numbers, give --label-type float"
                    if are_numbers(listed.values())
                    else ""
                )
            )
        number = {name: k for k, name in enumerate(classes)}
        labels = [number[label] for label in listed.values()]
        return replace(of_file, labels=labels, classes=classes)

    def reader(self, split: str) -> FileReader:
        return FileReader(self.folder, str(self.file))

    def class_of(self, split: str, key: str) -> str | None:
        return _listed(self.file).labels.get(key)

    def packed_split(self, split: str) -> str:
        self._check_folder()
        _listed(self.file)
        return split

    def _has_numbers(self, labels: Iterable[str], classes: list[str] | None) -> bool:
        """Whether labels are numbers rather than classes: by --label-type, by the split that decides it, or by how they look."""
        if self._are_vectors:
            return True
        if self.label_type != "auto":
            return self.label_type == "float"
        return are_numbers(labels) if classes is None else not classes

    @property
    def _are_vectors(self) -> bool:
        """Whether the label is one of the fields."""
        return any(name == LABEL for name, _ in self.fields or ())

    def _columns(self) -> tuple[tuple[Column, ...], Ignored]:
        """The columns to pack, and those that are not."""
        listed, types = _listed(self.file), None if self.fields is None else dict(self.fields)
        check_named(str(self.file), listed.more, types)
        columns, ignored = list[Column](), Ignored()
        for name, kind in (types or {}).items():
            if name == LABEL and not (kind.is_array and len(kind.shape) == 1):
                raise FolderError(
                    f"--fields makes the label of {self.file} {kind}; expected a vector such as float32[40], or --label-type in its place"
                )
            cells = listed.labels.values() if name == LABEL else listed.more[name]
            columns.append(column_of(str(self.file), name, kind, zip(listed.labels, cells)))
        for name in listed.more:
            if name not in (types or {}):
                ignored.add(f"column {printable(name)}", "columns of the list")
        return tuple(columns), ignored

    def _number(self, key: str, label: str) -> float:
        number = float(label) if NUMBER.fullmatch(label) else math.nan
        if not math.isfinite(number):
            raise FolderError(
                f"{self.file}: the label {printable(repr(label))} of {printable(repr(key))} is not a finite number, and labels are "
                "stored as numbers; correct or remove it, or, if they name classes, give --label-type class"
            )
        return number

    def _check_folder(self) -> None:
        check_folder(self.folder, f"the folder that the paths in {self.file} are relative to")


def classes_of(labels: list[str]) -> list[str]:
    """What labels 0, 1, ... mean: "0", "1", ... up to the largest number, or the names in sorted order."""
    names = set(labels)
    if all(name.isdecimal() and name == str(int(name)) and int(name) < MAX_LABEL for name in names):
        return [str(k) for k in range(max(map(int, names)) + 1)]
    return sorted(names)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether labels look like numbers that are not classes: all are numbers, and one has a decimal point or an exponent.

    A label such as "nan" does not change that: packing then reports it.
    """
    whole = True
    for label in set(labels):
        if NUMBER.fullmatch(label):
            whole = whole and label.lstrip("+-").isdecimal()
        elif not NO_NUMBER.fullmatch(label):
            return False
    return not whole


class Listed(NamedTuple):
    """What a list file says, in its order.

    Attributes:
        labels: path -> label of each image.
        more: name -> texts of the further columns.
    """

    labels: dict[str, str]
    more: dict[str, list[str]]


def _listed(file: Path) -> Listed:
    """What a list file says.

    Raises:
        FolderError: the file cannot be read, names no image, or a line is not what is expected.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    return _parsed(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)  # a process reads a list for its classes, its images and each of its samples
def _parsed(file: Path, size: int, changed_ns: int) -> Listed:
    try:
        text = read_text(file, MAX_BYTES)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    except ValueError as error:
        raise FolderError(f"cannot read {file}: {error}; expected {_EXPECTED}") from error
    listed: dict[str, str] = {}
    lines: dict[str, int] = {}
    more = {name: list[str]() for name in _further(file, text)}
    for number, path, label, *cells in _rows(file, text, 2 + len(more)):
        key = posixpath.normpath(path) if path else ""
        if key in ("", ".") or key.startswith("/") or ".." in key.split("/") or "\0" in key:
            raise FolderError(
                f"{file}, line {number}: {printable(repr(path))} is not the path of a file below the folder of the images; "
                "make it relative to that folder, and name the folder with --data"
            )
        if not label:
            raise FolderError(f"{file}, line {number}: {printable(repr(path))} has no label; add one")
        if key in listed:
            raise FolderError(
                f"{file}, line {number}: {printable(repr(path))} is in line {lines[key]} too; list each image once"
            )
        listed[key], lines[key] = label, number
        for column, cell in zip(more.values(), cells):
            column.append(cell)
    if not listed:
        raise FolderError(f"{file} names no image; expected {_EXPECTED}")
    return Listed(listed, more)


def _further(file: Path, text: str) -> list[str]:
    """The names of the columns behind the label."""
    first = text.partition("\n")[0].strip()
    if not first.startswith(f"{HEADER},"):
        return []
    names = [name.strip() for name in next(csv.reader([first]))]
    if twice := sorted({name for name in names if not name or names.count(name) > 1}):
        raise FolderError(
            f"{file}, line 1: the column {printable(repr(twice[0]))} has no name, or one that comes twice; name each once"
        )
    return names[2:]


_EXPECTED = f"a line 'relative/path label' for each image, or CSV whose first line is '{HEADER}'"


def _rows(file: Path, text: str, columns: int) -> Iterator[tuple[Any, ...]]:
    """(line number, path, label, further cells ...) of each image."""
    # Not splitlines(): a path may hold what Unicode calls the end of a line.
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].strip() == HEADER or columns > 2:
        rows = csv.reader(f"{line}\n" for line in lines[1:])
        try:
            for row in rows:
                if row and len(row) != columns:
                    raise FolderError(
                        f"{file}, line {rows.line_num + 1}: {len(row)} columns, expected {columns}: {lines[0].strip()}"
                    )
                if row:
                    yield rows.line_num + 1, row[0], row[1].strip(), *row[2:]
        except csv.Error as error:
            raise FolderError(f"{file}, line {rows.line_num + 1}: {error}; expected CSV") from error
        return
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(None, 1)
        if len(parts) == 2:
            yield number, parts[0].strip(), parts[1]
        elif parts:
            raise FolderError(f"{file}, line {number}: {printable(repr(line))}; expected {_EXPECTED}")
