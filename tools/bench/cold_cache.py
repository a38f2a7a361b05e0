"""Rounds of the loader on a file that is, or is not, in the page cache, with read-ahead and without."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import random
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast import Loader
from alexnet_fast.beton.reader import Beton
from bench.statistics import spread

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


def drop(path: Path) -> None:
    """Ask the kernel to forget a file's pages; it keeps those that a process has mapped, or that are not written yet."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def fill(path: Path) -> None:
    """Read a file into the page cache."""
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def cached_pages(path: Path) -> np.ndarray:
    """Which of a file's pages are in the page cache (mincore(2)). (pages,) bool; of another user's file: all."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        pages = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        if _LIBC.mincore(view.ctypes.data, len(view), pages.ctypes.data):
            raise OSError(ctypes.get_errno(), f"mincore of {path}")
        del view  # a map with a view of it cannot be closed
        return (pages & 1).astype(bool)


def disk(path: Path, max_samples: int = 2000) -> dict[str, Any]:
    """The speed of the disk for the dropped file: MB/s in sequence, and by one-sample reads of 1 and of 16 threads."""
    with Beton(path) as beton:
        ptrs, sizes = beton.images["data_ptr"].tolist(), beton.sizes.tolist()
    chosen = random.Random(0).sample(range(len(sizes)), min(max_samples, len(sizes)))
    descriptor = os.open(path, os.O_RDONLY)
    found: dict[str, Any] = {}
    try:
        drop(path)
        started, done = time.perf_counter(), 0
        while done < 1 << 29 and (chunk := os.pread(descriptor, 1 << 22, done)):
            done += len(chunk)
        found["sequential_mb_per_s"] = done / 1e6 / (time.perf_counter() - started)
        for threads in (1, 16):
            drop(path)
            started = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                reads = pool.map(lambda i: len(os.pread(descriptor, sizes[i], ptrs[i])), chosen)
                found[f"random_mb_per_s_{threads}"] = sum(reads) / 1e6 / (time.perf_counter() - started)
    finally:
        os.close(descriptor)
    found["kernel_read_ahead_bytes"] = _kernel_read_ahead(path)
    return found


def _kernel_read_ahead(path: Path) -> int | None:
    """How many bytes the kernel reads around a touched page; None if it does not report it."""
    device = path.stat().st_dev
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for place in (folder / "queue/read_ahead_kb", folder / "../queue/read_ahead_kb"):  # a disk, a partition
        try:
            return int(place.read_text()) * 1024
        except OSError:
            continue
    return None


@dataclass(frozen=True)
class Variant:
    """One way to read: the state of the page cache when a round starts, and how far the loader reads ahead."""

    name: str
    cold: bool
    read_ahead_bytes: int


def variants(read_ahead_bytes: Sequence[int]) -> list[Variant]:
    """Cold and warm, without read-ahead and with each of some windows."""
    return [
        Variant(
            f"{'cold' if cold else 'warm'}, read-ahead {f'{window / 2**20:g} MiB' if window else 'off'}",
            cold,
            window,
        )
        for cold in (True, False)
        for window in (0, *read_ahead_bytes)
    ]


def run_rounds(
    path: Path, chosen: Sequence[Variant], rounds: int, batches: int, batch_size: int, threads: int
) -> list[dict[str, Any]]:
    """All variants in turn, another one first in each round; the first round, which compiles, is not counted."""
    _round(path, chosen[-1], 0, batches, batch_size, threads)
    outcomes: dict[Variant, list[dict[str, float]]] = {variant: [] for variant in chosen}
    for k in range(rounds):
        at = k % len(chosen)
        for variant in (*chosen[at:], *chosen[:at]):
            outcomes[variant].append(_round(path, variant, k, batches, batch_size, threads))
    return [
        {
            "name": variant.name,
            "cold": variant.cold,
            "read_ahead_bytes": variant.read_ahead_bytes,
            **{what: spread([outcome[what] for outcome in found]) for what in found[0]},
            "rounds": found,
        }
        for variant, found in outcomes.items()
    ]


def _round(
    path: Path, variant: Variant, epoch: int, batches: int, batch_size: int, threads: int
) -> dict[str, float]:
    gc.collect()  # an old map would keep its pages in the cache
    (drop if variant.cold else fill)(path)
    cached = float(cached_pages(path).mean())
    with Loader(
        path, batch_size, train=True, threads=threads, read_ahead_bytes=variant.read_ahead_bytes
    ) as loader:
        loader.set_epoch(epoch)
        usage, read = resource.getrusage(resource.RUSAGE_SELF), read_bytes()
        started = time.perf_counter()
        images = sum(len(batch.labels) for _, batch in zip(range(batches), loader))
        wall_s = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF)
        read = read_bytes() - read
    cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    return {
        "img_per_s": images / wall_s,
        "cpu_ms_per_image": 1e3 * cpu_s / images,
        "read_kb_per_image": read / 1e3 / images,
        "cached_before": cached,
    }


def read_bytes() -> int:
    """Bytes that the disk has read for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
