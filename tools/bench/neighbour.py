"""A compiled neighbour that never takes the interpreter's lock: it burns a given CPU time in every period, and sleeps for the rest."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numba
import numpy as np
from numba import types

u64, i32, i64 = types.uint64, types.int32, types.int64
clock_gettime = types.ExternalFunction("clock_gettime", i32(i32, u64))
usleep = types.ExternalFunction("usleep", i32(types.uint32))

WALL, OWN_CPU = np.int32(time.CLOCK_MONOTONIC), np.int32(time.CLOCK_THREAD_CPUTIME_ID)
TABLE = 1 << 13  # 64 KiB of memory are used, as a decoder uses its own
assert ctypes.sizeof(ctypes.c_long) == 8  # a struct timespec is two int64


def clocks() -> np.ndarray:
    """Memory of one thread: a timespec, and the table that it works on. (2 + TABLE,) int64"""
    return np.ones(2 + TABLE, np.int64)


# Not ``kernel_cache.kernel``: a benchmark stores no compiled code.
@numba.njit(nogil=True)
def now_ns(clock: Any, memory: np.ndarray) -> Any:
    clock_gettime(clock, np.uint64(memory.ctypes.data))
    return memory[0] * 1_000_000_000 + memory[1]


@numba.njit(nogil=True)
def burn(stop: np.ndarray, period_ns: Any, share_ns: Any, memory: np.ndarray) -> Any:
    """Use ``share_ns`` of CPU time in each ``period_ns``, until ``stop[0]`` is not 0. memory: as ``clocks``, of this thread alone."""
    begun, used_before = now_ns(WALL, memory), now_ns(OWN_CPU, memory)
    periods, value = 0, np.int64(1)
    while stop[0] == 0:
        periods += 1
        while stop[0] == 0 and now_ns(OWN_CPU, memory) - used_before < periods * share_ns:
            for _ in range(2000):
                value = value * np.int64(6364136223846793005) + np.int64(1442695040888963407)
                at = 2 + ((value >> np.int64(33)) & np.int64(TABLE - 1))
                memory[at] = memory[at] ^ value
        left_ns = begun + periods * period_ns - now_ns(WALL, memory)
        if left_ns > 0:
            usleep(np.uint32(left_ns // 1000))
        else:  # there are fewer cores than it wants: it does not catch up
            begun, used_before, periods = now_ns(WALL, memory), now_ns(OWN_CPU, memory), 0
    return value
