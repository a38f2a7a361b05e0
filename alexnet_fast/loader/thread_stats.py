"""What each thread of a loader is doing and has done: for the report of a stall, and for whoever measures."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

TraceHook = Callable[[str, str, float, float, tuple[int, int]], None]
"""Called by a decoding thread with its name, "decode" or "wait", begin and end (perf_counter seconds) and the (epoch, step)."""


class ThreadStats:
    """One thread's; written by that thread alone, read by anyone.  Of the read-ahead thread only what it is doing.

    Attributes:
        name: the thread's.
        doing: what it does now, in words.
        since_s: when that began, in seconds of time.perf_counter.
        busy_s: seconds inside decode calls so far.
        cpu_s: seconds of those in which it had a processor.
        faults: page faults of those that waited for the disk.
        samples: that it has decoded so far.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy_s = self.cpu_s = 0.0
        self.faults = self.samples = 0
        self.begin("starting")

    def begin(self, doing: str) -> float:
        """Do something else from now on; returns when that is."""
        self.since_s = time.perf_counter()
        self.doing = doing
        return self.since_s

    def count(self, before: tuple[float, float, int], samples: int) -> float:
        """Add a decode call to the sums, given ``usage`` at its begin; returns when that ended."""
        now_s, cpu_s, faults = usage()
        self.busy_s += now_s - before[0]
        self.cpu_s += cpu_s - before[1]
        self.faults += faults - before[2]
        self.samples += samples
        return now_s


def usage() -> tuple[float, float, int]:
    """Seconds of the clock and of the processor, and major page faults, of the calling thread so far."""
    return time.perf_counter(), time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
