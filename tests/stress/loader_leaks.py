"""Open a loader, iterate, leave it in one of several ways, many times: what stays in the process must not grow.

    PYTHONPATH=.:tests:tools python -m stress.loader_leaks --beton train.beton [--tries 200] [--seed 0] [--size 224]

The ways: closed after a break; a `with` left by an exception; dropped; dropped in a reference cycle, for the garbage collector;
closed while one of its batches is held; and Ctrl-C at a random moment while the loader is opened, iterated or closed.
After each, this is counted: threads, open files, maps of the file, and private memory.
Prints a row of JSON for each way, and a sentence.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from alexnet_fast import Loader
from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import exit_code
from alexnet_fast.loader.preload import kernels
from bench.memory_growth import own_bytes

Open = Callable[[], "Cyclic"]
GRACE_S = 10.0
"""For threads that were signalled to end; dropping a loader does not wait for them."""
GROWTH_BYTES = 4_000_000
"""How much private memory a process may gain from the first third of its tries to the last: less than two batches of 16 images."""
WARM_UP = 5
"""Tries that are not counted: they load what a process keeps until its end."""
M_MMAP_THRESHOLD, MMAP_BYTES = -3, 1 << 16  # mallopt(3)


@dataclass(frozen=True)
class Remains:
    """What a process holds: its threads, open files, maps of the beton, and private memory in bytes."""

    threads: int
    files: int
    maps: int
    bytes: int


def remains(path: Path) -> Remains:
    """What is left now, after threads that were signalled have had time to end."""
    until = time.monotonic() + GRACE_S
    while True:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count(str(path.resolve()))
        threads = len(loaders_threads())
        if not (threads or maps) or time.monotonic() > until:
            return Remains(threads, len(os.listdir("/proc/self/fd")), maps, own_bytes())
        time.sleep(0.005)


def loaders_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("decode-", "planner"))]


def break_and_close(open_: Open, rng: random.Random) -> None:
    loader = open_()
    for _ in islice(loader, rng.randrange(4)):
        pass
    loader.close()


def fail_in_the_loop(open_: Open, rng: random.Random) -> None:
    try:
        with open_() as loader:
            for _ in loader:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass


def drop(open_: Open, rng: random.Random) -> None:
    for _ in islice(open_(), rng.randrange(4)):
        pass


class Cyclic(Loader):
    """May hold itself."""

    itself: Loader


def drop_in_a_cycle(open_: Open, rng: random.Random) -> None:
    loader = open_()
    loader.itself = loader
    for _ in islice(loader, rng.randrange(4)):
        pass


def close_under_a_batch(open_: Open, rng: random.Random) -> None:
    with open_() as loader:
        held = list(islice(loader, 2))
    del loader
    gc.collect()
    assert all(int(batch.images.sum()) >= 0 for batch in held)


def interrupt(open_: Open, rng: random.Random) -> None:
    try:
        with interruption(after_s=rng.uniform(0.0001, 0.05)), open_() as loader:
            for _ in range(
                20
            ):  # epochs: longer than until the interruption, but not forever if Python swallows it in a __del__
                for _ in loader:
                    pass
    except KeyboardInterrupt:
        pass


@contextmanager
def interruption(after_s: float) -> Iterator[None]:
    """KeyboardInterrupt in the main thread after N seconds, wherever it then is, unless the body has ended."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


WAYS: dict[str, Callable[[Open, random.Random], None]] = {
    "break and close": break_and_close,
    "exception in the loop": fail_in_the_loop,
    "dropped": drop,
    "dropped in a cycle": drop_in_a_cycle,
    "closed under a held batch": close_under_a_batch,
    "Ctrl-C at a random moment": interrupt,
}


def attack(path: Path, way: str, tries: int, seed: int, size: int) -> dict[str, Any]:
    """Leave N loaders in one way; returns what stayed in the process."""

    def open_() -> Cyclic:
        return Cyclic(path, 16, train=True, size=size, threads=2, seed=seed)

    # Freed memory goes back to the system at once; otherwise malloc keeps some of it, and that would be counted.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
    rng = random.Random(f"{seed} {way}")
    started = time.perf_counter()
    kernels.wait(give_up=lambda: False)
    for _ in range(WARM_UP):
        WAYS[way](open_, rng)
    before, found = remains(path), []
    gc.freeze()  # torch and numba have hundreds of thousands of objects: no garbage, and slow to visit
    for _ in range(tries):
        WAYS[way](open_, rng)
        found.append(remains(path))
    third = -(-tries // 3)
    first, last = (statistics.median(each.bytes for each in part) for part in (found[:third], found[-third:]))
    clean = [(each.threads, each.files, each.maps) == (0, before.files, 0) for each in found]
    return {
        "fault": way,
        "tries": tries,
        "survived": sum(clean) if last - first < GROWTH_BYTES else 0,
        "max_threads_left": max(each.threads for each in found),
        "max_files_left": max(each.files for each in found) - before.files,
        "max_maps_left": max(each.maps for each in found),
        "grown_bytes": int(last - first),
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if something stayed in the process."""
    parser = argparse.ArgumentParser(
        description="Open and leave loaders, and count what stays in the process."
    )
    parser.add_argument("--beton", type=file_path, required=True)
    parser.add_argument("--tries", type=int, default=200, help="of each way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args(argv)

    def run() -> int:
        rows = []
        for way in WAYS:
            rows.append(attack(options.beton, way, options.tries, options.seed, options.size))
            print(json.dumps(rows[-1]), flush=True)
        tries, survived = (sum(row[name] for row in rows) for name in ("tries", "survived"))
        print(f"{tries:,} loaders opened and left in {len(rows)} ways: {survived:,} left nothing behind")
        return int(survived < tries)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
