"""Groups of images that can only be unpacked together (a .tar.gz, a row group of parquet), each unpacked once for all workers.

Images of one group are packed one after the other (``archives.Listed.shuffled``), so all workers need the same one or two groups
at a time.  Whoever needs one first unpacks it into memory that all share; the memory holds ``SLOTS`` groups, whatever the number of
workers.  A worker that is killed while it unpacks leaves a slot without a group's number, which the next one fills again.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from .shared_memory import SharedMemory

SLOTS = 3
MAX_GROUP_BYTES = 4 << 30
TAG = struct.Struct("<QQ")  # the group's number + 1, and when it was unpacked; all zero: none
HEAD_BYTES = TAG.size


class SharedGroups:
    """The groups unpacked last; pickled to a worker process, they are the same memory."""

    def __init__(self) -> None:
        self._turn = SharedMemory("turn")
        self._slots = [SharedMemory(f"group-{k}") for k in range(SLOTS)]

    def read(self, group: int, unpack: Callable[[BinaryIO], None], find: Callable[[int], bytes]) -> bytes:
        """An image of a group.

        Args:
            unpack: writes the group's content to a file, if it is not there yet.
            find: returns the image, out of a file (its descriptor) in which the content begins at ``HEAD_BYTES``.

        Raises what these raise.
        """
        if (slot := self._with(group)) is None:
            with _locked(self._turn.file):
                if (
                    slot := self._with(group)
                ) is None:  # nobody has unpacked it while this one waited for its turn
                    slot = min(self._slots, key=lambda each: _tag(each)[1])
                    with _locked(slot.file):  # waits until nobody reads in it
                        self._fill(slot, group, unpack)
                        return find(slot.file)
        try:
            return find(slot.file)
        finally:
            fcntl.flock(slot.file, fcntl.LOCK_UN)

    def _with(self, group: int) -> SharedMemory | None:
        """The slot that holds a group, locked against change; None if there is none."""
        for slot in self._slots:
            fcntl.flock(slot.file, fcntl.LOCK_SH)
            if _tag(slot)[0] == group + 1:
                return slot
            fcntl.flock(slot.file, fcntl.LOCK_UN)
        return None

    def _fill(self, slot: SharedMemory, group: int, unpack: Callable[[BinaryIO], None]) -> None:
        number = 1 + max(_tag(each)[1] for each in self._slots)
        os.ftruncate(slot.file, 0)
        with open(slot.file, "wb", closefd=False) as file:
            file.seek(HEAD_BYTES)
            unpack(file)
        os.pwrite(slot.file, TAG.pack(group + 1, number), 0)  # last: what is not complete has no number


def _tag(slot: SharedMemory) -> tuple[int, int]:
    content = os.pread(slot.file, TAG.size, 0)
    return TAG.unpack(content) if len(content) == TAG.size else (0, 0)


@contextmanager
def _locked(file: int) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
