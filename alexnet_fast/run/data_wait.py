"""Watches how long training steps wait for data, and warns with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import add, sub
from pathlib import Path
from typing import Literal, NamedTuple

from ..common import page_cache
from ..engine.meter import Interval
from ..loader.loader import Loader
from ..loader.thread_stats import ThreadStats

MUCH = 0.1  # share of the time; a run that waits longer for data is warned
MIN_STEPS, MIN_S = 20, 5.0  # of training, the minimum that is judged; a shorter wait may be chance
Cause = Literal["another rank", "idle threads", "threads without a core", "decoding"]
BUSY = ON_CORE = 0.7  # shares of a thread's time; below them it idles, or waits for the disk or a core
CACHED = 0.95  # share of the file; below it, reads come from the disk


class DecodeTotals(NamedTuple):
    """Sums over all decoding threads of a loader: seconds of work, CPU seconds, page faults from the disk."""

    busy_s: float = 0.0
    cpu_s: float = 0.0
    faults: int = 0

    @classmethod
    def of(cls, activities: list[ThreadStats]) -> DecodeTotals:
        return cls(
            sum(activity.busy_s for activity in activities),
            sum(activity.cpu_s for activity in activities),
            sum(activity.faults for activity in activities),
        )

    def since(self, before: DecodeTotals) -> DecodeTotals:
        return DecodeTotals(*map(sub, self, before))

    def and_also(self, more: DecodeTotals) -> DecodeTotals:
        return DecodeTotals(*map(add, self, more))

    def busy_share(self, seconds: float, threads: int) -> float:
        """The busy share, 0 to 1, of `threads` threads during `seconds`."""
        return min(1.0, self.busy_s / (seconds * threads)) if seconds else 0.0

    @property
    def core_share(self) -> float:
        """The share of the busy time in which the threads had a core."""
        return self.cpu_s / self.busy_s if self.busy_s else 1.0


class DataWaitMonitor:
    """Warns that the step waits for data, and why; each reason once in a run.

    It judges training only, in windows.  The time of evaluations and checkpoints, and what threads decode during an
    evaluation, are not counted.
    """

    def __init__(self, loader: Loader, world_size: int) -> None:
        self._loader, self._world_size = loader, world_size
        self._steady = Interval()  # as of the last log line
        self._said: set[Cause] = set()
        self.go_on()
        self._begin_window()

    def go_on(self) -> None:
        """Resume measuring; work done since the last log line (an evaluation) is not counted."""
        self._before = DecodeTotals.of(self._loader.thread_stats), self._loader.wait_s

    def _begin_window(self) -> None:
        self._window, self._done, self._own_wait_s = Interval(), DecodeTotals(), 0.0

    def warning(self, steady: Interval) -> str | None:
        """The warning, where recent steps waited too much, else None; call it at log lines.  steady: all steps after the warm-up."""
        (done, wait_s), before, window = self._before, self._steady, self._window
        self.go_on()
        self._steady = replace(steady)
        if before.steps == 0:  # some of the threads' work was for the warm-up
            return None
        waited_s = steady.waited_s - before.waited_s
        window.add(steady.steps - before.steps, 0, steady.seconds - before.seconds, waited_s)
        self._done = self._done.and_also(self._before[0].since(done))
        self._own_wait_s += self._before[1] - wait_s
        if window.steps < MIN_STEPS or window.seconds < MIN_S:
            return None
        late = self._why() if window.data_wait_share > MUCH else None
        self._begin_window()
        if late is None:
            return None
        return (
            f"warning: the step waits for data {100 * window.data_wait_share:.0f} % of its time: {late}; "
            "run with --profile to see what would speed it up"
        )

    def _why(self) -> str | None:
        """The reason, or None where it was logged before."""
        done, seconds, loader = self._done, self._window.seconds, self._loader
        if self._world_size > 1 and self._own_wait_s <= MUCH / 2 * seconds:
            cause: Cause = "another rank"
        else:
            cause = cause_of(done, seconds, loader.threads)
        if cause in self._said:
            return None
        self._said.add(cause)
        return in_words(cause, done, seconds, loader.threads, lambda: all(map(is_cached, loader.beton.files)))


def cause_of(done: DecodeTotals, seconds: float, threads: int) -> Cause:
    """Why batches are late, from what `threads` decoding threads did in `seconds`."""
    if done.busy_share(seconds, threads) < BUSY:
        return "idle threads"
    return "threads without a core" if done.core_share < ON_CORE else "decoding"


def in_words(
    cause: Cause, done: DecodeTotals, seconds: float, threads: int, file_is_cached: Callable[[], bool]
) -> str:
    """The cause as a sentence; calls `file_is_cached` only where the disk may be the reason."""
    busy, waiting = 100 * done.busy_share(seconds, threads), 100 * (1 - done.core_share)
    several = f"{threads} decoding threads are" if threads > 1 else "the one decoding thread is"
    if cause == "another rank":
        return "another rank's batches are late"
    if cause == "idle threads":
        return (
            f"{several} busy only {busy:.0f} % of the time, so batches are not prepared far enough ahead: "
            "raise data.batches_ahead"
        )
    if cause == "decoding":
        return f"{several} busy {busy:.0f} % of the time, so decoding is the limit"
    # For a page that is already being read, as the loader reads ahead, the kernel counts no fault.
    if done.faults > seconds or not file_is_cached():
        return f"{several} busy, but {waiting:.0f} % of that is waiting for the disk: the file is not all in the page cache"
    return f"{several} busy, but {waiting:.0f} % of that is waiting for a core: more threads are running than there are cores"


def is_cached(path: Path) -> bool:
    """Whether nearly all of a file is in the page cache; takes up to a second."""
    try:
        return page_cache.resident_share(path) >= CACHED
    except OSError:  # it was moved meanwhile; that must not stop a run
        return True
