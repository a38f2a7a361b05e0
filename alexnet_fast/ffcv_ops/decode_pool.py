"""One batch at a time, decoded while its caller waits, to interleaved pixels of any height and width.

The loader's ``DecodeWorkers`` work ahead by a plan of their own.  This is for those who bring both plan and memory, such as FFCV's Loader.
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

CHUNK = 16  # samples a call: their planar images, 2.4 MB at 224 px, are still near when they are interleaved


class DecodePool:
    """The threads that decode a batch, and as many workers as are busy at once, kept from batch to batch.

    Any thread may ask for a batch; batches are made one after the other.
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
            store: (bytes,) uint8, read-only, where the payloads lie.
            samples: (n,) kernel.SAMPLE_DTYPE of true metadata and at most ``decoder.MAX_PIXELS`` each.
            boxes: (n,) crop.CROP_DTYPE, inside their images; changed.
            out: (n, height, width, 3) uint8, RGB.
            threads: how many share the work.

        Returns:
            (n,) uint8, each sample's status.
        """
        count = len(samples)
        statuses = np.full(count, TOO_LARGE, np.uint8)
        chunk = min(CHUNK, -(-count // (4 * threads)))  # small against a thread's share: all end together

        def work(begin: int) -> None:
            part = slice(begin, begin + chunk)
            worker = self._idle.pop() if self._idle else Worker()
            worker.decode(store, samples[part], boxes[part], out[part], statuses[part])
            self._idle.append(worker)

        with self._lock:
            begins = range(0, count, chunk)
            if threads == 1:
                for begin in begins:
                    work(begin)
            else:
                self._share(work, begins, threads)
        return statuses

    def finish(self) -> None:
        """Wait for the batch in hand, and begin no other."""
        self._lock.acquire()

    def _share(self, work: Callable[[int], None], begins: range, threads: int) -> None:
        if self._pool is None or self._threads != threads:
            self._pool, self._threads = ThreadPoolExecutor(threads, "decode"), threads
        futures: list[Future] = []
        try:
            for begin in begins:
                futures.append(self._pool.submit(work, begin))
        finally:
            wait(futures)  # whatever fails, nobody may still write when the caller takes its memory back
        for future in futures:
            future.result()


class Worker:
    """What one thread needs: a decoder of the size in hand, and its planar images."""

    def __init__(self) -> None:
        self._begin(1)

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
        # The kernels make squares.  A box that is longer by size / height, with a filter that stays inside the crop,
        # has the wanted picture in its first ``height`` rows; so for the columns, which lie on the right if mirrored.
        size = max(height, width)
        boxes["height"] *= size / height
        boxes["width"] *= size / width
        lefts = np.where(boxes["mirrored"] == 1, size - width, 0)
        if size != self._decoder.size:
            self._decoder.close()
            self._begin(size)
        # Such a box has as many taps as that of an image which is larger by as much.
        self._decoder.reserve(samples, size / min(height, width))
        self._decoder.decode(store, samples, boxes, self._planes[:count], statuses)
        interleave(self._planes[:count], lefts, out)

    def _begin(self, size: int) -> None:
        self._decoder = Decoder(size)
        self._planes = np.empty((CHUNK, 3, size, size), np.uint8)


_open_pools: weakref.WeakSet[DecodePool] = weakref.WeakSet()


@atexit.register
def _finish_all() -> None:
    """No thread may be inside a kernel while the interpreter takes itself apart; those that ask may be daemons."""
    for pool in list(_open_pools):
        pool.finish()
