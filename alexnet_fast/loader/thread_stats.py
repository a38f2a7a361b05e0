"""What each thread of a loader is doing and has done: for the report of a stall, and for callers that profile."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..common.systems import major_faults
from ..decode.decoder import DecodePaths

TraceHook = Callable[[str, str, float, float, tuple[int, int]], None]
"""Called by a decoding thread with its name, "decode" or "wait", begin and end (perf_counter seconds) and the (epoch, step)."""


class ThreadStats:
    """Of one thread, which alone writes it; any thread may read it.  The planner's has only what it is doing.

    Attributes:
        name: the thread's.
        doing: what it does now, in words.
        since_s: since when, in seconds of time.perf_counter.
        busy_s: seconds that it has decoded and augmented so far.
        cpu_s: seconds of those in which it had a processor.
        faults: page faults meanwhile that waited for the disk.
        samples: how many it has decoded so far.
        paths: which decoder their JPEGs took.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.busy_s = self.cpu_s = 0.0
        self.faults = self.samples = 0
        self.paths = DecodePaths()
        self.begin("starting")

    def begin(self, doing: str) -> float:
        """Something else is being done from now on; returns the time, in seconds of time.perf_counter."""
        self.since_s = time.perf_counter()
        self.doing = doing
        return self.since_s

    def count(self, before: tuple[float, float, int], samples: int) -> float:
        """Add decoded samples to the sums, given ``usage`` at the start; returns the time, in seconds of time.perf_counter."""
        now_s, cpu_s, faults = usage()
        self.busy_s += now_s - before[0]
        self.cpu_s += cpu_s - before[1]
        self.faults += faults - before[2]
        self.samples += samples
        return now_s


def usage() -> tuple[float, float, int]:
    """Seconds of the clock and of the processor, and major page faults, of the calling thread so far."""
    return time.perf_counter(), time.thread_time(), major_faults()
