"""Watchdog: warns, with every thread's state, when the loader makes no progress, and finally raises LoaderStalled."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from .thread_stats import ThreadStats

STALL_S = 120.0
"""No progress for so many seconds is worth a warning: a chunk of 32 images takes 14 ms, a hiccup of a network file system seconds to minutes."""
GIVE_UP = 5
"""After so many times that long it is an error, and no hiccup."""
LOADING_S = 600.0
"""While kernels are compiled (20 to 60 s, by as many ranks as start on a machine) no progress is no stall before that."""
FRAMES = 4  # of a thread's stack, the innermost: where it is, and what called that
POLL_S = 1.0

Report = Callable[[], str]
logger = logging.getLogger("alexnet_fast")


class LoaderStalled(RuntimeError):
    """The loader made no progress for ``GIVE_UP`` times its ``stall_s``; the message says what each thread was doing."""


class Watchdog:
    """For one waiter: warns after each ``stall_s`` without progress, raises LoaderStalled after ``GIVE_UP`` of them.

    Once it has raised, it does not wait as long again for the end of the same threads: ``join`` resumes where ``check`` was.

    Args:
        stall_s: seconds; infinity never warns.
    """

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self._since_s, self._said = 0.0, 0

    def begin(self) -> float:
        """Start a wait, whatever timed out before; returns the time, in seconds of time.perf_counter."""
        self._since_s, self._said = time.perf_counter(), 0
        return self._since_s

    def check(self, since_s: float, waits_for: str, report: Report, stall_s: float = 0.0) -> None:
        """Warn or raise, if it is time.

        Args:
            since_s: when there was progress last, in seconds of time.perf_counter.
            waits_for: in words.
            report: makes the threads' state in words, when it is needed.
            stall_s: a longer limit for this call, if it is longer.
        """
        stall_s = max(self.stall_s, stall_s)
        quiet_s = time.perf_counter() - since_s
        if since_s != self._since_s:
            self._since_s, self._said = since_s, 0
        if quiet_s < min(self._said + 1, GIVE_UP) * stall_s:
            return
        self._said += 1
        text = f"the loader made no progress for {quiet_s:.0f} s while waiting for {waits_for}:\n{report()}"
        if self._said >= GIVE_UP:
            raise LoaderStalled(text)
        logger.warning("%s\nit times out after %.0f s", text, GIVE_UP * stall_s)

    def join(self, threads: Sequence[threading.Thread], report: Report) -> None:
        """Wait for the end of threads that were signalled to end.

        Raises:
            LoaderStalled: one of them does not end.
        """
        since_s = self._since_s if self._said >= GIVE_UP else self.begin()
        for thread in threads:
            while thread.is_alive():
                thread.join(min(POLL_S, self.stall_s))
                if thread.is_alive():
                    self.check(since_s, f"the end of its thread {thread.name}", report)


class Closable(Protocol):
    """Something with threads."""

    def close(self) -> None: ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_at_exit(owner: Closable) -> None:
    """Close it when the interpreter exits: no thread may be inside a kernel then."""
    _open.add(owner)


@atexit.register
def _close_all() -> None:
    for each in list(_open):
        try:
            each.close()
        except LoaderStalled as error:
            logger.warning("%s", error)


def wait_for(wake: SimpleQueue[None], max_s: float) -> bool:
    """Whether anything was put into it, by now or within so many seconds; empties it.

    A Condition or an Event would not do: whoever puts or waits may be the garbage collector, or the main thread, which
    Ctrl-C can interrupt between any two lines of Python.  Each put and get is a single call into C, which leaves no lock held.
    What is put while nobody waits ends the next wait at once, so look for work before each wait.
    """
    try:
        wake.get(timeout=max_s)
    except Empty:
        return False
    with suppress(Empty):
        while True:
            wake.get_nowait()
    return True


def thread_report(thread: threading.Thread, activity: ThreadStats) -> str:
    """What a thread is doing, for how long, and where in the code it is. Several lines."""
    for_s = time.perf_counter() - activity.since_s
    said = f"  {thread.name}: {activity.doing}, for {for_s:.1f} s{_state(thread)}"
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return said
    stack = traceback.extract_stack(frame)[-FRAMES:]
    return "\n".join([said, *(f"    {line.filename}:{line.lineno} in {line.name}" for line in stack)])


def _state(thread: threading.Thread) -> str:
    """The thread's state in the operating system (Linux): one that waits for a disk shows no other sign."""
    names = {
        "R": "running",
        "S": "asleep",
        "D": "in the kernel, waiting for a disk or a network",
        "T": "stopped",
    }
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
        letter = stat.rpartition(")")[2].split()[0]
        return f" ({names.get(letter, letter)})"
    return "" if thread.is_alive() else " (it has ended)"
