"""CPU time and memory of a process and its descendants, from Linux's /proc. Standard library only."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None)


def tree(root: int) -> list[int]:
    """``root`` and its live descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                # The command's name, in brackets, may hold anything; the parent is the second field after it.
                parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            children.setdefault(parent, []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of processes in seconds, to the nanosecond (/proc's own counters tick every 10 ms)."""
    total = 0.0
    clock = ctypes.c_int()
    for pid in pids:
        if _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)) == 0:
            try:
                total += time.clock_gettime(clock.value)
            except OSError:  # ended between the two calls
                pass
    return total


def memory_bytes(root: int) -> int:
    """Private memory of a process tree: heap and shared memory, each shared page split among its users.

    Pages of mapped files are not counted: they are the page cache, which the machine would hold anyway.
    """
    total = 0
    for pid in tree(root):
        try:
            lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in lines[1:])
        total += sum(int(fields.get(name, "0").split()[0]) * 1024 for name in ("Pss_Anon", "Pss_Shmem"))
    return total


def physical_cores(allowed: set[int]) -> list[int]:
    """The allowed cores, one of each physical core before any of its hyper-threads."""

    def sibling_rank(core: int) -> int:
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        try:
            siblings = _cores(path.read_text())
        except (OSError, ValueError):
            return 0
        return sorted(siblings & allowed).index(core)

    return sorted(allowed, key=lambda core: (sibling_rank(core), core))


def _cores(text: str) -> set[int]:
    """ "0-1,8" -> {0, 1, 8}"""
    spans = [span.split("-") for span in text.strip().split(",")]
    return {core for span in spans for core in range(int(span[0]), int(span[-1]) + 1)}
