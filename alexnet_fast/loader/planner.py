"""The planner: one thread that decides which samples go into which batch, and has their bytes read ahead.

    planner                                  decoding threads
    order -> samples -> madvise -> plans --take--> buffer -> pixels      (decode_workers)

`seek` starts a new sequence of plans, at any batch of any epoch, and drops the old one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from ..beton.reader import Beton
from ..decode.crop import CROP_DTYPE, CropOptions, draw_crops
from .orders import Drawn, EpochOrder
from .page_advice import PAGE, WILLNEED, advise_willneed, bytes_of
from .sampler import DistributedBatchSampler
from .thread_stats import ThreadStats
from .watchdog import POLL_S, Watchdog, close_at_exit, thread_report, wait_for
from .window_reads import WindowReads

AT_ONCE = 8
"""Batches whose samples and crops are looked up and drawn together.  numpy and numba take 0.2 ms to be called for one batch when a step has
filled the caches with other things, whatever the batch's size, and hold the interpreter's lock meanwhile."""

PAUSE_S = 10.0
"""After a longer pause (another loader's evaluation) bytes that were read ahead may have left the page cache again."""

A_CALL = 64
"""Samples that one call requests: between two calls the thread may be stopped, or sent elsewhere."""

Key = tuple[int, int]
"""(epoch, step) of a batch."""


Resumed = tuple[int, int]
"""(epoch, first position) of an epoch that is resumed in the middle of a step."""


class BatchPlan(NamedTuple):
    """One batch to decode.

    Attributes:
        key: its (epoch, step).
        samples: (n,) kernel.SAMPLE_DTYPE.
        boxes: (views, n) crop.CROP_DTYPE, their crops.
        labels: (n,) as the file stores them.
        bytes: of their payloads.
        ahead: (m,) kernel.SAMPLE_DTYPE, what is to be requested from the disk before the batch is decoded.
    """

    key: Key
    samples: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    bytes: int
    ahead: np.ndarray


class _Sequence:
    """An endless sequence of batches from one key on: those that are planned and not yet taken.

    Each count is written by one side alone, and a deque's append and popleft are single calls into C: no lock is needed.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.plans: deque[BatchPlan] = deque()
        self.planned_bytes = self.taken_bytes = 0

    def has_room(self, plan: BatchPlan, max_bytes: int) -> bool:
        return not self.plans or self.planned_bytes - self.taken_bytes + plan.bytes <= max_bytes


class Planner:
    """A thread that plans batches without end, from any point on, ahead of the threads that decode them.

    A request to the disk blocks while the disk's queue is full, so only this thread makes them; plans that are ready are
    taken meanwhile.  The next epoch's order is sorted by a second thread while this epoch is planned (0.15 s for 1.28
    million samples).

    Args:
        beton: the file.
        samples: (N,) kernel.SAMPLE_DTYPE, those of the set.
        orders: which of them an epoch has, over all ranks, and in which order.
        sampler: which places of an epoch's order each batch of this rank has.
        crop_options: how each sample's crop is drawn.
        max_bytes: how far beyond the batches that were taken the file is read ahead, in bytes of samples; 0 = not at all.
            At least one batch is planned ahead.  Of an order with windows, the next window is read besides.
        watchdog: for the wait for the thread's end; the consumer's, which may have timed out already.
        resumed: an epoch that was left in the middle of a step, and the position at which its step 0 begins.
        views: crops of each sample.
    """

    def __init__(
        self,
        beton: Beton,
        samples: np.ndarray,
        orders: EpochOrder,
        sampler: DistributedBatchSampler,
        crop_options: CropOptions,
        max_bytes: int,
        watchdog: Watchdog,
        resumed: Resumed | None = None,
        views: int = 1,
    ) -> None:
        self._beton, self._samples, self._orders, self._sampler = beton, samples, orders, sampler
        self._resumed, self._views = resumed, views
        self._crop_options, self._max_bytes = crop_options, max_bytes
        self._watchdog = watchdog
        self._sequence: _Sequence | None = None
        self._stopped = False
        self._error: BaseException | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._announce: Callable[[], None] = lambda: None
        self._next_order: _Order | None = None
        self._constant: Drawn | None = None
        self._reads: WindowReads | None = None
        self._stats = ThreadStats("planner")
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        close_at_exit(self)

    def start(self, announce: Callable[[], None]) -> None:
        """Start the thread; it calls this after each plan. The caller has made sure that `stop` will be called, whatever happens."""
        self._announce = announce
        self._thread.start()

    def seek(self, key: Key) -> None:
        """Plan the batches from this one on, and drop what was planned. No thread may `take` meanwhile."""
        self._sequence = _Sequence(key)
        self._wake.put(None)

    def take(self) -> BatchPlan | None:
        """The next plan, or None where there is none yet. For one thread at a time.

        Raises:
            Whatever stopped the thread, once all its plans are taken.
        """
        sequence = self._sequence
        if sequence is None:
            return None
        if not sequence.plans:
            if self._error is not None:
                raise self._error
            return None
        plan = sequence.plans.popleft()
        sequence.taken_bytes += plan.bytes
        if not sequence.plans or 2 * (sequence.planned_bytes - sequence.taken_bytes) <= self._max_bytes:
            self._wake.put(
                None
            )  # for several batches at a time: a thread that wakes takes the interpreter's lock from others
        return plan

    def first_from(self, key: Key) -> Key:
        """The first batch from ``key`` on: ``key`` itself, unless it is the end of its epoch."""
        return key if key[1] < self._sampler_of(key[0]).steps else (key[0] + 1, 0)

    def report(self) -> str:
        """What the thread is doing, in words."""
        sequence = self._sequence
        planned = 0 if sequence is None else len(sequence.plans)
        return f"{thread_report(self._thread, self._stats)}\n    {planned} batches are planned"

    def stop(self) -> None:
        """Signal the thread to end. Waits for nothing and takes no lock: the garbage collector may call this."""
        self._stopped = True
        self._wake.put(None)

    def close(self) -> None:
        """Stop and join the thread.

        Raises:
            LoaderStalled: it does not end.
        """
        self.stop()
        self._watchdog.join([self._thread], self.report)
        self._sequence = None

    def _run(self) -> None:
        planned = None
        try:
            while not self._stopped:
                sequence = self._sequence
                if sequence is planned or sequence is None:
                    self._wait("waiting for an epoch to start")
                    continue
                self._plan(sequence)
                planned = sequence
        except BaseException as error:  # whatever it is, the consumer must get it
            self._error = error
            self._announce()
        finally:
            if self._next_order is not None:
                self._next_order.join()  # no thread may be inside a kernel when the interpreter ends

    def _plan(self, sequence: _Sequence) -> None:
        """Plan batches until `seek` asks for others."""
        for plan in self._batches(sequence.key):
            began_s = time.monotonic()
            while not sequence.has_room(plan, self._max_bytes):
                self._wait("waiting: enough batches are planned")
                if self._stopped or self._sequence is not sequence:
                    return
            if time.monotonic() - began_s > PAUSE_S:
                plan = self._advise_again(sequence, plan)
            if not self._advise(plan.key, plan.ahead, sequence):
                return
            sequence.planned_bytes += plan.bytes
            sequence.plans.append(plan)
            self._announce()

    def _batches(self, key: Key) -> Iterator[BatchPlan]:
        epoch, step = key
        reads: WindowReads | None = None
        while self._sampler.steps:  # a rank may have no share of a small evaluation
            self._stats.begin(f"sorting the order of epoch {epoch}")
            order, sampler = self._order(epoch), self._sampler_of(epoch)
            self._reads = reads = self._window_reads(epoch, order, sampler, step, reads)
            for at in range(step, sampler.steps, AT_ONCE):
                steps = range(at, min(at + AT_ONCE, sampler.steps))
                yield from self._plans_of(epoch, steps, order, sampler, reads)
            epoch, step = epoch + 1, 0

    def _plans_of(
        self,
        epoch: int,
        steps: range,
        order: Drawn,
        sampler: DistributedBatchSampler,
        reads: WindowReads | None,
    ) -> Iterator[BatchPlan]:
        """The plans of some steps of an epoch."""
        shares = [slice(*sampler.positions(step)) for step in steps]
        samples = self._samples[np.concatenate([order.places[share] for share in shares])]
        if order.copies is not None:
            samples["occurrence"] = np.concatenate([order.copies[share] for share in shares])
        labels = self._beton.labels[samples["index"]]
        boxes = np.empty((self._views, len(samples)), CROP_DTYPE)
        draw_crops(samples, np.uint64(epoch), self._crop_options, boxes)
        begin = 0
        for step, share in zip(steps, shares, strict=True):
            own = slice(begin, begin := begin + share.stop - share.start)
            ahead = samples[own] if reads is None else reads.before(share.stop)
            # Contiguous, as the kernel takes them: no copy where there is one view.
            crops = np.ascontiguousarray(boxes[:, own])
            yield BatchPlan((epoch, step), samples[own], crops, labels[own], bytes_of(samples[own]), ahead)

    def _window_reads(
        self,
        epoch: int,
        order: Drawn,
        sampler: DistributedBatchSampler,
        step: int,
        before: WindowReads | None,
    ) -> WindowReads | None:
        """What reads an epoch's windows, those of an order that has some."""
        if order.windows is None:
            return None
        first, asked = sampler.positions(step)[0], 0 if before is None else before.asked_of_next

        def following() -> Drawn:
            order = self._next_order
            return self._orders.draw(epoch + 1) if order is None else order.result()

        return WindowReads(self._samples, order, following, first, asked)

    def _sampler_of(self, epoch: int) -> DistributedBatchSampler:
        if self._resumed is not None and self._resumed[0] == epoch:
            return replace(self._sampler, first=self._resumed[1])
        return self._sampler

    def _order(self, epoch: int) -> Drawn:
        """The order of an epoch; the next one's is sorted from now on, unless all are alike."""
        if self._orders.constant:
            if self._constant is None:
                self._constant = self._orders.draw(epoch)
            return self._constant
        before, self._next_order = self._next_order, None
        try:
            if before is not None and before.epoch == epoch:
                order = before.result()
            else:
                order = self._orders.draw(epoch)
        finally:
            if before is not None:
                before.join()
        following = _Order(epoch + 1, self._orders)
        following.start()
        self._next_order = following
        return order

    def _advise(self, key: Key, samples: np.ndarray, sequence: _Sequence) -> bool:
        """Request samples; False if `seek` or `stop` came meanwhile."""
        if self._max_bytes:
            self._stats.begin("requesting the bytes of epoch {}, step {}".format(*key))
            for begin in range(0, len(samples), A_CALL):
                advise_willneed(self._beton.map, samples[begin : begin + A_CALL], PAGE, WILLNEED)
                if self._stopped or self._sequence is not sequence:
                    return False
        return not self._stopped and self._sequence is sequence

    def _advise_again(self, sequence: _Sequence, plan: BatchPlan) -> BatchPlan:
        """Request once more what the waiting plans need, before ``plan``; returns ``plan``, with all that it needs."""
        for waiting in list(sequence.plans):
            self._advise(waiting.key, waiting.samples, sequence)
        return plan if self._reads is None else plan._replace(ahead=self._reads.again())

    def _wait(self, why: str) -> None:
        """Until something wakes the thread; Ctrl-C may have come between `stop`'s two lines, so not for ever."""
        if self._stats.doing != why:
            self._stats.begin(why)
        wait_for(self._wake, POLL_S)


class _Order(threading.Thread):
    """Sorts the order of one epoch."""

    def __init__(self, epoch: int, orders: EpochOrder) -> None:
        super().__init__(name=f"planner-epoch-{epoch}", daemon=True)
        self.epoch = epoch
        self._orders = orders
        self._order: Drawn | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._order = self._orders.draw(self.epoch)
        except BaseException as error:  # for `result`
            self._error = error

    def result(self) -> Drawn:
        """The order, when it is sorted; raises what sorting it raised."""
        self.join()
        if self._error is not None:
            raise self._error
        assert self._order is not None
        return self._order
