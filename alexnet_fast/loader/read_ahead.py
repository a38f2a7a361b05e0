"""Asks the kernel for the bytes of coming batches, so that decoding finds them in memory, and sorts coming epochs.

A shuffled epoch touches a file one sample here and one there.  Where the file is not in the page cache, a
decoding thread waits for the disk at every other page, one request at a time, and the kernel's own
read-ahead, which guesses that the neighbours come next, reads much that is thrown away.  The plan knows what
comes next: it is asked for early and in many requests at once, which is what disks are fast at.
"""

from __future__ import annotations

import atexit
import mmap
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import numpy as np
from numba import types

from ..kernel_cache import kernel
from .thread_stats import ThreadStats
from .watchdog import POLL_S, STALL_S, Watchdog, close_all, thread_report

Key = TypeVar("Key")

PAUSE_S = 10.0
"""After a longer rest (another loader's evaluation) what was asked for may have left the cache again."""

U64 = np.uint64
PAGE = U64(mmap.PAGESIZE)
WILLNEED = np.int32(mmap.MADV_WILLNEED)

# address, bytes, advice; 0 = ok. Of a mapped file it starts reading what is not in memory, and returns.
madvise = types.ExternalFunction("madvise", types.int32(types.uint64, types.uint64, types.int32))


@kernel
def advise_willneed(file, samples, page, advice):
    """Ask for the bytes of samples that will be read soon, neighbours in one request; returns the number of requests.

    Advice and no more: where a file system cannot follow it, the pages are read when they are touched.
    One call for many samples, so that the thread asks for the GIL once.

    Args:
        file: (file size,) uint8, the memory map.
        samples: (n,) decode.SAMPLE.
        page: bytes of a page of memory.
        advice: MADV_WILLNEED.
    """
    base = U64(file.ctypes.data)
    requests = 0
    begin = end = U64(0)  # whole pages that are wanted and not yet asked for
    for k in range(len(samples)):
        first = base + U64(samples[k].ptr)
        last = first + U64(samples[k].size)
        first = first // page * page
        if begin <= first <= end:
            end = max(end, last)
            continue
        if end > begin:
            madvise(begin, end - begin, advice)
            requests += 1
        begin, end = first, last
    if end > begin:
        madvise(begin, end - begin, advice)
        requests += 1
    return requests


class ReadAhead:
    """A thread that asks for the bytes of batches, and does other tasks of the plan: it sorts the next epoch's order.

    The decoding threads go through the plan, which calls `ahead_of` and `do`: these give the thread its tasks and wait for
    none.  A request can block while the disk's queue is full, so neither they nor the consumer make it.  An error in
    the thread ends it, and whoever next asks for batches or gives it a task is told.

    Args:
        file: (file size,) uint8, the memory map.
        max_bytes: how far beyond the batch that is handed out to ask, in bytes of samples; 0 = not at all.
        patience: with its end; the crew's, which may have been lost for the same reason.
    """

    def __init__(self, file: np.ndarray, max_bytes: int, patience: Watchdog | None = None) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._stopped = False
        self._error: BaseException | None = None
        self._activity = ThreadStats("read-ahead")
        self._patience = patience or Watchdog(STALL_S)
        self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
        _all.add(self)

    def start(self) -> None:
        """Begin. Whoever calls this has seen to it that `stop` will be called, whatever happens."""
        self._thread.start()

    def ahead_of(self, batches: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, np.ndarray]]:
        """The same batches (a key and (n,) decode.SAMPLE), each when those that follow it have been asked for."""
        if not self._max_bytes:
            for batch in batches:
                self._check()
                yield batch
            return
        waiting: deque[tuple[Key, np.ndarray]] = deque()
        waiting_bytes = 0
        for batch in batches:
            self._ask(batch[1])
            waiting.append(batch)
            waiting_bytes += bytes_of(batch[1])
            while waiting_bytes > self._max_bytes:
                waiting_bytes -= bytes_of(waiting[0][1])
                handed_out = time.monotonic()
                yield waiting.popleft()
                if time.monotonic() - handed_out > PAUSE_S:
                    for _, samples in waiting:
                        self._ask(samples)
        yield from waiting

    def do(self, task: Callable[[], object]) -> None:
        """Have the thread do something, after all that it was given before.

        Raises:
            RuntimeError: it failed at something before (with its cause).
        """
        self._check()
        if not self._stopped:
            self._tasks.put(task)

    def report(self) -> str:
        """What the thread is doing, for a person."""
        return (
            f"{thread_report(self._thread, self._activity)}\n    {self._tasks.qsize()} more tasks wait for it"
        )

    def stop(self) -> None:
        """Tell the thread to end, and wait for nothing and no lock: the garbage collector may call this."""
        self._stopped = True
        self._tasks.put(None)

    def close(self) -> None:
        """Stop and join the thread; what it has not begun is left undone.

        Raises:
            LoaderStalled: it does not end.
        """
        self.stop()
        self._patience.join([self._thread], self.report)

    def _ask(self, samples: np.ndarray) -> None:
        self.do(partial(advise_willneed, self._file, samples, PAGE, WILLNEED))

    def _check(self) -> None:
        if self._error is not None:
            raise RuntimeError(f"the read-ahead thread failed: {self._error!r}") from self._error

    def _work(self) -> None:
        try:
            self._activity.begin("waiting for a task")
            while not self._stopped:
                with suppress(Empty):
                    task = self._tasks.get(timeout=POLL_S)  # Ctrl-C may have come between `stop`'s two lines
                    if task is None or self._stopped:
                        return
                    self._activity.begin("asking for samples, or sorting an order")
                    task()
                    self._activity.begin("waiting for a task")
        except BaseException as error:  # whatever it is, the consumer must hear of it
            self._error = error
        finally:
            self._stopped = True


def bytes_of(samples: np.ndarray) -> int:
    """Bytes of the payloads of samples, (n,) decode.SAMPLE."""
    return int(samples["size"].sum())


_all: weakref.WeakSet[ReadAhead] = weakref.WeakSet()
atexit.register(close_all, _all)
