"""What an interrupted packing has done: beside the unfinished file, a log that never claims more than that file holds.

    <name>.partial    payloads at their places; header and metadata are still zeros
    <name>.journal    frames: the plan, then the images that were packed, some at a time

A frame is ``magic | body bytes, u4 | CRC-32 of the body, u4 | body``, little-endian; what a kill cut short is no frame.

**What is claimed.**  An image is entered once its payload is written, so whatever a *kill* leaves, the kernel has the
bytes of every image in the log.  Against a *power cut* both files are fsynced now and then, the payloads first; each frame says how many
images were safe by then, and whoever goes on proves those behind it against their checksums.  The file's lock is the lock on the journal: the
kernel drops it when the process ends, however it ends.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from ..common.files import open_locked
from .errors import InputChanged, OutputLocked
from .layout import ENTRY
from .manifest import Manifest

JOURNAL = ".journal"
MAGIC = b"AFJ1"
FRAME = struct.Struct("<4sII")
COUNTS = struct.Struct(
    "<QII"
)  # images that were safe on the disk, images in this frame, bytes of their notes


def journal_path(path: Path) -> Path:
    """Where the log of a packing into ``path`` lies."""
    return path.with_name(path.name + JOURNAL)


class Note(NamedTuple):
    """What is to be told of one image."""

    text: str = ""
    """What it was converted from, or, where it was left out, what was wrong with it; "" for nothing."""
    corrupt: str = ""
    """``Sample.corrupt``"""
    scaled: tuple[float, float] | None = None
    """``Sample.scaled``"""

    def to_json(self) -> object:
        """As the journal keeps it: the text alone, as version 0.1 did, where there is nothing else."""
        return list(self) if self.corrupt or self.scaled else self.text

    @classmethod
    def from_json(cls, told: str | list) -> Note:
        """As the journal kept it; TypeError or ValueError for what it never did."""
        if isinstance(told, str):
            return cls(told)
        text, corrupt, scaled = told
        return cls(text, corrupt, (scaled[0], scaled[1]) if scaled else None)


@dataclass
class PackedSoFar:
    """Images that were packed, in the split's order.

    Attributes:
        entries: (n,) pages.ENTRY.
        notes: of image i, where there is something to tell.
        safe: how many were on the disk for certain.
        ends: of each frame, the plan's first: (images up to its end, its end's offset).
    """

    ends: list[tuple[int, int]]
    entries: np.ndarray = field(default_factory=lambda: np.empty(0, ENTRY))
    notes: dict[int, Note] = field(default_factory=dict)
    safe: int = 0

    def cut(self, count: int) -> None:
        """Keep the frames of the first ``count`` images, and no frame by half."""
        self.ends = [(images, end) for images, end in self.ends if images <= count]
        images = self.ends[-1][0]
        self.entries = self.entries[:images]
        self.notes = {i: note for i, note in self.notes.items() if i < images}


class Journal:
    """The log of one packing, locked for as long as it is open.

    Raises:
        OutputLocked: another process holds it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        def busy() -> None:
            raise OutputLocked(
                f"another process is packing into {path}", "wait for it to end, or pack into another --out"
            )

        self._for, self.path = path, journal_path(path)
        # A file system without locks: two packers must not start there at the same moment.
        self._file = open_locked(self.path, busy)
        self._at = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was ever logged."""
        return os.fstat(self._file).st_size == 0

    def read(self) -> tuple[Manifest, PackedSoFar] | None:
        """What the packing that was interrupted here had set out to do and had done; None where none was.

        Raises:
            InputChanged: another version of the packer wrote it.
        """
        size = os.fstat(self._file).st_size
        return _parsed(read_at(self._file, size, 0), self._for)

    def begin(self, plan: Manifest) -> None:
        """Forget what is there and log a new packing."""
        os.ftruncate(self._file, 0)
        self._at = 0
        self._append(zlib.compress(plan.to_json(), 1))

    def go_on(self, done: PackedSoFar) -> None:
        """Log on behind what was done."""
        self._at = done.ends[-1][1]
        os.ftruncate(self._file, self._at)

    def enter(self, entries: np.ndarray, notes: dict[int, Note], safe: int) -> None:
        """Log images whose payloads have been written.

        Args:
            entries: (n,) pages.ENTRY.
            notes: see ``PackedSoFar``.
            safe: how many images' payloads are on the disk for certain, from the first.
        """
        told = json.dumps({i: note.to_json() for i, note in notes.items()}).encode() if notes else b""
        self._append(COUNTS.pack(safe, len(entries), len(told)) + entries.tobytes() + told)

    def sync(self) -> None:
        """Have the disk keep what was logged."""
        os.fdatasync(self._file)

    def remove(self) -> None:
        """Delete it, still locked."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, body: bytes) -> None:
        # At an offset of our own: a frame that an interruption cut short is written over by the next.
        write_at(self._file, FRAME.pack(MAGIC, len(body), zlib.crc32(body)) + body, self._at)
        self._at += FRAME.size + len(body)


def remove_stale_journal(path: Path) -> None:
    """Delete the log of a packing into ``path`` that was killed between giving the file its name and this; not one in use."""
    if journal_path(path).exists():
        with suppress(OutputLocked, OSError), Journal(path) as journal:
            journal.remove()


def images_logged(path: Path) -> int:
    """How many images of an interrupted packing into ``path`` are packed, as its log will tell whoever goes on."""
    try:
        found = _parsed(journal_path(path).read_bytes(), path)
    except (OSError, InputChanged):
        return 0
    return len(found[1].entries) if found else 0


def progress_sentence(path: Path, total: int) -> str:
    """Where an interrupted packing into ``path`` stands, in words."""
    if not (count := images_logged(path)):
        return f"nothing of {path} was packed yet"
    return f"{count:,} of {total:,} images of {path} are packed, and the same command goes on there"


def write_at(file: int, content: bytes, at: int) -> None:
    """Write all of ``content`` at an offset, whatever the kernel takes at a time."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def read_at(file: int, size: int, at: int) -> bytes:
    """``size`` bytes from an offset, fewer where the file ends."""
    parts = []
    while size and (part := os.pread(file, min(size, 1 << 30), at)):
        parts.append(part)
        size, at = size - len(part), at + len(part)
    return b"".join(parts)


def _parsed(log: bytes, path: Path) -> tuple[Manifest, PackedSoFar] | None:
    """The plan and what was done; None where not even the plan is whole; InputChanged where whole frames hold something else."""
    if (body := _body(log, 0)) is None:
        return None
    try:
        return Manifest.from_json(zlib.decompress(body)), _done(log, FRAME.size + len(body))
    except (TypeError, ValueError, LookupError, struct.error, zlib.error) as error:
        raise InputChanged(
            f"the packing into {path} was interrupted and was begun by another version of the packer",
            "go on with that one, or begin anew with --fresh",
        ) from error


def _done(log: bytes, at: int) -> PackedSoFar:
    """What the frames from an offset on tell."""
    count = 0
    done, parts = PackedSoFar([(0, at)]), [np.empty(0, ENTRY)]
    while (body := _body(log, at)) is not None:
        done.safe, images, told = COUNTS.unpack_from(body)
        entries = np.frombuffer(body, ENTRY, images, COUNTS.size)
        if told:
            done.notes |= {int(i): Note.from_json(note) for i, note in json.loads(body[-told:]).items()}
        parts.append(entries)
        at += FRAME.size + len(body)
        count += images
        done.ends.append((count, at))
    done.entries = np.concatenate(parts)
    return done


def _body(log: bytes, at: int) -> bytes | None:
    """The body of the frame at an offset, or None where there is no whole one."""
    if at + FRAME.size > len(log):
        return None
    magic, size, checksum = FRAME.unpack_from(log, at)
    body = log[at + FRAME.size : at + FRAME.size + size]
    return body if magic == MAGIC and len(body) == size and zlib.crc32(body) == checksum else None
