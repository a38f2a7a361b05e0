"""Where the images of archives are: a table by key, in memory that worker processes share (of ImageNet 46 MB, once)."""

from __future__ import annotations

import json
import mmap
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ...common.untrusted import open_regular
from ...errors import UserError
from .listing import FolderError, cannot
from .shared_memory import SharedMemory

HASH: np.dtype = np.dtype("Q")
COLUMNS: dict[str, np.dtype] = {"at": HASH, "size": HASH, "label": np.dtype("d"), "archive": np.dtype("I")}
"""The one of four bytes last: so all are aligned."""
HEAD_BYTES = 16


class Archive(NamedTuple):
    """A file that holds images, as it was when it was listed."""

    path: str
    size: int
    """In bytes."""
    changed_ns: int
    """When it was last modified, in ns since 1970."""

    @classmethod
    def of(cls, path: Path) -> Archive:
        """Raises FolderError if there is no such file."""
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
        except OSError as error:
            raise cannot(f"read {path}", error) from error
        except ValueError as error:
            raise FolderError(f"cannot read {path}: {error}") from error
        return cls(str(path), status.st_size, status.st_mtime_ns)

    def opened(self) -> BinaryIO:
        """The file, if it is still what it was.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is another one now.
        """
        file = open_regular(self.path)
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.size, self.changed_ns):
            file.close()
            raise ValueError(f"{self.path} has changed since it was listed")
        return file


class Row(NamedTuple):
    """Where an image is."""

    archive: int
    """Position in the list of archives."""
    at: int
    """In a tar: offset of its content in bytes.  In parquet and arrow: its row group or record batch."""
    size: int
    """In a tar: of its content, in bytes.  In parquet and arrow: its row in the group."""
    label: float
    """By the archives' own numbers."""


class KeyTable:
    """key -> ``Row``.  Pickled to a worker process, it is the same memory.

    Args:
        columns: the values of each of ``Row``'s fields, N each.
        classes: what labels 0, 1, ... mean; empty if they are numbers.

    Raises:
        UserError: a key occurs twice.
    """

    def __init__(
        self,
        keys: Sequence[str],
        columns: Mapping[str, Sequence[float]],
        classes: Sequence[str],
        archives: Sequence[Archive],
    ) -> None:
        hashes = np.fromiter(map(_hash, keys), HASH, len(keys))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        if len(twice := np.flatnonzero(hashes[1:] == hashes[:-1])):
            raise UserError(f"{keys[order[twice[0] + 1]]!r} is there twice; rename or remove one")
        told = json.dumps([classes, archives]).encode()
        told += b" " * (-len(told) % 8)
        self._memory = SharedMemory("keys")
        with open(self._memory.file, "wb", closefd=False) as file:
            file.write(len(keys).to_bytes(8, "little") + len(told).to_bytes(8, "little") + told)
            file.write(hashes.tobytes())
            for name in (
                "at",
                "size",
                "label",
                "archive",
            ):  # the one of four bytes last: all others are aligned
                file.write(np.asarray(columns[name], COLUMNS[name])[order].tobytes())
        self._open()

    @classmethod
    def empty(cls) -> KeyTable:
        """A table of no images."""
        return cls([], dict.fromkeys(COLUMNS, ()), [], [])

    def find(self, key: str) -> Row | None:
        """Where an image is; None if there is none of that key."""
        wanted = _hash(key)
        place = bisect_left(self._hashes, wanted)
        if place == len(self._hashes) or self._hashes[place] != wanted:
            return None
        return Row(self._archive[place], self._at[place], self._size[place], self._label[place])

    def __len__(self) -> int:
        return len(self._hashes)

    def __reduce__(self) -> tuple[Any, tuple[SharedMemory]]:
        return _of, (self._memory,)

    def _open(self) -> None:
        content = mmap.mmap(self._memory.file, 0, access=mmap.ACCESS_READ)
        count, told = (int.from_bytes(content[at : at + 8], "little") for at in (0, 8))
        at = HEAD_BYTES + told
        self.classes: list[str]
        self.classes, archives = json.loads(content[HEAD_BYTES:at])
        self.archives = [Archive(*archive) for archive in archives]
        parts: list[Any] = []  # not arrays: numpy needs four times as long for one number
        for kind in (HASH, *COLUMNS.values()):
            part: Any = memoryview(content)[at : at + count * kind.itemsize]
            parts.append(part.cast(kind.char))
            at += count * kind.itemsize
        self._hashes, self._at, self._size, self._label, self._archive = parts


def _of(memory: SharedMemory) -> KeyTable:
    table = KeyTable.__new__(KeyTable)
    table._memory = memory
    table._open()
    return table


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
