"""The decoding threads: they fill batches in order, ahead of the consumer, for as long as the loader lives."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from . import turbojpeg
from .crop import BOX, Cropping, draw_boxes
from .decode import SAMPLE, Scratch, decode_chunk, make_scratch
from .jit import kernel
from .order import epoch_order
from .readahead import PAGE, WILLNEED, will_need
from .warmup import WarmUp

if TYPE_CHECKING:
    from .ring import Slot

CHUNK = 32  # samples a call: about 14 ms at 500 px, which hides the call and the lock
START_PX = 512  # a thread's scratch fits this side at first, and grows with its images
MOST_PIXELS = 1 << 28  # of one image; more is a lying header, or needs another tool


class Job:
    """One batch to be made.

    Attributes:
        key: its (epoch, step).
        samples: (n,) decode.SAMPLE.
        slot: where it goes.
        statuses: (n,) uint8, each sample's status; complete when ``left`` is 0.
        taken: samples that threads have begun.
        left: samples that are not done.
    """

    def __init__(self, key: tuple[int, int], samples: np.ndarray, slot: Slot) -> None:
        self.key, self.samples, self.slot = key, samples, slot
        self.statuses = slot.statuses[: len(samples)]
        self.taken = 0
        self.left = len(samples)


class Crew:
    """Threads that make the batches of a plan, up to ``batches_ahead`` of them at a time.

    A job that is dropped half-way (a new plan) keeps its slot to itself until its threads let go of
    it; the slot then goes to the garbage, never to another batch.
    """

    def __init__(self, file: np.ndarray, cropping: Cropping, threads: int, batches_ahead: int) -> None:
        self._file, self._cropping, self._batches_ahead = file, cropping, batches_ahead
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()  # oldest first: being made or waiting for the consumer
        self._plan: Iterator[Job] | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"decode-{k}", daemon=True) for k in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        _crews.add(self)

    def begin(self, key: tuple[int, int], plan: Iterator[Job]) -> None:
        """Go on if the jobs in hand begin with ``key``; else drop them and follow ``plan``."""
        with self._changed:
            if self._jobs and self._jobs[0].key == key:
                return
            self._jobs.clear()
            self._plan = plan
            self._changed.notify_all()

    def next(self) -> Job:
        """The next job of the plan, done; waits for it.

        Raises:
            RuntimeError: a thread failed (with its cause), or the crew is closed.
        """
        with self._changed:
            # The timeout only lets Ctrl-C through on systems where a wait would hold it back.
            while self._error is None and not self._closed and not (self._jobs and self._jobs[0].left == 0):
                self._changed.wait(1.0)
            if self._error is not None:
                if isinstance(self._error, UserError):
                    raise self._error
                raise RuntimeError(f"a decoding thread failed: {self._error!r}") from self._error
            if self._closed:
                raise RuntimeError("the loader is closed")
            job = self._jobs.popleft()
            self._changed.notify_all()
            return job

    def close(self) -> None:
        """Stop and join the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._jobs.clear()
        self._plan = None

    def stop(self) -> None:
        """Tell the threads to end, and wait for nothing.

        The garbage collector calls this for a loader that was dropped, in whatever thread it runs and under whatever
        locks that thread holds, some of which the decoding threads may need to end.
        """
        self._closed = True
        if self._changed.acquire(blocking=False):
            self._changed.notify_all()
            self._changed.release()

    def _work(self) -> None:
        try:
            if not kernels.wait(give_up=lambda: self._closed):
                return
            handle = open_handle()
            try:
                scratch = first_scratch(handle, self._cropping.size)
                while (chunk := self._take()) is not None:
                    scratch = self._decode(*chunk, handle, scratch)
                    self._done(*chunk)
            finally:
                close_handle(handle)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _take(self) -> tuple[Job, int, int] | None:
        """The next samples [begin, end) of a job, or None when the crew is closed; waits for either."""
        with self._changed:
            while not self._closed:
                job = next((job for job in self._jobs if job.taken < len(job.samples)), None)
                if job is None and self._plan is not None and len(self._jobs) < self._batches_ahead:
                    job = next(self._plan, None)
                    if job is None:
                        self._plan = None
                    else:
                        self._jobs.append(job)
                        self._changed.notify_all()
                if job is not None:
                    begin = job.taken
                    share = -(-len(job.samples) // len(self._threads))
                    job.taken = min(begin + min(CHUNK, share), len(job.samples))
                    return job, begin, job.taken
                self._changed.wait(1.0)  # `stop` may have found the lock taken
            return None

    def _decode(self, job: Job, begin: int, end: int, handle: int, scratch: Scratch) -> Scratch:
        return decode(
            self._file,
            job.samples[begin:end],
            job.key[0],
            self._cropping,
            handle,
            scratch,
            job.slot.images[begin:end],
            job.statuses[begin:end],
        )

    def _done(self, job: Job, begin: int, end: int) -> None:
        with self._changed:
            job.left -= end - begin
            if job.left == 0:
                self._changed.notify_all()


def decode(
    file: np.ndarray,
    samples: np.ndarray,
    epoch: int,
    cropping: Cropping,
    handle: int,
    scratch: Scratch,
    images: np.ndarray,
    statuses: np.ndarray,
) -> Scratch:
    """Draw the crops of a chunk of samples and decode them; returns the scratch, grown where they needed a larger one.

    Args:
        file: (bytes,) uint8, the beton; read-only.
        samples: (n,) decode.SAMPLE.
        images: (n, 3, size, size) uint8, out.
        statuses: (n,) uint8, out.
    """
    boxes = np.empty(len(samples), BOX)
    draw_boxes(samples, np.uint64(epoch), cropping, boxes)
    at = 0
    while True:
        size = cropping.size
        at += decode_chunk(file, samples[at:], boxes[at:], size, scratch, images[at:], statuses[at:])
        if at == len(samples):
            return scratch
        sample = samples[at]
        if int(sample["width"]) * int(sample["height"]) > MOST_PIXELS:
            at += 1  # its status TOO_LARGE stays and tells the consumer
        else:
            scratch = grown(scratch, sample, handle, size)


def first_scratch(handle: int, size: int) -> Scratch:
    """What a thread begins with."""
    return make_scratch(handle, 1 << 16, START_PX, START_PX, size)


def grown(scratch: Scratch, sample: np.void, handle: int, size: int) -> Scratch:
    """A scratch that fits ``sample`` and all that the old one fits."""
    width, height = int(sample["width"]), int(sample["height"])
    old_side = scratch.narrowed.shape[1]
    return make_scratch(
        handle, max(len(scratch.jpeg), int(sample["size"])), max(width, old_side), max(height, old_side), size
    )


_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """No thread may be inside a kernel while the interpreter takes itself apart."""
    for crew in list(_crews):
        crew.close()


def _leave_to_the_parent() -> None:
    """A forked child has every crew's jobs, none of their threads, and a lock that one of them may have held."""
    for crew in list(_crews):
        crew._changed, crew._threads = threading.Condition(), []
        crew._error = UserError(
            "this loader was opened before a fork, in another process; open one in each process"
        )


os.register_at_fork(after_in_child=_leave_to_the_parent)


@kernel
def open_handle():
    """A libjpeg-turbo decompressor; one for each thread."""
    return turbojpeg.init_decompress()


@kernel
def close_handle(handle):
    """Free a decompressor."""
    return turbojpeg.destroy(handle)


def load_kernels() -> None:
    """Load whatever a decoding thread will call, or compile it, once on a machine: the threads' own way with no sample at all.

    A build of an image, say, that calls this leaves the machine code in the package, for processors of the same kind.

    Raises:
        TurboJpegMissing: libturbojpeg is not installed.
    """
    turbojpeg.load()
    nothing = np.frombuffer(b"", np.uint8)  # read-only, as a map of a file is
    cropping = Cropping(True, 1, 1, np.uint64(0), (1.0, 1.0), (1.0, 1.0), 0.0)
    epoch_order(0, seed=0, epoch=0)
    will_need(nothing, np.empty(0, SAMPLE), PAGE, WILLNEED)
    handle = open_handle()
    try:
        images, statuses = np.empty((0, 3, 1, 1), np.uint8), np.empty(0, np.uint8)
        decode(nothing, np.empty(0, SAMPLE), 0, cropping, handle, first_scratch(handle, 1), images, statuses)
    finally:
        close_handle(handle)


kernels = WarmUp(load_kernels, "load-kernels")
