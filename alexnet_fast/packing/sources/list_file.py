"""A list file as a source: images anywhere below a folder, and their labels.

A line for each image, ``relative/path label`` (the path may have spaces), or CSV, TSV or JSON lines whose columns have names
(``list_rows``).  Labels may be names or numbers (``label_numbers``).

``--fields attrs:float32[3]`` packs further columns as fields; ``label`` may be one of them, for labels that are vectors.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ...beton.columns import ColumnType
from ...common.untrusted import printable, read_text
from ..columns import LABEL, Column, FieldTypes
from . import Choices, FileReader, LabelType, Source
from .image_folder import SPLITS, ImageFolder, check_folder
from .label_numbers import classes_of, has_numbers, numbered
from .list_columns import check_named, column_of
from .list_rows import EXPECTED, read_rows
from .listing import FolderError, Ignored, cannot

MAX_BYTES = 1 << 30  # of a list; ImageNet's has 50 MB


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
    columns: tuple[str, str] | None = None
    """Names of the columns of the paths and of the labels; None: the usual ones."""
    fields: tuple[tuple[str, ColumnType], ...] = ()
    """Further columns to pack, and their types."""

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
        labels = list(self._listed().labels.values())
        are_numbers = self._are_vectors or has_numbers(labels, self.label_type, None)
        return [] if are_numbers else classes_of(labels)

    def open(self, split: str, classes: list[str] | None = None) -> Source:
        self._check_folder()
        listed = self._listed().labels
        columns, ignored = self._columns()
        labels, names = list[float](), list[str]()
        if not self._are_vectors:
            labels, names = numbered(listed, listed.values(), str(self.file), self.label_type, classes)
        return ImageList(self.folder, list(listed), labels, names, ignored, file=self.file, columns=columns)

    def reader(self, split: str) -> FileReader:
        return FileReader(self.folder, str(self.file))

    def class_of(self, split: str, key: str) -> str | None:
        return self._listed().labels.get(key)

    def packed_split(self, split: str) -> str:
        self._check_folder()
        self._listed()
        return split

    @property
    def _are_vectors(self) -> bool:
        """Whether the label is one of the fields."""
        return any(name == LABEL for name, _ in self.fields)

    def _columns(self) -> tuple[tuple[Column, ...], Ignored]:
        """The columns to pack, and those that are not."""
        listed, types = self._listed(), dict(self.fields)
        check_named(str(self.file), listed.more, types)
        columns, ignored = list[Column](), Ignored()
        for name, kind in types.items():
            if name == LABEL and not (kind.is_array and len(kind.shape) == 1):
                raise FolderError(
                    f"--fields makes the label of {self.file} {kind}; expected a vector such as float32[40], or --label-type in its place"
                )
            is_label = name == LABEL
            cells = listed.labels.values() if is_label else listed.more[name]
            parsed = listed.are_values and not is_label
            columns.append(column_of(str(self.file), name, kind, zip(listed.labels, cells), parsed))
        for name in listed.more:
            if name not in types:
                ignored.add(f"column {printable(name)}", "columns of the list")
        return tuple(columns), ignored

    def _listed(self) -> Listed:
        return _listed(self.file, self.columns)

    def _check_folder(self) -> None:
        check_folder(self.folder, f"the folder that the paths in {self.file} are relative to")


def opened(folder: Path, file: Path | None, choices: Choices) -> ListDataset:
    """The images that a list names."""
    assert file
    return ListDataset(folder, file, choices.label_type, choices.columns)


class Listed(NamedTuple):
    """What a list file says, in its order.

    Attributes:
        labels: path -> label of each image.
        more: name -> texts of the further columns, or their values.
        are_values: which of the two.
    """

    labels: dict[str, str]
    more: dict[str, list[Any]]
    are_values: bool


def _listed(file: Path, columns: tuple[str, str] | None) -> Listed:
    """What a list file says.

    Raises:
        FolderError: the file cannot be read, names no image, or a line is not what is expected.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    return _parsed(file, status.st_size, status.st_mtime_ns, columns)


@lru_cache(maxsize=2)  # a process reads a list for its classes, its images and each of its samples
def _parsed(file: Path, size: int, changed_ns: int, columns: tuple[str, str] | None) -> Listed:
    try:
        text = read_text(file, MAX_BYTES)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    except ValueError as error:
        raise FolderError(f"cannot read {file}: {error}; expected {EXPECTED}") from error
    rows = read_rows(file, text, columns)
    listed: dict[str, str] = {}
    lines: dict[str, int] = {}
    more = {name: list[Any]() for name in rows.more}
    for number, path, label, cells in rows.rows:
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
        raise FolderError(f"{file} names no image; expected {EXPECTED}")
    return Listed(listed, more, rows.are_values)
