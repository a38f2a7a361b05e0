"""ImageNet as it is downloaded, as a source: images are read where they are in its tars, and nothing is unpacked.

    ILSVRC2012_img_train.tar        a tar of tars: n01440764.tar holds n01440764_10026.JPEG, ...
    ILSVRC2012_img_val.tar          ILSVRC2012_val_00000001.JPEG, ...: ``devkit`` says which class each is of

Keys, order and labels are those of the unpacked folders train/<class>/* and val/<class>/*, as torchvision's ImageNet makes them: so
are the bytes of the packed file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...common.progress import progress_bar
from ...common.untrusted import printable
from ..kinds import HEAD_BYTES, format_of, image_suffixes
from . import Choices
from .archives import Found, Listed, TarReader
from .devkit import labels_file, val_classes
from .image_folder import SPLITS
from .key_table import Archive, KeyTable
from .listing import FolderError, Ignored, passed_over, suffix_of
from .tar_index import Member, OpenFile, members

TARS = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
CLASSES_FROM = "WordNet IDs, sorted, as in torchvision's ImageNet"


@dataclass(frozen=True)
class ImageNetDataset:
    """A folder with ImageNet's tars, one or both.

    Attributes:
        val_labels: a list of the validation images' classes; None: the devkit or a list in the folder.
    """

    folder: Path
    val_labels: Path | None = None
    _readers: dict[str, TarReader] = field(default_factory=dict, compare=False, repr=False)
    """Of the splits that were listed: they go to worker processes, which then need not list them again."""

    kind = "imagenet"

    @property
    def without_train(self) -> str:
        return f"{self.folder} has no {TARS['train']}"

    def splits(self) -> list[str]:
        there = [split for split in SPLITS if (self.folder / TARS[split]).exists()]
        if not there:
            raise FolderError(
                f"{self.folder} has neither {' nor '.join(TARS.values())}; expected ImageNet's tars"
            )
        return there

    def class_names(self, split: str) -> list[str]:
        if split != "train":
            return self._listing(split).classes
        self.packed_split(split)
        return [tar.name.removesuffix(".tar") for tar in _class_tars(Archive.of(self._tar(split)))[0]]

    def open(self, split: str, classes: list[str] | None = None) -> Listed:
        found = self._listing(split)
        names = classes or found.classes
        label = {name: k for k, name in enumerate(names)}
        if unknown := sorted(set(found.classes) - set(names)):
            raise FolderError(
                f"{self._tar(split)} has the class {unknown[0]!r}, which the training split does not have; give the tars of one set"
            )
        labels = [label[key.partition("/")[0]] for key in found.keys]
        return Listed(found.keys, labels, names, self.reader(split), found.ignored)

    def reader(self, split: str) -> TarReader:
        if split not in self._readers:
            table = self._listing(split).table if split else KeyTable.empty()
            place = str(self._tar(split))
            self._readers[split] = TarReader(place, place, table)
        return self._readers[split]

    def class_of(self, split: str, key: str) -> str | None:
        return self.reader(split).label(key)

    def packed_split(self, split: str) -> str:
        if split not in self.splits():
            raise FolderError(f"{self.folder} has no {TARS.get(split, f'tar of the split {split!r}')}")
        return split

    def described(self, split: str) -> dict[str, Any]:
        found = self._listing(split)
        by = {"val_labels_from": found.by} if found.by else {}
        return {"classes_from": CLASSES_FROM, **by, "archive_bytes": found.table.archives[0].size}

    def _tar(self, split: str) -> Path:
        return self.folder / TARS.get(split, split)  # "": the folder

    def _listing(self, split: str) -> _Listing:
        self.packed_split(split)
        archive = Archive.of(self._tar(split))
        if split == "train":
            return _train(archive)
        trained = self.class_names("train") if "train" in self.splits() else []
        file = labels_file(self.folder, self.val_labels)
        status = os.stat(file) if file.exists() else None
        return _val(archive, file, status and status.st_mtime_ns, tuple(trained))


def opened(folder: Path, file: Path | None, choices: Choices) -> ImageNetDataset:
    """The ImageNet in a folder."""
    return ImageNetDataset(file or folder, choices.val_labels)


def recognises(folder: Path) -> bool:
    """Whether a folder holds ImageNet's tars, and not the folders that torchvision unpacks them into."""
    unpacked = any((folder / split).is_dir() for split in SPLITS)
    return not unpacked and any((folder / name).exists() for name in TARS.values())


def left_packed(folder: Path, splits: Sequence[str]) -> str:
    """A sentence on tars in a folder of which other splits are unpacked; "" if there are none."""
    left = [name for split, name in TARS.items() if split not in splits and (folder / name).exists()]
    return (
        f"not packed: {' and '.join(left)} in {folder}; --imagenet {folder} packs ImageNet's tars"
        if left
        else ""
    )


@dataclass(frozen=True)
class _Listing:
    """The images of one tar, in the order of the unpacked folder."""

    keys: list[str]
    classes: list[str]
    table: KeyTable
    ignored: Ignored
    by: str = ""
    """The file that says of which class an image is."""


@lru_cache(maxsize=1)
def _class_tars(archive: Archive) -> tuple[list[Member], Ignored]:
    """The tars of classes in the training tar, sorted by name, and what else is there: a thousand headers, not a million."""
    tars, ignored = list[Member](), Ignored()
    with archive.opened() as file:
        for member in members(OpenFile(file, archive.size), archive.path):
            if why := _why(member):
                if member.kind != "folder":
                    ignored.add(member.name, why)
            elif member.name.endswith(".tar") and "/" not in member.name:
                tars.append(member)
            else:
                ignored.add(member.name, f"{suffix_of(member.name)} next to the tars of classes")
    if not tars:
        raise FolderError(
            f"{archive.path} holds no tar of a class; expected n01440764.tar and others, as in ImageNet's"
        )
    return sorted(tars, key=lambda tar: tar.name), ignored


@lru_cache(maxsize=1)  # a command needs a listing for the classes, the images and their settings
def _train(archive: Archive) -> _Listing:
    found, labels, classes = Found(), list[int](), list[str]()
    tars, outside = _class_tars(archive)
    ignored = Ignored(outside.counts.copy(), outside.paths.copy())
    with archive.opened() as file:
        source = OpenFile(file, archive.size)
        with progress_bar(f"listing {Path(archive.path).name}", len(tars), unit="tars") as progress:
            for done, tar in enumerate(tars, 1):
                name, place = tar.name.removesuffix(".tar"), f"{archive.path}/{tar.name}"
                inner = members(source, place, tar.offset, tar.offset + tar.size)
                images = _images(source, inner, name, ignored)
                if not images:
                    raise FolderError(f"{place} holds no image")
                for image in images:
                    found.add(f"{name}/{image.name}", 0, image.offset, image.size)
                labels += [len(classes)] * len(images)
                classes.append(name)
                progress(done)
    return _Listing(found.keys, classes, found.table(labels, classes, [archive]), ignored)


@lru_cache(maxsize=1)
def _val(archive: Archive, file: Path, changed_ns: int | None, trained: tuple[str, ...]) -> _Listing:
    found, ignored = Found(), Ignored()
    with archive.opened() as opened:
        source = OpenFile(opened, archive.size)
        images = _images(source, members(source, archive.path), "", ignored)
    if not images:
        raise FolderError(f"{archive.path} holds no image")
    of = val_classes(file, [image.name for image in images], trained)
    classes = sorted({of[image.name] for image in images})
    label = {name: k for k, name in enumerate(classes)}
    images.sort(key=lambda image: (of[image.name], image.name))
    for image in images:
        found.add(f"{of[image.name]}/{image.name}", 0, image.offset, image.size)
    labels = [label[of[image.name]] for image in images]
    return _Listing(found.keys, classes, found.table(labels, classes, [archive]), ignored, file.name)


def _images(source: OpenFile, entries: Iterable[Member], under: str, ignored: Ignored) -> list[Member]:
    """The images among the members of a tar, sorted by name; the rest is ignored."""
    images = dict[str, Member]()
    for member in entries:
        if member.kind == "folder":
            continue
        why = _why(member) or ("" if _is_image(source, member) else suffix_of(member.name))
        if not why and member.name in images:
            raise FolderError(
                f"{printable(repr(member.name))} is there twice in the tar of {under or 'the images'}; remove one"
            )
        if why:
            ignored.add(f"{under}/{member.name}".lstrip("/"), why)
        else:
            images[member.name] = member
    return [images[name] for name in sorted(images)]


def _why(member: Member) -> str:
    """Why a member is no image, whatever its suffix; "" if it may be one."""
    parts = member.name.split("/")
    if member.kind != "file" or ".." in parts or member.name.startswith("/"):
        return member.kind if member.kind != "file" else "path out of the tar"
    return next(filter(None, map(passed_over, parts)), "")


def _is_image(source: OpenFile, member: Member) -> bool:
    suffix = suffix_of(member.name)
    if suffix == "no suffix":
        return bool(format_of(source.read(member.offset, min(member.size, HEAD_BYTES))))
    return suffix in image_suffixes()
