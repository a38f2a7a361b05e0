"""A file that is read through memory, and whether it is still as it was when it was opened.

Another program may write a file over while it is read here: in place (``cp``, ``rsync --inplace``, ``open("r+b")``), which
changes the bytes under our hands, or by a rename of another file to its name, which does not.  The first is an error, the second a warning.
"""

from __future__ import annotations

import logging
import mmap
import os
import sys
import time
import weakref
from pathlib import Path
from types import TracebackType

import numpy as np

from ..common.untrusted import open_regular
from . import sigbus
from .errors import BetonError

logger = logging.getLogger("alexnet_fast")


class Witness:
    """Keeps a file open, and sees whether it has been changed since.

    **What it sees.** A call that changes a file's bytes (write, truncate, fallocate ...) sets the file's modification time before it
    touches them, so a check behind a read finds every one that the read can have seen.
    **What it does not see.** A writer through a map of its own, of whose stores only some set the time; a writer that sets the time
    back before the next check; on a network file system a writer on another host, until this host's cache of the times is renewed; and
    before Linux 6.13 a write in the same tick of the kernel's clock (1 to 10 ms) as the last one before the file was opened.

    Attributes:
        path: as it was given.
        lost_its_name: whether another file, or none, has been seen at the path.  This one is read on, whole.

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
        """Let no read of this file's map end the process (see ``sigbus``): ``check`` tells of it.

        Args:
            keeper: what goes before the map does, and can be referred to weakly.
            address, size: of the map, in bytes.
        """
        if "llvmlite" in sys.modules:  # as for all who decode: from now on
            sigbus.install()
        self._region = sigbus.watch(address, size)
        weakref.finalize(keeper, self._region.forget).atexit = False

    @property
    def unchanged(self) -> Unchanged:
        """For ``with``, around whatever reads the file; by any number of threads at a time.

        Here the handler of ``sigbus`` is installed, where it can be: who only opens files needs no llvmlite.
        """
        sigbus.install()
        return Unchanged(self)

    def check(self) -> None:
        """See that what was read of the file so far is what it held when it was opened.

        It takes one fstat.  A file that has lost its name is told once, on the log "alexnet_fast".

        Raises:
            BetonError: it was written over in place, shortened, lengthened or touched, or could not be read.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:
            raise BetonError(
                f"{self.path} cannot be looked at any more: {error.strerror or error}; see to its disk or network and start again"
            ) from error
        then = self._then
        if now.st_mtime_ns != then.st_mtime_ns or now.st_size != then.st_size:
            raise BetonError(
                f"{self.path} was {_change(then, now)}; what is read of it now may be of two files: write a new file beside "
                "it and rename that, as the packer does, and start again"
            )
        if self._region is not None and (lost_at := self._region.lost_at) is not None:
            raise BetonError(
                f"{self.path} cannot be read any more: its disk or network did not give what lies at {lost_at:,} of its "
                f"{then.st_size:,} bytes; see to that and start again"
            )
        if now.st_ctime_ns != self._status_ns:  # its mode, its owner, another link: or its name
            self._status_ns = now.st_ctime_ns
            self._look_for_its_name(now)

    def close(self) -> None:
        """Let the file go."""
        self._close()
        self._descriptor = -1

    def _look_for_its_name(self, now: os.stat_result) -> None:
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
                "%s %s while it was open: whoever has it open reads the old file on, which is whole; whoever opens it from now on, "
                "as a resumed run does, does not",
                self.path,
                what,
            )


class Unchanged:
    """See ``Witness.unchanged``.

    Raises:
        BetonError: as ``Witness.check``, at the begin and at the end, and there also in place of what the change made go wrong.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def __enter__(self) -> None:
        self._witness.check()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):  # an interruption stays one
            self._witness.check()


class MappedFile(Witness):
    """A file in memory.

    Attributes:
        bytes: (file size,) uint8, read-only; views of it keep it mapped.

    Raises:
        ValueError: also where it is empty.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self._then.st_size == 0:
            raise ValueError("it is empty")
        self._pages = _Pages(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ))
        self.bytes = np.asarray(self._pages)
        self.watch(self._pages, self.bytes.ctypes.data, len(self.bytes))

    def expect_random_access(self) -> None:
        """Have the kernel read no more than the pages that are touched.

        Raises:
            OSError: it does not take advice.
        """
        self._pages.mapped.madvise(mmap.MADV_RANDOM)

    def close(self) -> None:
        super().close()
        del self.bytes, self._pages


class _Pages:
    """What every view of a map refers to, and what goes before the map does: of a ``mmap.mmap`` one hears when it is gone."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped = mapped
        self.__array_interface__ = np.frombuffer(mapped, np.uint8).__array_interface__


def _change(then: os.stat_result, now: os.stat_result) -> str:
    if now.st_size != then.st_size:
        how = "shortened" if now.st_size < then.st_size else "lengthened"
        return f"{how} while it was open, from {then.st_size} bytes to {now.st_size}"
    return f"written over or touched while it was open, at {time.strftime('%H:%M:%S', time.localtime(now.st_mtime))}"
