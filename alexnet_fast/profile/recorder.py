"""What a rank's threads and streams do while it trains, collected from the loader, the prefetcher and the steps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import count

from ..devices.device_timer import STEP, DeviceTimer, Span
from ..engine.train_state import TrainState
from ..loader.buffer_pool import Batch
from ..loader.device_prefetcher import DevicePrefetcher
from ..loader.loader import Loader
from .stepping import mark

HOST = "host"  # the lane of the thread that waits for batches


class Recorder:
    """Spans of all lanes between `start` and `stop`; at other times nothing is marked, at no cost."""

    def __init__(self, loader: Loader, feed: DevicePrefetcher, state: TrainState, marks: DeviceTimer) -> None:
        self._loader, self._feed, self._state, self._marks = loader, feed, state, marks
        self._by_host: list[Span] = []  # of threads, by the host's clock
        self._epoch, self._taken, self._first_step = loader.epoch, 0, 0
        self._runs = False
        self.stop()

    def start(self, first_step: int) -> None:
        """first_step: how many steps came before the first that is marked."""
        self._first_step = first_step
        mark(self._state, self._feed, self._marks)
        self._loader.watch = self.watch
        self._runs = True

    def stop(self) -> None:
        mark(self._state, self._feed, None)
        self._loader.watch = None
        self._runs = False

    def watch(self, thread: str, what: str, begin_s: float, end_s: float, key: tuple[int, int]) -> None:
        """The loader's Watch."""
        self._by_host.append(Span(thread, what, begin_s, end_s, None if what == "wait" else key))

    def of_waits(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """`batches`, with a span on the lane HOST for each wait for one of them."""
        batches = iter(batches)
        while True:
            begin_s = time.perf_counter()
            batch = next(batches)
            if self._runs:
                key = self._key(self._taken)
                self._by_host.append(Span(HOST, "wait for batch", begin_s, time.perf_counter(), key))
            self._taken += 1
            yield batch

    def spans(self, origin_s: float) -> list[Span]:
        """All spans that were collected, in seconds since `origin_s`, and forget them; waits for the device."""
        by_host, self._by_host = self._by_host, []
        steps = (self._key(self._first_step + number // len(self._state.parts)) for number in count())
        copies = (
            span.batch for span in by_host if span.lane == HOST
        )  # each right after the wait for its batch
        marked = [
            span._replace(batch=next(steps if span.lane == STEP else copies)) for span in self._marks.read()
        ]
        return [
            span._replace(begin_s=max(0.0, span.begin_s - origin_s), end_s=span.end_s - origin_s)
            for span in marked + by_host
            if span.end_s > origin_s
        ]

    def _key(self, number: int) -> tuple[int, int]:
        """(epoch, step) of the batch that is taken after `number` others."""
        epochs, step = divmod(number, len(self._loader))
        return self._epoch + epochs, step
