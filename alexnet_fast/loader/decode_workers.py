"""The decoding threads: they fill batches in order, ahead of the consumer, for as long as the loader lives."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from ..decode.crop import CropOptions
from ..decode.decoder import CHUNK, Decoder
from ..errors import UserError
from .bell import Bell
from .preload import kernels
from .thread_stats import ThreadStats, TraceHook, usage
from .watchdog import LOADING_S, POLL_S, Watchdog, close_all, thread_report

if TYPE_CHECKING:
    from .buffer_pool import HostBuffer


class BatchTask:
    """One batch to be made.

    Attributes:
        key: its (epoch, step).
        samples: (n,) decode.SAMPLE.
        slot: where it goes.
        statuses: (n,) uint8, each sample's status; complete when ``left`` is 0.
        taken: samples that threads have begun.
        left: samples that are not done.
    """

    def __init__(self, key: tuple[int, int], samples: np.ndarray, slot: HostBuffer) -> None:
        self.key, self.samples, self.slot = key, samples, slot
        self.statuses = slot.statuses[: len(samples)]
        self.taken = 0
        self.left = len(samples)


class DecodeWorkers:
    """Threads that make the batches of a plan, up to ``batches_ahead`` of them at a time.

    A job that is dropped half-way (a new plan) keeps its slot to itself until its threads let go of
    it; the slot then goes to the garbage, never to another batch.

    Args:
        file: (file size,) uint8, the memory map.
        around_each: entered by a thread for each chunk that it decodes, by several at a time; what it raises reaches the consumer.
        also_report: what others do, on whom the threads wait, for a person.
        patience: the consumer's, with threads that do not move.
    """

    def __init__(
        self,
        file: np.ndarray,
        cropping: CropOptions,
        threads: int,
        batches_ahead: int,
        *,
        around_each: AbstractContextManager[object] = nullcontext(),  # noqa: B008  # it holds nothing
        also_report: Callable[[], str] = str,
        patience: Watchdog,
    ) -> None:
        self._file, self._cropping, self._batches_ahead = file, cropping, batches_ahead
        self._around_each, self._also_report = around_each, also_report
        self._make_lock()
        self._jobs: deque[BatchTask] = deque()  # oldest first: being made or waiting for the consumer
        self._plan: Iterator[BatchTask] | None = None
        self._wanted: tuple[int, int] | None = None  # the key that the plan was begun for
        self._planning = False  # a thread is asking the plan for its next job
        self._closed = self._loaded = False
        self._error: BaseException | None = None
        self._patience = patience
        self._moved_s = 0.0  # when a thread last finished something
        self.watch: TraceHook | None = None
        self.thread_stats = [ThreadStats(f"decode-{k}") for k in range(threads)]
        self._bells = [Bell() for _ in range(threads)]  # of the decoding threads
        self._threads = [
            threading.Thread(target=self._work, args=(activity, bell), name=activity.name, daemon=True)
            for activity, bell in zip(self.thread_stats, self._bells)
        ]
        _open_workers.add(self)

    def start(self) -> None:
        """Begin. Whoever calls this has seen to it that `stop` will be called, whatever happens."""
        for thread in self._threads:
            thread.start()

    def _make_lock(self) -> None:
        """Held for moments only, and by the consumer only in `with`: see ``Bell``."""
        self._lock = threading.Lock()
        self._bell = Bell()  # the consumer's

    def begin(self, key: tuple[int, int], plan: Iterator[BatchTask]) -> None:
        """Go on if the jobs in hand begin with ``key``; else drop them and follow ``plan``."""
        with self._lock:
            if self._jobs and self._jobs[0].key == key:
                return
            self._wanted = key
            self._jobs.clear()
            self._plan = plan
        self._ring_all()

    def next(self) -> BatchTask:
        """The next job of the plan, done; waits for it.

        Raises:
            RuntimeError: a thread failed (with its cause), or the crew is closed.
            UserError: a thread met something that the user can mend.
            LoaderStalled: nothing moved for too long.
        """
        began_s = self._patience.begin()
        while (job := self._first_done()) is None:
            if not self._bell.wait(min(POLL_S, self._patience.stall_s)):
                self._look_after(began_s)
        return job

    def _first_done(self) -> BatchTask | None:
        """The oldest job, if it is done."""
        with self._lock:
            if isinstance(self._error, UserError):
                raise self._error
            if self._error is not None:
                raise RuntimeError(f"a decoding thread failed: {self._error!r}") from self._error
            if self._closed:
                raise RuntimeError("the loader is closed")
            if not self._jobs or self._jobs[0].left:
                return None
            job = self._jobs.popleft()
        self._ring_all()
        return job

    def _look_after(self, began_s: float) -> None:
        """See that the threads live and move; the consumer has waited since ``began_s``."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead and not self._closed and self._error is None:
            raise RuntimeError(f"the decoding thread {dead[0]} has ended, and not because it was told to")
        awaited = self._jobs[0].key if self._jobs else None
        what = "the next batch" if awaited is None else "epoch {}, step {}".format(*awaited)
        # Read before _moved_s, and set behind it: else the time that loading took would be a stall behind it.
        loading_s = 0.0 if self._loaded else LOADING_S
        self._patience.check(max(began_s, self._moved_s), what, self.report, loading_s)

    def report(self) -> str:
        """What each thread is doing, for a person."""
        own = [thread_report(*each) for each in zip(self._threads, self.thread_stats)]
        return "\n".join([*own, *filter(None, [self._also_report()])])

    def close(self) -> None:
        """Stop and join the threads.

        Raises:
            LoaderStalled: one of them does not end.
        """
        self.stop()
        self._patience.join(self._threads, self.report)
        self._jobs.clear()
        self._plan = None

    def stop(self) -> None:
        """Tell the threads to end, and wait for nothing and no lock.

        The garbage collector calls this for a loader that was dropped, in whatever thread it runs and under whatever
        locks that thread holds, some of which the decoding threads may need to end.  Where Ctrl-C stops it half-way, which
        nobody hears of there, they find that they shall end when they next look up by themselves.
        """
        self._closed = True
        self._ring_all()
        self._bell.ring()

    def _ring_all(self) -> None:
        """Have the decoding threads that wait look again."""
        for bell in self._bells:
            bell.ring()

    def _work(self, activity: ThreadStats, bell: Bell) -> None:
        try:
            activity.begin("waiting for the kernels, which are being loaded or compiled")
            if not kernels.wait(give_up=lambda: self._closed):
                return
            self._moved_s = time.perf_counter()
            self._loaded = True
            with Decoder(self._cropping.size) as decoder:
                while (chunk := self._take(activity, bell)) is not None:
                    self._decode(*chunk, activity, decoder)
                    self._done(*chunk)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            with self._lock:
                self._error = error
            self._bell.ring()

    def _take(self, activity: ThreadStats, bell: Bell) -> tuple[BatchTask, int, int] | None:
        """The next samples [begin, end) of a job, or None when the crew is closed; waits for either."""
        waited_from_s = None
        while (chunk := self._begun(activity)) is None:
            if self._closed:
                return None
            if waited_from_s is None:
                waited_from_s = activity.since_s
            bell.wait(POLL_S)
        if waited_from_s is not None and (watch := self.watch) is not None:
            watch(activity.name, "wait", waited_from_s, time.perf_counter(), chunk[0].key)
        return chunk

    def _begun(self, activity: ThreadStats) -> tuple[BatchTask, int, int] | None:
        """The next samples of a job, which nobody else will take; None where there are none now, or the crew is closed."""
        with self._lock:
            while not self._closed:
                if (job := self._unfinished()) is not None:
                    begin = job.taken
                    share = -(-len(job.samples) // len(self._threads))
                    job.taken = min(begin + min(CHUNK, share), len(job.samples))
                    return job, begin, job.taken
                if self._plan is None or self._planning or len(self._jobs) >= self._batches_ahead:
                    if (why := self._why_idle()) != activity.doing:
                        activity.begin(why)
                    return None
                self._extend(self._plan, activity)
        return None

    def _unfinished(self) -> BatchTask | None:
        """The oldest job with samples that nobody has begun."""
        return next((job for job in self._jobs if job.taken < len(job.samples)), None)

    def _why_idle(self) -> str:
        if self._planning:
            return "waiting for the thread that plans the next batch"
        if self._plan is None:
            return "waiting for an epoch to begin"
        return f"waiting: {sum(job.left == 0 for job in self._jobs)} batches are ready"

    def _extend(self, plan: Iterator[BatchTask], activity: ThreadStats) -> None:
        """Ask the plan for its next job, the lock let go meanwhile: that sorts an epoch's order at times."""
        activity.begin("planning the next batch")
        self._planning = True
        self._lock.release()
        try:
            job = next(plan, None)
        finally:
            self._lock.acquire()
            self._planning = False
        if job is not None and (plan is self._plan or job.key == self._wanted):
            self._plan = plan
            self._jobs.append(job)
        elif plan is self._plan:  # else another took its place, and this job goes
            self._plan = None
        self._ring_all()

    def _decode(self, job: BatchTask, begin: int, end: int, activity: ThreadStats, decoder: Decoder) -> None:
        epoch, step = job.key
        activity.begin(f"decoding samples {begin} to {end} of epoch {epoch}, step {step}")
        before = usage()
        with self._around_each:
            decoder.decode_batch(
                self._file,
                job.samples[begin:end],
                epoch,
                self._cropping,
                job.slot.images[begin:end],
                job.statuses[begin:end],
            )
        ended_s = activity.count(before, end - begin)
        if (watch := self.watch) is not None:
            watch(activity.name, "decode", before[0], ended_s, job.key)

    def _done(self, job: BatchTask, begin: int, end: int) -> None:
        with self._lock:
            self._moved_s = time.perf_counter()
            job.left -= end - begin
            if job.left == 0:
                self._bell.ring()


_open_workers: weakref.WeakSet[DecodeWorkers] = weakref.WeakSet()


atexit.register(close_all, _open_workers)


def _leave_to_the_parent() -> None:
    """A forked child has every crew's jobs, none of their threads, and a lock that one of them may have held."""
    for crew in list(_open_workers):
        crew._make_lock()
        crew._threads = []
        crew._error = UserError(
            "this loader was opened before a fork, in another process; open one in each process"
        )


os.register_at_fork(after_in_child=_leave_to_the_parent)
