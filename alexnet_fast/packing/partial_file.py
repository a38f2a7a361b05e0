"""A beton that is being written: payloads go into ``<name>.partial``, and its journal lists them."""

from __future__ import annotations

import os
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from ..beton import format as fmt
from ..beton.reader import Beton, sidecar_path
from ..common.files import sync_folder
from ..common.systems import advise, sync_data
from .errors import InputChanged
from .journal import Journal, Note, PackedSoFar, read_at, write_at
from .layout import ENTRY, BetonLayout, following
from .manifest import Image, Manifest
from .sidecar_writer import PARTIAL, File, compose, write_whole
from .sources import Reader

LOG_EVERY_S = 0.2  # a kill loses at most this much work
SYNC_EVERY_S = 5.0  # a power cut loses about this much work
PROVE_AT_LEAST = 16  # images whose checksums are always compared, even if the journal says that they are safe


def partial_path(path: Path) -> Path:
    """The name of a beton until it is complete."""
    return path.with_name(path.name + PARTIAL)


class PartialFile:
    """The file and the journal of one packing, a new one or an interrupted one that resumes.

    As a context manager it keeps, on any exception, what was done; the next packing with the same plan resumes there.

    Attributes:
        count: images done, in the plan's order, including skipped ones.
        resumed: how many of them an earlier packing did.
        payload_bytes: of all images kept so far.

    Raises:
        OutputLocked: another process packs into the same file.
        InputChanged: the packing interrupted here had another plan, or its file does not contain what its journal says.
        OSError: the output cannot be written.
    """

    def __init__(self, path: Path, plan: Manifest, reader: Reader, *, fresh: bool) -> None:
        self.path, self._plan, self._reader = path, plan, reader
        self.partial = partial_path(path)
        self._entries = np.zeros(len(plan.paths), ENTRY)
        self._notes: dict[int, Note] = {}
        self._pages = BetonLayout(len(plan.paths), plan.types)
        self.count = self.resumed = self._logged = self._safe = 0
        self._logged_at = self._synced_at = time.monotonic()
        self._syncing: Future[int] | None = None
        self._named = False
        self._journal = Journal(path)
        self._file = -1
        is_new = fresh or self._journal.empty
        try:
            self._file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            found = None
            if not is_new and os.fstat(self._file).st_size:
                found = self._journal.read()
            if found:
                found[0].check_same(plan, str(path), reader.place)
                self._resume(found[1])
            else:
                is_new = True
                os.ftruncate(self._file, 0)
                self._journal.begin(plan)
                sync_folder(path.parent)
        except BaseException:
            if is_new:
                self.forget()
            self._close()
            raise
        # A thread of its own: the packing does not wait for a disk that takes seconds to sync.
        self._syncer = ThreadPoolExecutor(1, "sync-beton")

    @property
    def payload_bytes(self) -> int:
        return self._pages.payload_bytes

    @property
    def total(self) -> int:
        """Images of the plan."""
        return len(self._plan.paths)

    def rest(self) -> list[Image]:
        """The images that are not done yet, in the plan's order."""
        plan, start = self._plan, self.count
        return list(map(Image, plan.paths[start:], plan.sizes[start:], plan.changed_ns[start:]))

    def bytes_missing(self) -> int:
        """About how many bytes the disk lacks for the remaining images, by the mean size of those so far."""
        # 48: a record and an entry of the table.
        rest = (self.total - self.count) * (self.payload_bytes / max(1, self.kept) + 48)
        rest += sum(len(following(self._plan.values(i))) for i in range(self.count, self.total))
        system = os.statvfs(self.path.parent)
        return max(0, int(rest) + self._pages.page_size - system.f_bavail * system.f_frsize)

    @property
    def kept(self) -> int:
        """Samples so far: images done, less those skipped."""
        return self._pages.count

    def add(self, entry: tuple[int, int, int, int, int], payload: bytes, note: Note) -> None:
        """Store one more image (``layout.ENTRY``), or record that it is skipped (size 0)."""
        i = self.count
        record = np.array([entry], ENTRY)[0]
        if payload:
            at, values = self._pages.at, self._plan.values(i)
            ptr = self._pages.add(record, *values)
            if len(values) > 1 or isinstance(values[0], bytes):
                payload += following(values)
            write_at(self._file, bytes(ptr - at) + payload if ptr > at else payload, at)
        self._entries[i] = record
        if any(note):
            self._notes[i] = note
        self.count = i + 1  # last: an interruption before this leaves bytes that the journal does not claim
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._log()
            self._logged_at = now
        if now - self._synced_at >= SYNC_EVERY_S:
            self._sync()
            self._synced_at = now

    def left_out(self) -> dict[int, str]:
        """The images skipped so far: position in the plan -> what was wrong with it."""
        return {
            i: self._notes[i].text for i in np.flatnonzero(self._entries["size"][: self.count] == 0).tolist()
        }

    def finish(self) -> tuple[PackedSoFar, int]:
        """Write the rest of the file, and rename it and its sidecar to their final names.

        The sidecar is renamed first: so a file with its final name always has a sidecar, and the reader detects an older file next to
        this sidecar.

        Returns:
            What was packed, and the size of the file in bytes.

        Raises:
            InputChanged: an image has changed since the packing was planned.
        """
        self._log()
        if self._syncing is not None:
            self._syncing.result()  # raises for a failed disk: Linux reports that to an open file only once
        for at, content in self._pages.ends():
            write_at(self._file, content, at)
        os.fsync(self._file)
        done = PackedSoFar([], self._entries[: self.count], self._notes)
        with Beton(self.partial) as beton:  # makes the checks of every reader, before the file is renamed
            file = File(len(beton.map), beton.index_checksum())
        # After the last write, so that an image that changes later is newer than the file.
        self._plan.check_unchanged(self._reader)
        write_whole(sidecar_path(self.path), compose(self._plan, done, file))
        sync_folder(self.path.parent)
        self._named = True  # set before the rename: an interruption may come between any two steps
        os.replace(self.partial, self.path)
        sync_folder(self.path.parent)
        self._journal.remove()
        return done, file.bytes

    def forget(self) -> None:
        """Delete the file and the journal."""
        with suppress(OSError):  # something else has that name
            self.partial.unlink()
        self._journal.remove()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._keep()
        finally:
            self._syncer.shutdown(wait=True)
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._journal.close()

    def _keep(self) -> None:
        """Log what is not logged yet.  If nothing was done, delete both files; if the file may be finished, change nothing."""
        if self._named:
            return
        if self.count == 0:
            self.forget()
            return
        with suppress(OSError):  # no room even for the journal: the last LOG_EVERY_S of work is done again
            os.ftruncate(self._file, self._pages.at)  # drops a payload that a full disk took only in part
            self._log()

    def _log(self) -> None:
        if self.count > self._logged:
            start, end = self._logged, self.count
            notes = {i: self._notes[i] for i in range(start, end) if i in self._notes}
            self._journal.enter(self._entries[start:end], notes, self._safe)
            self._logged = end

    def _sync(self) -> None:
        if self._syncing is None or self._syncing.done():
            if self._syncing is not None:
                self._safe = self._syncing.result()  # some file systems report a full disk only here
            self._syncing = self._syncer.submit(self._synced, self.count)

    def _synced(self, count: int) -> int:
        sync_data(self._file)
        self._journal.sync()
        return count

    def _resume(self, done: PackedSoFar) -> None:
        """Continue after what is done and proven."""
        pages = self._laid_out(done)
        if (proven := self._proven(done, pages)) < len(done.entries):
            done.cut(proven)
            pages = self._laid_out(done)
        self._pages = pages
        self.count = self.resumed = self._logged = len(done.entries)
        self._entries[: self.count] = done.entries
        self._notes = done.notes
        self._safe = min(done.safe, self.count)
        self._journal.go_on(done)
        os.ftruncate(self._file, pages.at)
        if any(read_at(self._file, fmt.HEADER.itemsize, 0)):  # it was finished except for the rename
            write_at(self._file, bytes(pages.data_start), 0)

    def _laid_out(self, done: PackedSoFar) -> BetonLayout:
        pages = BetonLayout(len(self._plan.paths), self._plan.types)
        for i, entry in enumerate(done.entries):
            if entry["size"]:
                pages.add(entry, *self._plan.values(i))
        return pages

    def _proven(self, done: PackedSoFar, pages: BetonLayout) -> int:
        """How many of the images in the journal the file contains, by their checksums."""
        # Drop cached pages, so that the disk is read: the cache may hold data that the disk failed to write.
        advise(self._file, 0, 0, "DONTNEED")
        suspect = max(0, min(done.safe, len(done.entries) - PROVE_AT_LEAST))
        for k, i in enumerate(np.flatnonzero(done.entries["size"]).tolist()):
            if i < suspect:
                continue
            size, more = int(done.entries["size"][i]), following(self._plan.values(i))
            stored = read_at(self._file, size + len(more), pages.ptr(k))
            if zlib.crc32(stored[:size]) != done.entries["checksum"][i] or stored[size:] != more:
                if i >= done.safe:
                    return i
                raise InputChanged(
                    f"{self.partial} does not contain what its journal says: it was changed, or is of another packing",
                    "start from scratch with --fresh",
                )
        return len(done.entries)
