"""A list file as a source: images anywhere below a folder, and their labels.

A line for each image, ``relative/path label`` (the path may have spaces), or CSV, TSV or JSON lines whose columns have names
(``list_rows``).  Labels may be names or numbers (``label_numbers``).
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..common.untrusted import printable, read_text
from .image_folder import SPLITS, ImageFolder, check_folder
from .label_numbers import classes_of, has_numbers, numbered
from .list_rows import EXPECTED, rows
from .listing import FolderError, cannot
from .sources import Choices, FileReader, LabelType, Source

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

    kind = "list"

    @property
    def without_train(self) -> str:
        return f"{self.file} is not the split {SPLITS[0]}"

    def splits(self) -> list[str]:
        return [self.file.stem]

    def class_names(self, split: str) -> list[str]:
        labels = list(self._listed().values())
        return [] if has_numbers(labels, self.label_type, None) else classes_of(labels)

    def open(self, split: str, classes: list[str] | None = None) -> Source:
        self._check_folder()
        listed = self._listed()
        place = str(self.file)
        labels, names = numbered(listed, listed.values(), place, self.label_type, classes)
        return ImageList(self.folder, list(listed), labels, names, file=self.file)

    def reader(self, split: str) -> FileReader:
        return FileReader(self.folder, str(self.file))

    def class_of(self, split: str, key: str) -> str | None:
        return self._listed().get(key)

    def packed_split(self, split: str) -> str:
        self._check_folder()
        self._listed()
        return split

    def _listed(self) -> dict[str, str]:
        return _listed(self.file, self.columns)

    def _check_folder(self) -> None:
        check_folder(self.folder, f"the folder that the paths in {self.file} are relative to")


def opened(folder: Path, file: Path | None, choices: Choices) -> ListDataset:
    """The images that a list names."""
    assert file
    return ListDataset(folder, file, choices.label_type, choices.columns)


def _listed(file: Path, columns: tuple[str, str] | None) -> dict[str, str]:
    """Path -> label of each image, in the file's order.

    Raises:
        FolderError: the file cannot be read, names no image, or a line is not what is expected.
    """
    try:
        status = os.stat(file)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    return _parsed(file, status.st_size, status.st_mtime_ns, columns)


@lru_cache(maxsize=2)  # a process reads a list for its classes, its images and each of its samples
def _parsed(file: Path, size: int, changed_ns: int, columns: tuple[str, str] | None) -> dict[str, str]:
    try:
        text = read_text(file, MAX_BYTES)
    except OSError as error:
        raise cannot(f"read {file}", error) from error
    except ValueError as error:
        raise FolderError(f"cannot read {file}: {error}; expected {EXPECTED}") from error
    listed: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, path, label in rows(file, text, columns):
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
    if not listed:
        raise FolderError(f"{file} names no image; expected {EXPECTED}")
    return listed
