"""The decoding threads: they fill batches in order, ahead of the consumer, for as long as the loader lives."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue

import numpy as np

from ..augment.augmenter import Augmenter
from ..decode.crop import CropOptions
from ..decode.decoder import Decoder, DecoderName
from ..decode.kernel import SAMPLE_DTYPE
from ..errors import UserError
from .buffer_pool import Batch, BufferPool, HostBuffer
from .planner import BatchPlan, Key, Planner
from .preload import kernels
from .thread_stats import ThreadStats, TraceHook, usage
from .watchdog import LOADING_S, POLL_S, Watchdog, close_at_exit, thread_report, wait_for

MIN_SHARE = 4  # samples that are worth waking a thread for: about 1 ms


class BatchTask:
    """One batch that is being decoded, or is ready for the consumer.

    Attributes:
        key: its (epoch, step).
        next_key: of the batch after it.
        samples: (n,) kernel.SAMPLE_DTYPE.
        boxes: (views, n) crop.CROP_DTYPE.
        buffer: where it goes.
        statuses: (n,) uint8, each sample's status; complete when ``left`` is 0.
        is_ready: whether the consumer may have it; what follows is known then.
        progress: (2,) int64, changed in compiled code: how many samples were taken (each thread that finds none left adds one), and decoded.
        left: samples of which no thread has reported that they are done.
        has_broken: whether a status is not OK.
        batch: its samples as the consumer gets them, unless one is broken.
        own_share: of each label, where the batch is mixed (``augment.mix``).
    """

    def __init__(self, plan: BatchPlan, next_key: Key, buffer: HostBuffer) -> None:
        self.key, self.samples, self.boxes, self.buffer = plan.key, plan.samples, plan.boxes, buffer
        self.next_key = next_key
        buffer.labels[: len(plan.labels)] = plan.labels
        buffer.indices[: len(plan.samples)] = plan.samples["index"]
        self.statuses = buffer.statuses[: len(plan.samples)]
        self.progress = np.zeros(2, np.int64)
        self.left = len(plan.samples)
        self.is_ready = self.has_broken = False
        self.batch: Batch | None = None
        self.own_share = 1.0

    def num_untaken(self) -> int:
        """How many samples no thread has taken."""
        return max(0, len(self.samples) - int(self.progress[0]))

    def drop(self) -> None:
        """Let the threads that work on it end after their current sample."""
        self.progress[0] = len(self.samples)


class DecodeWorkers:
    """Threads that decode the batches of a planner, up to ``batches_ahead`` of them at a time.

    A task that `seek` drops half-way keeps its buffer until its threads are done with it; the buffer is
    then freed, and never used for another batch.

    Args:
        file: (file size,) uint8, the memory map.
        cropping: of the images: their size, and how crops are resized.
        use: which decoder decodes JPEGs.
        augmenter: what is done to each decoded image.
        planner: which batches; the caller closes it.
        pool: where batches go.
        around_each: entered by a thread for each batch that it decodes samples of, by several at a time; what it raises reaches the consumer.
        after_each: called once for each batch, when all its samples are decoded and before the consumer gets it; as ``around_each`` otherwise.
        watchdog: of the consumer, for threads that make no progress.
    """

    def __init__(
        self,
        file: np.ndarray,
        cropping: CropOptions,
        use: DecoderName,
        augmenter: Augmenter,
        threads: int,
        batches_ahead: int,
        planner: Planner,
        pool: BufferPool,
        *,
        around_each: AbstractContextManager[object] = nullcontext(),  # noqa: B008  # it holds nothing
        after_each: Callable[[], None] = lambda: None,
        watchdog: Watchdog,
    ) -> None:
        self._file, self._cropping, self._use, self._augmenter = file, cropping, use, augmenter
        self._batches_ahead = batches_ahead
        self._planner, self._pool = planner, pool
        self._around_each, self._after_each = around_each, after_each
        self._process = os.getpid()
        self._lock = threading.Lock()  # held for moments only, and by the consumer only in `with`
        self._tasks: deque[BatchTask] = deque()  # oldest first: being decoded, or ready
        self._next_key: Key | None = None  # what the consumer gets next; None = not what was planned
        self._closed = self._loaded = False
        self._error: BaseException | None = None
        self._watchdog = watchdog
        self._moved_s = 0.0  # when a thread last finished something
        self._decoded_before = -1  # samples of the tasks that were decoded when the consumer last looked
        self._consumer_waits = False
        self.watch: TraceHook | None = None
        self.thread_stats = [ThreadStats(f"decode-{k}") for k in range(threads)]
        self._wake_consumer: SimpleQueue[None] = SimpleQueue()
        self._idle: deque[SimpleQueue[None]] = deque()  # of threads that found no work, the last one first
        self._wakes: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(threads)]
        self._threads = [
            threading.Thread(target=self._work, args=(stats, wake), name=stats.name, daemon=True)
            for stats, wake in zip(self.thread_stats, self._wakes)
        ]
        close_at_exit(self)

    def start(self) -> None:
        """Start the threads. The caller has made sure that `stop` will be called, whatever happens."""
        for thread in self._threads:
            thread.start()

    def seek(self, key: Key) -> None:
        """Make ``key`` the next batch; what is planned and decoded already is kept if it starts with it, else dropped."""
        self._refuse_in_a_fork()
        key = self._planner.first_from(key)
        with self._lock:
            if key == self._next_key:
                return
            self._next_key = None  # until all of this is done: Ctrl-C may come between any two lines
            for task in self._tasks:
                task.drop()
            self._tasks.clear()
            self._planner.seek(key)
            self._next_key = key
            self._wake_idle()

    def next_done(self) -> BatchTask:
        """The next batch, complete; waits for it.

        Raises:
            RuntimeError: a thread failed (with its cause), or the workers are closed.
            UserError: a thread met something that the user can fix; or this is a fork of the loader's process.
            LoaderStalled: no progress for too long.
        """
        self._refuse_in_a_fork()
        if (task := self._first_done()) is not None:
            return task
        began_s = self._watchdog.begin()
        while (task := self._first_done()) is None:
            if not wait_for(self._wake_consumer, min(POLL_S, self._watchdog.stall_s)):
                self._look_after(began_s)
        return task

    def _refuse_in_a_fork(self) -> None:
        """A forked child has all of this, none of the threads, and a lock that one of them may have held."""
        if os.getpid() != self._process:
            raise UserError(
                "this loader was opened before a fork, in another process; open one in each process"
            )

    def _first_done(self) -> BatchTask | None:
        """The oldest task, if it is done."""
        with self._lock:
            if isinstance(self._error, UserError):
                raise self._error
            if self._error is not None:
                raise RuntimeError(f"a decoding thread failed: {self._error!r}") from self._error
            if self._closed:
                raise RuntimeError("the loader is closed")
            self._consumer_waits = not self._tasks or not self._tasks[0].is_ready
            if self._consumer_waits:
                self._wake_idle()
                return None
            self._next_key = None  # see `seek`
            task = self._tasks.popleft()
            self._next_key = task.next_key
        return task

    def refill(self) -> None:
        """A task was taken, so there is room for another one.

        To be called when nothing is left to do for the batch: a thread that wakes competes for the interpreter's lock.  So none is
        woken before half of the batches that were ready are gone.
        """
        with self._lock:
            if sum(task.is_ready for task in self._tasks) <= self._batches_ahead // 2:
                self._wake_idle()

    def _look_after(self, began_s: float) -> None:
        """Check that the threads are alive and make progress; the consumer has waited since ``began_s``."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]
        if dead and not self._closed and self._error is None:
            raise RuntimeError(f"the decoding thread {dead[0]} exited unexpectedly")
        awaited = self._next_key
        what = "the next batch" if awaited is None else "epoch {}, step {}".format(*awaited)
        # A batch can take longer than the watchdog's patience, its samples cannot.
        decoded = sum(int(task.progress[1]) for task in list(self._tasks))
        if decoded != self._decoded_before:
            self._decoded_before, self._moved_s = decoded, time.perf_counter()
        # Read before _moved_s, and set after it: else the time that loading took would count as a stall.
        loading_s = 0.0 if self._loaded else LOADING_S
        self._watchdog.check(max(began_s, self._moved_s), what, self.report, loading_s)

    def report(self) -> str:
        """What each thread is doing, the planner's too, in words."""
        own = [thread_report(*each) for each in zip(self._threads, self.thread_stats)]
        return "\n".join([*own, self._planner.report()])

    def close(self) -> None:
        """Stop and join the threads.

        Raises:
            LoaderStalled: one of them does not end.
        """
        self.stop()
        self._watchdog.join(self._threads, self.report)
        self._tasks.clear()

    def stop(self) -> None:
        """Signal the threads to end. Waits for nothing and takes no lock.

        The garbage collector calls this for a dropped loader, in any thread, under any locks that this thread holds and that
        the decoding threads may need in order to end.  If Ctrl-C interrupts it half-way, which is reported to nobody there,
        the threads notice at their next poll.
        """
        self._closed = True
        for task in list(self._tasks):
            task.drop()
        for wake in [*self._wakes, self._wake_consumer]:
            wake.put(None)

    def plan_is_ready(self) -> None:
        """The planner has one more plan."""
        with self._lock:
            if len(self._tasks) < self._batches_ahead:
                self._wake_idle()

    def _wake_idle(self) -> None:
        """Wake as many threads as the work needs: all for a consumer that waits, one if nearly all batches are ready, else some.

        Each thread that wakes takes the interpreter's lock from the consumer's thread, which costs that thread 20 us or more: with 16 threads
        that all woke for each batch, a step that queues 7,000 kernels took 2.5 ms more.
        """
        if not self._idle:
            return
        ready, work = 0, (self._batches_ahead - len(self._tasks)) * self._pool.batch_size
        for task in self._tasks:
            if task.is_ready:
                ready += 1
            else:
                work += task.num_untaken()
        wanted = len(self._threads)
        if not self._consumer_waits and ready:
            wanted = 1 if ready >= self._batches_ahead - 1 else max(1, wanted >> ready)
        working = len(self._threads) - len(self._idle)
        for _ in range(min(wanted, -(-work // MIN_SHARE)) - working):
            self._idle.pop().put(None)

    def _work(self, stats: ThreadStats, wake: SimpleQueue[None]) -> None:
        try:
            stats.begin("waiting for the kernels, which are being loaded or compiled")
            if not kernels.wait(give_up=lambda: self._closed):
                return
            self._augmenter.load(SAMPLE_DTYPE)
            self._moved_s = time.perf_counter()
            self._loaded = True
            with Decoder(self._cropping.size, self._use, self._cropping.cubic) as decoder:
                while (task := self._take(stats, wake)) is not None:
                    self._done(task, self._decode(task, stats, decoder))
        except BaseException as error:  # whatever it is, the consumer must get it
            with self._lock:
                self._error = self._error or error
            self._wake_consumer.put(None)

    def _take(self, stats: ThreadStats, wake: SimpleQueue[None]) -> BatchTask | None:
        """A task to work on, or None when the workers are closed; waits for either."""
        waited_from_s = None
        while (task := self._begun(stats, wake)) is None:
            if self._closed:
                return None
            if waited_from_s is None:
                waited_from_s = stats.since_s
            wait_for(wake, POLL_S)
        if waited_from_s is not None and (watch := self.watch) is not None:
            watch(stats.name, "wait", waited_from_s, time.perf_counter(), task.key)
        return task

    def _begun(self, stats: ThreadStats, wake: SimpleQueue[None]) -> BatchTask | None:
        """A task with samples that no thread has taken; None if there are none now, or the workers are closed."""
        with self._lock:
            if wake in self._idle:  # it woke by itself
                self._idle.remove(wake)
            if self._closed:
                return None
            if (task := self._unfinished() or self._planned()) is None:
                self._idle.append(wake)
                if (why := self._why_idle()) != stats.doing:
                    stats.begin(why)
            return task

    def _unfinished(self) -> BatchTask | None:
        """The oldest task with samples that no thread has taken."""
        return next((task for task in self._tasks if task.num_untaken()), None)

    def _planned(self) -> BatchTask | None:
        """The next batch of the plan as a task, if there is room for one and a plan."""
        if len(self._tasks) >= self._batches_ahead or (plan := self._planner.take()) is None:
            return None
        epoch, step = plan.key
        task = BatchTask(plan, self._planner.first_from((epoch, step + 1)), self._pool.take())
        self._tasks.append(task)
        if self._closed:  # `stop` takes no lock, and may have dropped the others before
            task.drop()
        self._wake_idle()
        return task

    def _why_idle(self) -> str:
        if self._next_key is None:
            return "waiting for an epoch to start"
        if len(self._tasks) < self._batches_ahead:
            return "waiting for the planner"
        return f"waiting: {sum(task.is_ready for task in self._tasks)} batches are ready"

    def _decode(self, task: BatchTask, stats: ThreadStats, decoder: Decoder) -> int:
        """Decode samples of a task until all are taken; returns how many this thread has done."""
        epoch, step = task.key
        stats.begin(f"decoding samples of epoch {epoch}, step {step}")
        before = usage()
        images, statuses = task.buffer.every_view, task.statuses
        with self._around_each:
            done = decoder.decode(self._file, task.samples, task.boxes, images, statuses, task.progress)
        self._augmenter.apply(task.samples, epoch, images, statuses, done)
        stats.paths = decoder.paths
        ended_s = stats.count(before, len(done))
        if (watch := self.watch) is not None:
            watch(stats.name, "decode", before[0], ended_s, task.key)
        return len(done)

    def _done(self, task: BatchTask, count: int) -> None:
        """This thread has decoded so many samples of a task; the one that decodes the last of them completes it."""
        with self._lock:
            self._moved_s = time.perf_counter()
            task.left -= count
            # A thread that came too late has decoded nothing, and another one completes the task.
            if task.left or not count:
                return
        self._after_each()
        if self._augmenter.mixes:
            task.own_share = self._augmenter.mix(
                task.samples, task.key[0], task.buffer.every_view, task.statuses
            )
        task.has_broken = bool(task.statuses.any())
        # Made here, so that the consumer, whose caches a step has emptied, does not wait for it.
        if not task.has_broken:
            task.batch = self._pool.lend(task.buffer, len(task.samples))
        with self._lock:
            task.is_ready = True
            if self._consumer_waits and self._tasks and self._tasks[0] is task:
                self._wake_consumer.put(None)
