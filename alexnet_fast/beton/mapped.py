"""A memory-mapped file, and checks that it has not changed since it was opened.

Another program may overwrite a file while we read it.  If it writes in place (``cp``, ``rsync --inplace``, ``open("r+b")``), the
bytes that we read change: that is an error.  If it renames another file to this name, they do not: that is a warning.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
import time
import weakref
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np

from ..common.untrusted import open_regular
from . import sigbus
from .errors import BetonError

logger = logging.getLogger("alexnet_fast")

MAP_FIXED = 0x10  # the same on Linux and macOS; Python's mmap does not have it


class Witness:
    """Keeps a file open, and detects whether it has changed since.

    **What it detects.** A call that changes a file's bytes (write, truncate, fallocate ...) sets the file's modification time before
    it changes them, so a check after a read detects every change that the read can have met.
    **What it does not detect.** A writer through a memory map, of whose stores only some set the time; a writer that resets the time
    before the next check; on a network file system a writer on another host, until this host refreshes its cached times; and
    before Linux 6.13 a write in the same tick of the kernel's clock (1 to 10 ms) as the last one before the file was opened.

    Attributes:
        path: as it was given.
        lost_its_name: whether a check found another file, or none, at the path.  The old file stays open and complete.

    Raises:
        OSError, ValueError: as ``untrusted.open_regular``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost_its_name = False
        self._absolute = path.absolute()
        with open_regular(path) as file:
            self._descriptor = os.dup(file.fileno())
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._close.atexit = False
        self._then = os.fstat(self._descriptor)
        self._status_ns = self._then.st_ctime_ns
        self._region: sigbus.Region | None = None

    def watch(self, keeper: object, address: int, size: int) -> None:
        """Keep failed reads of this file's map from ending the process (see ``sigbus``); ``check`` reports them.

        Args:
            keeper: an object that is deleted before the map is unmapped, and can have weak references.
            address, size: of the map, in bytes.
        """
        if (
            "llvmlite" in sys.modules
        ):  # loaded already, as in every process that decodes: install the handler now
            sigbus.install()
        self._region = sigbus.watch(address, size)
        weakref.finalize(keeper, self._region.forget).atexit = False

    @property
    def unchanged(self) -> Unchanged:
        """A context manager for code that reads the file; any number of threads may use it at a time.

        It installs the handler of ``sigbus`` if possible: to open files only, llvmlite is not needed.
        """
        sigbus.install()
        return Unchanged(self)

    def check(self) -> None:
        """Check that what was read so far is the content that the file had when it was opened.

        It costs one fstat.  If another file, or none, has the file's name now, it logs one warning on "alexnet_fast".

        Raises:
            BetonError: the file was written over in place, shortened, lengthened or touched, or could not be read.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:
            raise BetonError(
                f"{self.path} is no longer accessible: {error.strerror or error}; check its disk or network and start again"
            ) from error
        then = self._then
        if now.st_mtime_ns != then.st_mtime_ns or now.st_size != then.st_size:
            raise BetonError(
                f"{self.path} was {_change(then, now)}; what is read of it now may mix two files: write a new file next to "
                "it and rename that, as the packer does, and start again"
            )
        if self._region is not None and (lost_at := self._region.lost_at) is not None:
            raise BetonError(
                f"{self.path} is no longer readable: its disk or network failed at byte {lost_at:,} of its "
                f"{then.st_size:,}; fix that and start again"
            )
        if now.st_ctime_ns != self._status_ns:  # its mode, its owner or its links changed, or its name
            self._status_ns = now.st_ctime_ns
            self._check_name(now)

    def close(self) -> None:
        """Close the file."""
        self._close()
        self._descriptor = -1

    def _check_name(self, now: os.stat_result) -> None:
        try:
            other = os.stat(self._absolute)
        except OSError:
            what = "was deleted or moved"
        else:
            what = "was replaced by another file"
            if os.path.samestat(other, now):
                return
        if not self.lost_its_name:
            self.lost_its_name = True
            logger.warning(
                "%s %s while it was open: processes that have it open still read the old file, which is complete; those that open it "
                "from now on, as a resumed run does, do not",
                self.path,
                what,
            )


class Checked(Protocol):
    """One file that is watched, or several."""

    def check(self) -> None:
        """As ``Witness.check``."""


class Unchanged:
    """See ``Witness.unchanged``.

    Raises:
        BetonError: as ``Witness.check``, at the start and at the end; at the end it replaces an Exception of the body, which the
            change may have caused.
    """

    def __init__(self, witness: Checked) -> None:
        self._witness = witness

    def __enter__(self) -> None:
        self._witness.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):  # KeyboardInterrupt and the like are not replaced
            self._witness.check()


class MappedFile(Witness):
    """A memory-mapped file.

    Args:
        room: where in memory; None = anywhere.

    Attributes:
        bytes: (file size,) uint8, read-only; views of it keep it mapped.

    Raises:
        OSError, ValueError: as ``Witness``; ValueError also if the file is empty, or is not of the room's size.
    """

    def __init__(self, path: Path, room: Room | None = None) -> None:
        super().__init__(path)
        size = self._then.st_size
        if size == 0:
            raise ValueError("it is empty")
        if room is None:
            room = Room(_Pages(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)), 0, size)
        else:
            room.fill(self._descriptor, size)
        self._room = room
        self.bytes = room.bytes
        self.watch(room.pages, self.bytes.ctypes.data, len(self.bytes))

    def expect_random_access(self) -> None:
        """Make the kernel read only the pages that are touched.

        Raises:
            OSError: the kernel does not accept the advice.
        """
        room = self._room
        room.pages.mapped.madvise(mmap.MADV_RANDOM, room.begin, room.size)

    def close(self) -> None:
        super().close()
        del self.bytes, self._room


class _Pages:
    """The object to which every view of a map refers, so that it is deleted just before the map.

    A weak reference to the ``mmap.mmap`` itself would be too late: its callback runs after the memory is unmapped.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped = mapped
        self.__array_interface__ = np.frombuffer(mapped, np.uint8).__array_interface__


class Room(NamedTuple):
    """Where a file lies in a range of memory: all of it, or a place of its own next to other files.

    Attributes:
        pages: the range.
        begin: of the file in the range, in bytes.
        size: of the file in bytes.
    """

    pages: _Pages
    begin: int
    size: int

    @property
    def bytes(self) -> np.ndarray:
        """(size,) uint8, a view."""
        every: np.ndarray = np.asarray(self.pages)
        return every[self.begin : self.begin + self.size]

    def fill(self, descriptor: int, size: int) -> None:
        """Map an open file here.

        Raises:
            ValueError: the file has another size.
            OSError: the kernel does not map it.
        """
        if size != self.size:
            raise ValueError(
                f"it changed from {self.size} bytes to {size} while it was opened; open it again"
            )
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64)
        address = np.asarray(self.pages).ctypes.data + self.begin
        # Over pages of our own range, which nobody has read yet.
        flags = mmap.MAP_SHARED | MAP_FIXED
        if libc.mmap(address, size, mmap.PROT_READ, flags, descriptor, 0) != address:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


def side_by_side(sizes: Sequence[int], step: int) -> list[Room]:
    """Rooms for files of these sizes in one range of memory, so that one array holds all of their bytes.

    The range is only addresses: it takes no memory, and what no file fills reads as zeros.

    Args:
        step: every room begins at a multiple of it, which is itself a multiple of a page of memory.

    Raises:
        OSError: there are not so many addresses (ulimit -v).
    """
    ends = list(accumulate(-(-size // step) * step for size in sizes))
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = _Pages(mmap.mmap(-1, ends[-1], flags=anonymous, prot=mmap.PROT_READ))
    return [Room(pages, begin, size) for begin, size in zip([0, *ends], sizes)]


def _change(then: os.stat_result, now: os.stat_result) -> str:
    if now.st_size != then.st_size:
        how = "shortened" if now.st_size < then.st_size else "lengthened"
        return f"{how} while it was open, from {then.st_size} bytes to {now.st_size}"
    return f"written over or touched while it was open, at {time.strftime('%H:%M:%S', time.localtime(now.st_mtime))}"
