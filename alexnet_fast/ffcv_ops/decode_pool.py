"""Decodes one batch at a time, while its caller waits, to interleaved pixels of any height and width.

The loader's ``DecodeWorkers`` decode ahead by their own plan.  This is for callers with their own plan and memory, such as FFCV's
Loader.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from ..decode.decoder import Decoder
from ..decode.interleave import interleave
from ..decode.status import TOO_LARGE

CHUNK = 16  # samples a call: their planar images, 2.4 MB at 224 px, are still in a cache when they are interleaved


class DecodePool:
    """Threads that decode a batch, and a worker for each that is busy; both are kept from batch to batch.

    Any thread may ask for a batch; batches are decoded one after the other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._pool: ThreadPoolExecutor | None = None
        self._threads = 1
        _open_pools.add(self)

    def decode(
        self, store: np.ndarray, samples: np.ndarray, boxes: np.ndarray, out: np.ndarray, threads: int
    ) -> np.ndarray:
        """Decode the crops of a batch of samples.

        Args:
            store: (bytes,) uint8, read-only, with the payloads.
            samples: (n,) kernel.SAMPLE_DTYPE with valid metadata and at most ``decoder.MAX_PIXELS`` pixels each.
            boxes: (n,) crop.CROP_DTYPE, inside their images.
            out: (n, height, width, 3) uint8, RGB; the result.
            threads: how many share the work.

        Returns:
            (n,) uint8, each sample's status.
        """
        count = len(samples)
        statuses = np.full(count, TOO_LARGE, np.uint8)
        chunk = min(
            CHUNK, -(-count // (4 * threads))
        )  # small compared with a thread's share, so that all end together

        def work(start: int) -> None:
            part = slice(start, start + chunk)
            worker = self._idle.pop() if self._idle else Worker()
            worker.decode(store, samples[part], boxes[part], out[part], statuses[part])
            self._idle.append(worker)

        with self._lock:
            starts = range(0, count, chunk)
            if threads == 1:
                for start in starts:
                    work(start)
            else:
                self._share(work, starts, threads)
        return statuses

    def finish(self) -> None:
        """Wait for the current batch, and start no other."""
        self._lock.acquire()

    def _share(self, work: Callable[[int], None], starts: range, threads: int) -> None:
        if self._pool is None or self._threads != threads:
            self._pool, self._threads = ThreadPoolExecutor(threads, "decode"), threads
        futures: list[Future] = []
        try:
            for start in starts:
                futures.append(self._pool.submit(work, start))
        finally:
            wait(
                futures
            )  # even after an error: no thread may write any more once the caller has its memory back
        for future in futures:
            future.result()


class Worker:
    """What one thread needs: a decoder of the current size, and its planar images."""

    def __init__(self) -> None:
        self._set_size((1, 1))

    def decode(
        self,
        store: np.ndarray,
        samples: np.ndarray,
        boxes: np.ndarray,
        out: np.ndarray,
        statuses: np.ndarray,
    ) -> None:
        """Decode a chunk of samples: ``DecodePool.decode`` on one thread."""
        count, height, width, _ = out.shape
        if (height, width) != (self._decoder.height, self._decoder.width):
            self._decoder.close()
            self._set_size((height, width))
        self._decoder.decode(store, samples, boxes, self._planes[:count], statuses)
        interleave(self._planes[:count], out)

    def _set_size(self, size: tuple[int, int]) -> None:
        self._decoder = Decoder(size)
        self._planes = np.empty((CHUNK, 3, *size), np.uint8)


_open_pools: weakref.WeakSet[DecodePool] = weakref.WeakSet()


@atexit.register
def _finish_all() -> None:
    """No thread may be inside a kernel while the interpreter shuts down; the calling threads may be daemons."""
    for pool in list(_open_pools):
        pool.finish()
