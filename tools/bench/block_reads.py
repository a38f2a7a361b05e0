"""The block order on a file that is not in the page cache: how fast it is read, how often, and how well its batches are mixed."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast.beton.reader import Beton
from alexnet_fast.decode.crop import CropOptions
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.loader.block_order import Block, block_permutation
from alexnet_fast.loader.orders import BlockShuffled, EpochOrder, InOrder, Shuffled
from alexnet_fast.loader.page_advice import bytes_of
from alexnet_fast.loader.planner import BatchPlan, Planner
from alexnet_fast.loader.sampler import DistributedBatchSampler, epoch_permutation
from alexnet_fast.loader.watchdog import Watchdog
from bench.cold_cache import cached_pages, drop, read_bytes
from bench.large_files import IMAGENET
from bench.statistics import spread

READ_AHEAD = 64 << 20
CHUNK = 4 << 20  # of the plain read
DROPPING = "block, two windows kept"
SAMPLE_BYTES, PAGE_BYTES, CLASSES = 110_000, 8 << 20, 1000  # ImageNet's, as it is usually packed
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def run_rounds(path: Path, rounds: int, batch_size: int, window_pages: int) -> list[dict[str, Any]]:
    """A whole pass over the dropped file in several ways, in turn, another one first in each round.

    ``read(2)``: 4 MiB at a time, from its start to its end.  The others are the Loader's read stage: its planner, and a thread that
    touches every page of each batch, in place of those that decode.  In the file's order that is the disk's sequential rate with many
    requests at a time, which for most disks is higher; rates are compared with it, round by round.  With "two windows kept",
    what the windows before the current one held is dropped from the page cache: as under a memory limit, what is needed again must
    be read again.  That costs the touching thread time, on a busy machine a third of its rate.
    """
    ways = ("read(2)", "file order", "block", DROPPING, "shuffled")
    _pass(path, "block", batch_size, window_pages, 0)  # compiles
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for k in range(rounds):
        at = k % len(ways)
        for way in (*ways[at:], *ways[:at]):
            found[way].append(_pass(path, way, batch_size, window_pages, k))
    return [
        {
            "name": way,
            "to_file_order": spread(
                [one["mb_per_s"] / other["mb_per_s"] for one, other in zip(passes, found["file order"])]
            ),
            **{what: spread([each[what] for each in passes]) for what in passes[0]},
            "rounds": passes,
        }
        for way, passes in found.items()
    ]


def _pass(path: Path, way: str, batch_size: int, window_pages: int, epoch: int) -> dict[str, float]:
    gc.collect()  # an old map would keep its pages in the cache
    drop(path)
    cpu_s = time.process_time()
    cached, before = float(cached_pages(path).mean()), read_bytes()
    if way == "read(2)":
        started, size, needed = time.perf_counter(), _read(path), 0
        wall_s = time.perf_counter() - started
    else:
        with Beton(path) as beton:
            samples = sample_table(beton)
            orders: EpochOrder
            if way in ("block", DROPPING):
                orders = BlockShuffled(samples["ptr"], beton.page_size, Block(window_pages), 0)
            elif way == "shuffled":
                orders = Shuffled(len(samples), 0)
            else:
                orders = InOrder(len(samples))
            if way != "file order":
                beton.expect_random_access()
            before = read_bytes()
            size, needed, wall_s = _touch_all(beton, samples, orders, batch_size, epoch, way == DROPPING)
            del samples, orders
    return {
        "mb_per_s": size / 1e6 / wall_s,
        "read_per_byte": (read_bytes() - before) / size,
        "cpu_s_per_gb": (time.process_time() - cpu_s) * 1e9 / size,
        "needed_bytes": float(needed),
        "cached_before": cached,
    }


def _read(path: Path) -> int:
    buffer, done = bytearray(CHUNK), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            done += count
    return done


def _touch_all(
    beton: Beton, samples: np.ndarray, orders: EpochOrder, batch_size: int, epoch: int, drops: bool
) -> tuple[int, int, float]:
    """Take the batches of an epoch and touch all their pages; bytes of the samples, the most that had to be in memory, and seconds.

    From its first batch to the next epoch's: at both, as much is requested ahead.
    """
    sampler = DistributedBatchSampler(len(samples), batch_size, 0, 1, drop_last=False)
    windows = _Windows(beton, samples, orders, epoch, drops)
    size = requested = needed = 0
    with _planned(beton, samples, orders, sampler, epoch) as plans:
        started = None
        for plan in plans:
            started = started or time.perf_counter()
            if plan.key[0] != epoch:
                return size, needed, time.perf_counter() - started
            requested += bytes_of(plan.ahead)
            needed = max(needed, requested - windows.left_bytes)
            for ptr, length in zip(plan.samples["ptr"].tolist(), plan.samples["size"].tolist()):
                beton.map[ptr : ptr + length : mmap.PAGESIZE].max()
            size += plan.bytes
            windows.leave(sampler.positions(plan.key[1])[1])
    raise AssertionError("plans are endless")


@contextmanager
def _planned(
    beton: Beton, samples: np.ndarray, orders: EpochOrder, sampler: DistributedBatchSampler, epoch: int
) -> Iterator[Iterator[BatchPlan]]:
    crops = CropOptions(False, 224, 256, np.uint64(0), (1.0, 1.0), (1.0, 1.0), 0.0)
    planner = Planner(beton, samples, orders, sampler, crops, READ_AHEAD, Watchdog(60.0))
    ready: queue.SimpleQueue[None] = queue.SimpleQueue()
    planner.start(lambda: ready.put(None))

    def plans() -> Iterator[BatchPlan]:
        while True:
            while (plan := planner.take()) is None:
                ready.get(timeout=600)
            yield plan

    try:
        planner.seek((epoch, 0))
        yield plans()
    finally:
        planner.close()


class _Windows:
    """Counts what finished windows held, and drops it from the page cache if asked to.

    Attributes:
        left_bytes: of the samples of finished windows.
    """

    def __init__(
        self, beton: Beton, samples: np.ndarray, orders: EpochOrder, epoch: int, drops: bool
    ) -> None:
        self._drops = drops
        self._beton, self._samples, self._order = beton, samples, orders.draw(epoch)
        self._at = self.left_bytes = 0

    def leave(self, position: int) -> None:
        """Samples up to this position were used."""
        if (windows := self._order.windows) is None:
            return
        while self._at < len(windows) - 1 and windows[self._at + 1] <= position:
            members = self._samples[self._order.places[windows[self._at] : windows[self._at + 1]]]
            self.left_bytes += bytes_of(members)
            if self._drops:
                self._forget(np.unique(members["ptr"] // self._beton.page_size))
            self._at += 1

    def _forget(self, pages: np.ndarray) -> None:
        page, base = self._beton.page_size, self._beton.map.ctypes.data
        descriptor = os.open(self._beton.path, os.O_RDONLY)
        try:
            for ptr in (pages * page).tolist():
                _LIBC.madvise(base + ptr, min(page, len(self._beton.map) - ptr), mmap.MADV_DONTNEED)
                os.posix_fadvise(descriptor, ptr, page, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def mixtures(batch_size: int = 256, windows: tuple[int, ...] = (32, 128, 512)) -> list[dict[str, Any]]:
    """How many classes a batch has, of a set like ImageNet that was packed in the order of its classes, or shuffled."""
    labels = np.arange(IMAGENET) * CLASSES // IMAGENET
    pages = np.arange(IMAGENET) // (PAGE_BYTES // SAMPLE_BYTES)
    found = []
    for packed in ("by class", "shuffled"):
        of_file = labels if packed == "by class" else labels[epoch_permutation(IMAGENET, 1, 0)]
        orders = {"shuffled": epoch_permutation(IMAGENET, 0, 0)}
        orders |= {f"block, {n} pages": block_permutation(pages, n, 0, 0)[0] for n in windows}
        for name, places in orders.items():
            batches = of_file[places][: IMAGENET // batch_size * batch_size].reshape(-1, batch_size)
            batches = np.sort(batches, axis=1)
            changes = np.diff(batches, axis=1) != 0
            distinct = 1 + changes.sum(axis=1)
            found.append(
                {
                    "packed": packed,
                    "order": name,
                    "classes": {
                        "mean": float(distinct.mean()),
                        "min": int(distinct.min()),
                        "max": int(distinct.max()),
                    },
                    "batches": len(batches),
                    "most_of_one": float(np.mean([np.bincount(batch).max() for batch in batches])),
                }
            )
    return found
