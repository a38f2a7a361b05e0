"""What an interrupted packing has done: a log next to the unfinished file, which never claims more than that file contains.

    <name>.partial    payloads at their offsets; header and metadata are still zeros
    <name>.journal    frames: first the plan, then the packed images, some in each frame

A frame is ``magic | body bytes, u4 | CRC-32 of the body, u4 | body``, little-endian; an incomplete frame is ignored.

**What is claimed.**  An image is logged after its payload is written.  So after a *kill*, the kernel has the bytes of every
image in the log.  For a *power cut*, both files are synced at intervals, the payloads first.  Each frame says how many images
were on the disk by then; a packing that resumes checks the checksums of the later ones.  The journal is locked, which locks the
file too: the kernel releases the lock when the process ends, however it ends.
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
from ..common.systems import sync_data
from .errors import InputChanged, OutputLocked
from .layout import ENTRY
from .manifest import Manifest

JOURNAL = ".journal"
MAGIC = b"AFJ1"
FRAME = struct.Struct("<4sII")
COUNTS = struct.Struct(
    "<QII"
)  # images that were certainly on the disk, images in this frame, bytes of their notes


def journal_path(path: Path) -> Path:
    """The path of the log of a packing into ``path``."""
    return path.with_name(path.name + JOURNAL)


class Note(NamedTuple):
    """What to report about one image."""

    text: str = ""
    """What it was converted from, or, if it was skipped, what was wrong with it; "" for nothing."""
    corrupt: str = ""
    """``Sample.corrupt``"""
    scaled: tuple[float, float] | None = None
    """``Sample.scaled``"""

    def to_json(self) -> object:
        """The form in the journal: the text alone, as in version 0.1, if there is nothing else."""
        return list(self) if self.corrupt or self.scaled else self.text

    @classmethod
    def from_json(cls, document: str | list) -> Note:
        """The note of a form that ``to_json`` returned; raises TypeError or ValueError for anything else."""
        if isinstance(document, str):
            return cls(document)
        text, corrupt, scaled = document
        return cls(text, corrupt, (scaled[0], scaled[1]) if scaled else None)


@dataclass
class PackedSoFar:
    """The images packed so far, in the split's order.

    Attributes:
        entries: (n,) layout.ENTRY.
        notes: of image i, if there is something to report.
        safe: how many images, from the first, were certainly on the disk.
        ends: for each frame, the plan's first: (images up to its end, offset of its end).
    """

    ends: list[tuple[int, int]]
    entries: np.ndarray = field(default_factory=lambda: np.empty(0, ENTRY))
    notes: dict[int, Note] = field(default_factory=dict)
    safe: int = 0

    def cut(self, count: int) -> None:
        """Keep the first ``count`` images, less those of a frame that would be kept in part."""
        self.ends = [(images, end) for images, end in self.ends if images <= count]
        images = self.ends[-1][0]
        self.entries = self.entries[:images]
        self.notes = {i: note for i, note in self.notes.items() if i < images}


class Journal:
    """The log of one packing, locked while it is open.

    Raises:
        OutputLocked: another process has locked it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        def busy() -> None:
            raise OutputLocked(
                f"another process is packing into {path}", "wait for it to end, or pack into another --out"
            )

        self._for, self.path = path, journal_path(path)
        # A file system without locks does not stop a second packer.
        self._file = open_locked(self.path, busy)
        self._at = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was ever logged."""
        return os.fstat(self._file).st_size == 0

    def read(self) -> tuple[Manifest, PackedSoFar] | None:
        """The plan of the packing that was interrupted here, and what it had done; None if there was none.

        Raises:
            InputChanged: another version of the packer wrote the log.
        """
        size = os.fstat(self._file).st_size
        return _parsed(read_at(self._file, size, 0), self._for)

    def begin(self, plan: Manifest) -> None:
        """Delete the log's content and log a new packing."""
        os.ftruncate(self._file, 0)
        self._at = 0
        self._append(zlib.compress(plan.to_json(), 1))

    def go_on(self, done: PackedSoFar) -> None:
        """Continue the log after what was done."""
        self._at = done.ends[-1][1]
        os.ftruncate(self._file, self._at)

    def enter(self, entries: np.ndarray, notes: dict[int, Note], safe: int) -> None:
        """Log images whose payloads have been written.

        Args:
            entries: (n,) layout.ENTRY.
            notes: see ``PackedSoFar``.
            safe: how many images' payloads, from the first, are certainly on the disk.
        """
        packed = json.dumps({i: note.to_json() for i, note in notes.items()}).encode() if notes else b""
        self._append(COUNTS.pack(safe, len(entries), len(packed)) + entries.tobytes() + packed)

    def sync(self) -> None:
        """Sync the log to the disk."""
        sync_data(self._file)

    def remove(self) -> None:
        """Delete the log; the lock is still held."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, body: bytes) -> None:
        # At our own offset: the next frame overwrites one that an interruption left incomplete.
        write_at(self._file, FRAME.pack(MAGIC, len(body), zlib.crc32(body)) + body, self._at)
        self._at += FRAME.size + len(body)


def remove_stale_journal(path: Path) -> None:
    """Delete the log of a packing into ``path`` that was killed just after the file was renamed; not a log in use."""
    if journal_path(path).exists():
        with suppress(OutputLocked, OSError), Journal(path) as journal:
            journal.remove()


def images_logged(path: Path) -> int:
    """How many images of an interrupted packing into ``path`` are packed, by its log."""
    try:
        found = _parsed(journal_path(path).read_bytes(), path)
    except (OSError, InputChanged):
        return 0
    return len(found[1].entries) if found else 0


def progress_sentence(path: Path, total: int) -> str:
    """The progress of an interrupted packing into ``path``, in words."""
    if not (count := images_logged(path)):
        return f"no image of {path} is packed yet"
    return f"{count:,} of {total:,} images of {path} are packed, and the same command resumes there"


def write_at(file: int, content: bytes, at: int) -> None:
    """Write all of ``content`` at an offset, in as many calls as the kernel needs."""
    view = memoryview(content)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def read_at(file: int, size: int, at: int) -> bytes:
    """``size`` bytes from an offset; fewer at the end of the file."""
    parts = []
    while size and (part := os.pread(file, min(size, 1 << 30), at)):
        parts.append(part)
        size, at = size - len(part), at + len(part)
    return b"".join(parts)


def _parsed(log: bytes, path: Path) -> tuple[Manifest, PackedSoFar] | None:
    """The plan and what was done; None if not even the plan is complete; raises InputChanged for complete frames in another form."""
    if (body := _body(log, 0)) is None:
        return None
    try:
        return Manifest.from_json(zlib.decompress(body)), _done(log, FRAME.size + len(body))
    except (TypeError, ValueError, LookupError, struct.error, zlib.error) as error:
        raise InputChanged(
            f"the packing into {path} was interrupted and was started by another version of the packer",
            "resume with that version, or start from scratch with --fresh",
        ) from error


def _done(log: bytes, at: int) -> PackedSoFar:
    """What was done, by the frames from an offset on."""
    count = 0
    done, parts = PackedSoFar([(0, at)]), [np.empty(0, ENTRY)]
    while (body := _body(log, at)) is not None:
        done.safe, images, notes_bytes = COUNTS.unpack_from(body)
        entries = np.frombuffer(body, ENTRY, images, COUNTS.size)
        if notes_bytes:
            done.notes |= {
                int(i): Note.from_json(note) for i, note in json.loads(body[-notes_bytes:]).items()
            }
        parts.append(entries)
        at += FRAME.size + len(body)
        count += images
        done.ends.append((count, at))
    done.entries = np.concatenate(parts)
    return done


def _body(log: bytes, at: int) -> bytes | None:
    """The body of the frame at an offset; None if there is no complete frame."""
    if at + FRAME.size > len(log):
        return None
    magic, size, checksum = FRAME.unpack_from(log, at)
    body = log[at + FRAME.size : at + FRAME.size + size]
    return body if magic == MAGIC and len(body) == size and zlib.crc32(body) == checksum else None
