"""Waiting with an end: a wait in which nothing moves is told aloud, with what each thread is doing, and is given up at last."""

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
"""Nothing for so long is worth telling: a chunk of 32 photos takes 14 ms, a hiccup of a network file system seconds to minutes."""
GIVE_UP = 5
"""So many times that long, and it is no hiccup."""
LOADING_S = 600.0
"""Kernels that are being compiled (20 to 60 s, by as many ranks as start on a machine) are no stall before that."""
FRAMES = 4  # of a thread's stack, the innermost: where it stands, and who sent it there
POLL_S = 1.0

Report = Callable[[], str]
logger = logging.getLogger("alexnet_fast")


class LoaderStalled(RuntimeError):
    """The loader has not moved for ``GIVE_UP`` times its ``stall_s``; the message tells what each thread was doing."""


class Watchdog:
    """Of one waiter: a warning after each ``stall_s`` without a sign of life, LoaderStalled after ``GIVE_UP`` of them.

    Once it has given up, the end of the same threads is not waited for as long again: ``join`` goes on where ``check`` was.

    Args:
        stall_s: seconds; infinity never tires.
    """

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self._since_s, self._said = 0.0, 0

    def begin(self) -> float:
        """A wait begins, whatever was given up before; returns when that is, in seconds of time.perf_counter."""
        self._since_s, self._said = time.perf_counter(), 0
        return self._since_s

    def check(self, since_s: float, waits_for: str, report: Report, stall_s: float = 0.0) -> None:
        """Warn or raise, if it is time.

        Args:
            since_s: when there was a sign of life, in seconds of time.perf_counter.
            waits_for: in words.
            report: what there is to say, called when it is needed.
            stall_s: more patience for this once, if it is more.
        """
        stall_s = max(self.stall_s, stall_s)
        quiet_s = time.perf_counter() - since_s
        if since_s != self._since_s:
            self._since_s, self._said = since_s, 0
        if quiet_s < min(self._said + 1, GIVE_UP) * stall_s:
            return
        self._said += 1
        text = f"the loader has not moved for {quiet_s:.0f} s while {waits_for} was waited for:\n{report()}"
        if self._said >= GIVE_UP:
            raise LoaderStalled(text)
        logger.warning("%s\nit is given up after %.0f s", text, GIVE_UP * stall_s)

    def join(self, threads: Sequence[threading.Thread], report: Report) -> None:
        """Wait for the end of threads that were told to end.

        Raises:
            LoaderStalled: one of them does not.
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
    """Have it closed at the interpreter's end: no thread may be inside a kernel while that takes itself apart."""
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

    This wakes threads where a Condition or an Event would not do: who puts or waits may be the garbage collector, or the
    main thread, which Ctrl-C can stop between any two lines of Python.  Each put and get is a single call into C, which leaves
    no lock held.  What is put while nobody waits ends the next wait at once, so look for work before each wait.
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
    """What a thread is doing, for how long, and where it stands. Several lines."""
    for_s = time.perf_counter() - activity.since_s
    said = f"  {thread.name}: {activity.doing}, for {for_s:.1f} s{_state(thread)}"
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return said
    stack = traceback.extract_stack(frame)[-FRAMES:]
    return "\n".join([said, *(f"    {line.filename}:{line.lineno} in {line.name}" for line in stack)])


def _state(thread: threading.Thread) -> str:
    """Whether the kernel runs it, where the system tells (Linux): one that waits for a disk shows no other sign."""
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
