"""Images that are members of archives, as a source: what ImageNet's tars, webdataset's shards and parquet files have in common."""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from ..errors import InputUnreadable
from ..journal import read_at
from . import NO_FILE, Choices, Identity, Item
from .image_folder import SPLITS
from .key_table import Archive, KeyTable, Row
from .label_numbers import numbered
from .listing import Ignored
from .shards import Shards
from .shared_groups import HEAD_BYTES, SharedGroups
from .tar_index import inflated, is_gzip


@dataclass(frozen=True)
class ArchiveReader:
    """Reads members of archives.  Its table, and what it unpacks, are in memory that worker processes share.

    Attributes:
        root: what comes before a key in an image's name.
    """

    place: str
    root: str
    table: KeyTable
    groups: SharedGroups = field(default_factory=SharedGroups)

    def name(self, key: str) -> str:
        return f"{self.root}/{key}"

    def identity(self, key: str) -> Identity:
        if (row := self.table.find(key)) is None:
            return Identity(-1, -1)
        archive = self.table.archives[row.archive]
        try:
            status = os.stat(archive.path)
        except OSError as error:
            if error.errno not in NO_FILE:
                raise InputUnreadable(f"cannot read {archive.path}: {error.strerror}") from error
            return Identity(-1, -1)
        size = self.size(archive, row) if status.st_size == archive.size else -1
        return Identity(size, status.st_mtime_ns)

    def read(self, key: str) -> Item:
        if (row := self.table.find(key)) is None:
            raise FileNotFoundError(2, "there is no such image")
        return Item(self.content(self.table.archives[row.archive], row))

    def label(self, key: str) -> str | None:
        """What the archives say that an image shows, as text; None where they have no such image."""
        if (row := self.table.find(key)) is None:
            return None
        classes = self.table.classes
        return classes[int(row.label)] if classes else repr(row.label)

    def size(self, archive: Archive, row: Row) -> int:
        """What stands for the size of an image, in bytes."""
        return row.size

    def content(self, archive: Archive, row: Row) -> bytes:
        """The bytes of an image."""
        raise NotImplementedError


class TarReader(ArchiveReader):
    """Reads members of tars: out of a .tar at its offset, out of a .tar.gz after the whole of it is unpacked."""

    def content(self, archive: Archive, row: Row) -> bytes:
        if is_gzip(archive.path):
            return self.groups.read(
                row.archive,
                lambda content: _unpack(archive, content),
                lambda file: read_at(file, row.size, HEAD_BYTES + row.at),
            )
        with archive.opened() as file:
            content = read_at(file.fileno(), row.size, row.at)
        if len(content) < row.size:
            raise ValueError(f"{archive.path} ends before it does")
        return content


def _unpack(archive: Archive, content: BinaryIO) -> None:
    with archive.opened() as file:
        for part in inflated(file):
            content.write(part)


@dataclass(frozen=True)
class Listed:
    """The images of one split, in the order in which they are packed.

    Attributes:
        groups: of each image, where those of one group can only be unpacked together; else empty.
    """

    keys: list[str]
    labels: Sequence[float]
    classes: list[str]
    reader: ArchiveReader
    ignored: Ignored = field(default_factory=Ignored)
    in_several_classes: list[str] = field(default_factory=list)
    groups: Sequence[int] = ()

    def shuffled(self, seed: int) -> Listed:
        """The same images in a random order; those of a group stay together, in an order of their own."""
        order, draw = list(range(len(self.keys))), random.Random(seed)
        draw.shuffle(order)  # as a folder's: the same images in the same order give the same file
        if self.groups:
            turns = sorted(set(self.groups))
            draw.shuffle(turns)
            turn = {group: k for k, group in enumerate(turns)}
            order.sort(key=lambda i: turn[self.groups[i]])
        return self._at(order)

    def limited(self, count: int) -> Listed:
        """The first ``count`` images."""
        return self._at(range(min(count, len(self.keys))))

    def _at(self, order: Sequence[int]) -> Listed:
        return replace(
            self,
            keys=[self.keys[i] for i in order],
            labels=[self.labels[i] for i in order],
            groups=[self.groups[i] for i in order] if self.groups else (),
        )


@dataclass
class Found:
    """What a listing collects: the columns of a ``KeyTable``."""

    keys: list[str] = field(default_factory=list)
    archive: array = field(default_factory=lambda: array("L"))
    at: array = field(default_factory=lambda: array("Q"))
    size: array = field(default_factory=lambda: array("Q"))

    def add(self, key: str, archive: int, at: int, size: int) -> None:
        self.keys.append(key)
        self.archive.append(archive)
        self.at.append(at)
        self.size.append(size)

    def table(self, labels: Sequence[float], classes: list[str], archives: Sequence[Archive]) -> KeyTable:
        columns = {"archive": self.archive, "at": self.at, "size": self.size, "label": labels}
        return KeyTable(self.keys, columns, classes, archives)


@dataclass(frozen=True)
class Listing:
    """What the archives of a split hold, in their order.

    Attributes:
        labels: as text.
        classes: what the archives' own numbers mean; empty if labels are numbers.
        groups: as of ``Listed``.
        classes_from: in words, where the classes and their order came from; "" if from the labels.
    """

    keys: list[str]
    labels: list[str]
    classes: list[str]
    table: KeyTable
    ignored: Ignored
    groups: Sequence[int] = ()
    classes_from: str = ""


@dataclass(frozen=True)
class ArchiveDataset:
    """Archives whose members have labels of their own: a folder, a file or a pattern of them.

    A subclass is a kind of archive.
    """

    given: Path
    choices: Choices = field(default_factory=Choices)
    _readers: dict[str, ArchiveReader] = field(default_factory=dict, compare=False, repr=False)
    """Of the splits that were listed: they go to worker processes, which then need not list them again."""

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    what: ClassVar[str]
    """The archives, for messages."""

    def list_files(self, archives: tuple[Archive, ...]) -> Listing:
        """List archives; keeps the result, since it is called again."""
        raise NotImplementedError

    def made_reader(self, place: str, root: str, table: KeyTable) -> ArchiveReader:
        """Reads what was listed."""
        raise NotImplementedError

    @property
    def without_train(self) -> str:
        return f"{self.given} has no split {SPLITS[0]}"

    def shards(self) -> Shards:
        """The archives, by split."""
        return Shards(self.given, self.suffixes, self.what)

    def splits(self) -> list[str]:
        return self.shards().wanted()

    def left_out(self) -> list[str]:
        """The splits that are not packed unless they are named."""
        return sorted(self.shards().splits.keys() - set(self.splits()))

    def class_names(self, split: str) -> list[str]:
        return self._listing(split).classes

    def open(self, split: str, classes: list[str] | None = None) -> Listed:
        found, typed = self._listing(split), self.choices.label_type
        if classes is None:  # the archives' own
            classes, typed = found.classes, "class" if found.classes else "float"
        labels, names = numbered(found.keys, found.labels, str(self.given), typed, classes)
        return Listed(found.keys, labels, names, self.reader(split), found.ignored, groups=found.groups)

    def reader(self, split: str) -> ArchiveReader:
        if split not in self._readers:
            table = self._listing(split).table if split else KeyTable.empty()
            self._readers[split] = self.made_reader(str(self.given), str(self.shards().root), table)
        return self._readers[split]

    def class_of(self, split: str, key: str) -> str | None:
        return self.reader(split).label(key)

    def packed_split(self, split: str) -> str:
        self.shards().files(split)
        return split

    def described(self, split: str) -> dict[str, Any]:
        found = self._listing(split)
        archives = found.table.archives
        own = (
            "the labels' own numbers"
            if all(map(str.isdecimal, found.classes))
            else "the labels' names, sorted"
        )
        by = found.classes_from or (own if found.classes else "")
        return {
            **({"classes_from": by} if by else {}),
            "archives": len(archives),
            "archive_bytes": sum(archive.size for archive in archives),
        }

    def _listing(self, split: str) -> Listing:
        return self.list_files(tuple(map(Archive.of, self.shards().files(split))))
