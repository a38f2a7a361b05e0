"""A folder of classes as a source: its image files, their order and their classes."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import UserError
from ..columns import Column
from ..kinds import SUFFIXES
from . import FOLDER, Choices, FileReader, Source
from .listing import FolderError, Ignored, Listing, cannot, class_names

__all__ = [
    "FolderDataset",
    "FolderError",
    "ImageFolder",
    "check_folder",
    "is_there",
    "scan_folder",
    "splits_in",
]

SPLITS = ("train", "val")
CLASS_FOLDERS = "one folder per class in it, each with that class's images"


@dataclass(frozen=True)
class ImageFolder:
    """The images of one split: their paths relative to ``root``, their labels, and the names of the classes."""

    root: Path
    paths: list[str]
    labels: Sequence[float]
    classes: list[str]
    ignored: Ignored = field(default_factory=Ignored)
    """What else is below the root."""
    in_several_classes: list[str] = field(default_factory=list)
    """Images that are in more than one class through links."""
    columns: tuple[Column, ...] = ()
    """Further fields."""

    @property
    def keys(self) -> list[str]:
        return self.paths

    @property
    def reader(self) -> FileReader:
        return FileReader(self.root, str(self.root))

    def shuffled(self, seed: int) -> ImageFolder:
        """The same images in a random order."""
        order = list(range(len(self.paths)))
        random.Random(seed).shuffle(order)
        return self._reordered(order)

    def limited(self, count: int) -> ImageFolder:
        """The first ``count`` images."""
        return self._reordered(range(len(self.paths))[:count])

    def _reordered(self, order: Sequence[int]) -> ImageFolder:
        labels = [self.labels[i] for i in order] if len(self.labels) else []
        columns = tuple(each.reordered(order) for each in self.columns)
        return replace(self, paths=[self.paths[i] for i in order], labels=labels, columns=columns)


@dataclass(frozen=True)
class FolderDataset:
    """DIR/train/<class>/* and DIR/val/<class>/*."""

    folder: Path

    kind = FOLDER

    @property
    def without_train(self) -> str:
        return f"{self.folder} has no {SPLITS[0]}/"

    def splits(self) -> list[str]:
        check_folder(self.folder, "an image folder with train/<class>/* and val/<class>/*")
        return splits_in(self.folder)

    def class_names(self, split: str) -> list[str]:
        check_folder(root := self.folder / split, CLASS_FOLDERS)
        return class_names(root)

    def open(self, split: str, classes: list[str] | None = None) -> Source:
        return scan_folder(self.folder / split, classes)

    def reader(self, split: str) -> FileReader:
        root = self.folder / split
        return FileReader(root, str(root))

    def class_of(self, split: str, key: str) -> str | None:
        return key.split("/")[0]

    def packed_split(self, split: str) -> str:
        found = split if os.path.isdir(self.folder / split) else ""
        if not os.path.isdir(self.folder / found):
            raise UserError(f"{self.folder} is not a folder; give --source the folder that was packed")
        return found


def opened(folder: Path, file: Path | None, choices: Choices) -> FolderDataset:
    """The folders of classes in a folder."""
    return FolderDataset(folder)


def scan_folder(root: Path, classes: list[str] | None = None) -> ImageFolder:
    """List ``root/<class>/*`` as torchvision's ImageFolder does: classes in sorted order are labels 0, 1, ...

    Ignores hidden files and folders, and those that other programs create next to images.

    Args:
        classes: the classes to use, if another split has defined them; any other class is an error.

    Raises:
        FolderError: there is no folder, no class in it, a class without images or one that is not in ``classes``; or see ``Listing``.
    """
    check_folder(root, CLASS_FOLDERS)
    ignored = Ignored()
    found = class_names(root, ignored)
    classes = classes or found
    if unknown := sorted(set(found) - set(classes)):
        raise FolderError(
            f"{root} has the class {unknown[0]!r}, which the training split does not have; remove or rename it"
        )
    paths, labels, empty = [], [], []
    listing, label = Listing(root, found, ignored), {name: k for k, name in enumerate(classes)}
    for name in found:
        images = listing.of_class(name)
        if not images:
            empty.append(name)
        paths += images
        labels += [label[name]] * len(images)
    if empty:
        more = f", and {len(empty) - 1:,} more classes contain none" if len(empty) > 1 else ""
        raise FolderError(
            f"{root / empty[0]} contains no image; expected files ending in {', '.join(sorted(SUFFIXES))}{more}"
        )
    return ImageFolder(root, paths, labels, classes, ignored, listing.in_several_classes())


def splits_in(data: Path) -> list[str]:
    """Which of train/ and val/ a folder has.

    Raises:
        FolderError: one exists and is not a folder, or cannot be accessed.
    """
    there = [split for split in SPLITS if is_there(data / split)]
    for split in there:
        check_folder(data / split, CLASS_FOLDERS)
    return there


def check_folder(path: Path, expected: str) -> None:
    """Check that a folder exists.

    Raises:
        FolderError: it does not, or cannot be accessed; the message gives what was ``expected``.
    """
    try:
        is_folder, why = stat.S_ISDIR(os.stat(path).st_mode), ""
    except OSError as error:
        is_folder, missing = False, error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        why = "" if missing else f" ({error.strerror})"
    if not is_folder:
        raise FolderError(f"{path} is not a folder{why}; expected {expected}")


def is_there(path: Path) -> bool:
    """Whether anything of that name exists, even a broken link.

    Raises:
        FolderError: access is not allowed, or the disk failed.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise cannot(f"look for {path}", error) from error
    return True
