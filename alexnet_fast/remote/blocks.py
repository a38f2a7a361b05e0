"""A file that is being fetched: sparse, with a journal of its complete blocks next to it, so that a killed fetch resumes."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ..common.text import size as in_units
from ..errors import UserError

BLOCK_BYTES = 8 << 20
HEADER = "alexnet_fast blocks 1"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartFile:
    """The blocks of a file that have arrived.  Threads may write different blocks at a time.

    A line of the journal is a complete block's number and CRC-32.  A block counts as complete only if its bytes have that checksum
    when the file is opened again: after a power cut a line may be there, and its bytes not.

    Args:
        path: of the file; the journal is PATH.journal.
        size: of the complete file, in bytes.
        block_bytes: of a block; a journal of other blocks or another size starts again.

    Raises:
        UserError: the disk is full.
        OSError: a file cannot be written.
    """

    def __init__(self, path: Path, size: int, block_bytes: int) -> None:
        self.path, self.size, self.block_bytes = path, size, block_bytes
        self.count = -(-size // block_bytes)
        self.done = dict[int, int]()
        self._lock = threading.Lock()
        self._journal_path = path.with_name(path.name + ".journal")
        self._header = f"{HEADER} {size} {block_bytes}\n"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._journal = -1
        try:
            os.ftruncate(self._file, size)
            self.done = {k: crc for k, crc in self._journaled().items() if self._crc(k) == crc}
            self._write_journal()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and error.errno in FULL:
                raise self._full() from None
            raise

    def span(self, block: int) -> tuple[int, int]:
        """The first byte of a block, and the one after its last."""
        start = block * self.block_bytes
        return start, min(start + self.block_bytes, self.size)

    @property
    def missing(self) -> list[int]:
        """The blocks that have not arrived, in order."""
        return [block for block in range(self.count) if block not in self.done]

    @property
    def done_bytes(self) -> int:
        with self._lock:
            return sum(end - start for start, end in map(self.span, self.done))

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes of a block; it counts when it is ``complete``."""
        view = memoryview(data)
        try:
            while len(view):
                written = os.pwrite(self._file, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            if error.errno in FULL:
                raise self._full() from None
            raise

    def complete(self, block: int, crc: int) -> None:
        """Note that all bytes of a block are written, with their CRC-32."""
        with self._lock:
            try:
                os.write(self._journal, f"{block} {crc:08x}\n".encode())
            except OSError as error:
                if error.errno in FULL:
                    raise self._full() from None
                raise
            self.done[block] = crc

    def forget(self, spans: Iterable[tuple[int, int]]) -> None:
        """Make the blocks that contain these bytes (start, end) missing again."""
        for start, end in spans:
            for block in range(start // self.block_bytes, -(-end // self.block_bytes)):
                self.done.pop(block, None)
        self._write_journal()

    def finish(self) -> None:
        """Sync the complete file, and delete its journal."""
        assert not self.missing
        os.fsync(self._file)
        self.close()
        self._journal_path.unlink()

    def close(self) -> None:
        for descriptor in (self._file, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._journal = -1

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _journaled(self) -> dict[int, int]:
        """The blocks of the journal with their checksums; none for one of another file. A line that is not complete is skipped."""
        try:
            lines = self._journal_path.read_text("ascii", "replace").splitlines(keepends=True)
        except FileNotFoundError:
            return {}
        found = dict[int, int]()
        for line in lines[1:] if lines and lines[0] == self._header else []:
            block, _, crc = line.rstrip("\n").partition(" ")
            if line.endswith("\n") and block.isdecimal() and int(block) < self.count and len(crc) == 8:
                try:
                    found[int(block)] = int(crc, 16)
                except ValueError:
                    continue
        return found

    def _crc(self, block: int) -> int:
        start, end = self.span(block)
        return zlib.crc32(os.pread(self._file, end - start, start))

    def _write_journal(self) -> None:
        """Write the journal of the blocks that are complete, and keep it open to append to it."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1
        new = self._journal_path.with_name(self._journal_path.name + ".new")
        new.write_text(self._header + "".join(f"{k} {crc:08x}\n" for k, crc in self.done.items()))
        os.replace(new, self._journal_path)
        self._journal = os.open(self._journal_path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def _full(self) -> UserError:
        left = self.size - sum(end - start for start, end in map(self.span, self.done))
        return UserError(
            f"the disk of {self.path.parent} is full, and {in_units(left)} of {self.path.name} are missing: make room, or set "
            "ALEXNET_FAST_CACHE to a folder on a larger disk; what has arrived is kept"
        )
