"""Tiny ImageNet as it is downloaded, as a source: its validation images are in one folder, and a list says their classes.

train/<class>/images/<image>
val/images/<image>, val/val_annotations.txt    lines 'val_0.JPEG<tab>n03444034<tab>0<tab>32<tab>44<tab>62', the last four a box
test/images/<image>                            without labels: not packed
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...common.untrusted import printable, read_text
from . import Choices, FileReader, Source
from .image_folder import FolderDataset, FolderError, check_folder
from .label_numbers import numbered
from .list_file import ImageList
from .listing import Ignored, cannot, entries, passed_over

VAL, ANNOTATIONS, IMAGES = "val", "val_annotations.txt", "images"
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class TinyImageNetDataset(FolderDataset):
    """A folder as it is unpacked from tiny-imagenet-200.zip."""

    kind = "tiny-imagenet"  # type: ignore[misc]

    def class_names(self, split: str) -> list[str]:
        return sorted(set(self._classes().values())) if split == VAL else super().class_names(split)

    def open(self, split: str, classes: list[str] | None = None) -> Source:
        if split != VAL:
            return super().open(split, classes)
        check_folder(folder := self.folder / VAL / IMAGES, f"the images that {self._list} lists")
        listed, ignored = self._classes(), Ignored()
        for entry in entries(folder):
            if f"{IMAGES}/{entry.name}" not in listed:
                ignored.add(f"{IMAGES}/{entry.name}", passed_over(entry.name) or f"not in {ANNOTATIONS}")
        labels, names = numbered(listed, listed.values(), str(self._list), "class", classes)
        return ImageList(self.folder / VAL, list(listed), labels, names, ignored, file=self._list)

    def reader(self, split: str) -> FileReader:
        return FileReader(self.folder / VAL, str(self._list)) if split == VAL else super().reader(split)

    def class_of(self, split: str, key: str) -> str | None:
        return self._classes().get(key) if split == VAL else super().class_of(split, key)

    def packed_split(self, split: str) -> str:
        check_folder(self.folder / split, "the folder of a split of Tiny ImageNet")
        return split

    def described(self, split: str) -> dict[str, Any]:
        by = {"val_labels_from": ANNOTATIONS} if split == VAL else {}
        return {"classes_from": "WordNet IDs, sorted, as in torchvision's ImageFolder of train", **by}

    @property
    def _list(self) -> Path:
        return self.folder / VAL / ANNOTATIONS

    def _classes(self) -> dict[str, str]:
        """Class of each validation image, by its key."""
        try:
            return _annotated(self._list, os.stat(self._list).st_mtime_ns)
        except OSError as error:
            raise cannot(f"read {self._list}", error) from error


def opened(folder: Path, file: Path | None, choices: Choices) -> TinyImageNetDataset:
    """The Tiny ImageNet in a folder."""
    return TinyImageNetDataset(folder)


def recognises(folder: Path) -> bool:
    """Whether a folder is Tiny ImageNet's, and its validation images were not sorted into folders of classes."""
    val = folder / VAL
    if not (val / ANNOTATIONS).is_file() or not (val / IMAGES).is_dir():
        return False
    return [entry.name for entry in entries(val) if entry.is_dir() and not passed_over(entry.name)] == [
        IMAGES
    ]


@lru_cache(maxsize=1)
def _annotated(file: Path, changed_ns: int) -> dict[str, str]:
    try:
        lines = read_text(file, MAX_BYTES).split("\n")
    except ValueError as error:
        raise FolderError(
            f"cannot read {file}: {error}; expected Tiny ImageNet's list of validation images"
        ) from error
    listed = dict[str, str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        image, *rest = line.strip().split("\t")
        key = f"{IMAGES}/{image}"
        if not rest or "/" in image or not rest[0] or key in listed:
            raise FolderError(
                f"{file}, line {number}: {printable(repr(line))}; expected the name of an image in {IMAGES}/, a tab and its class, each "
                "image once"
            )
        listed[key] = rest[0]
    if not listed:
        raise FolderError(f"{file} names no image; expected Tiny ImageNet's list of validation images")
    return listed
