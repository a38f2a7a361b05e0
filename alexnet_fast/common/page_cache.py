"""How much of a file is in the page cache, and how fast its disk reads: without changing the cache, or measuring it as the disk."""

from __future__ import annotations

import ctypes
import mmap
import operator
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .systems import advise, major_faults, open_directly

PAGE = mmap.PAGESIZE
WINDOW_PAGES = 1024
WINDOWS = 4096  # 16 GiB in 4 KiB pages: a larger file is sampled, since each page costs about 45 ns
BLOCK = 128 << 10  # about the size of an image, and so of a loader's random reads
MAX_FILES = 16  # of one set: each may take BUDGET_S
BUDGET_S, MIN_BYTES, MAX_BYTES, THREADS, TRIES = 1.0, 64 << 20, 256 << 20, 16, 256


class Rate(NamedTuple):
    """Speed of random reads of BLOCK bytes, THREADS at a time, from the disk and not from the page cache."""

    bytes_per_s: float
    read_bytes: int


def resident_share(path: Path) -> float:
    """The share of a file that is in the page cache, 0 to 1.

    Since Linux 5.2, mincore(2) reports all pages as resident for a file that the caller neither owns nor may write.  For such
    a file, TRIES pages are touched and their page faults counted; this caches them.
    """
    if not _may_know(path):
        return _share_by_trial(path)
    seen = [pages for _, pages in _resident(path)]
    return float(np.concatenate(seen).mean()) if seen else 1.0


def resident_share_of(paths: Sequence[Path]) -> float:
    """The share of several files, by their sizes; of more than MAX_FILES, of so many, evenly spread."""
    looked_at = paths[:: -(-len(paths) // MAX_FILES)]
    sizes = [path.stat().st_size for path in looked_at]
    return sum(map(operator.mul, sizes, map(resident_share, looked_at))) / max(1, sum(sizes))


def largest(paths: Sequence[Path]) -> Path:
    """The largest of several files: the one to measure a disk with."""
    return max(paths, key=lambda path: path.stat().st_size)


def disk_rate(path: Path) -> Rate | None:
    """Measure how fast the disk reads a file, in about BUDGET_S seconds and MAX_BYTES at most; None if only cached pages could be read.

    O_DIRECT bypasses the page cache.  On a file system without it, only uncached pages are read, and then dropped from the
    cache again.  Cached blocks are not read if MIN_BYTES of uncached ones exist (fewer give no reliable figure): some file
    systems drop cached blocks when they are read directly.
    """
    length = path.stat().st_size
    blocks = np.arange(length // BLOCK)
    cached = _cached_blocks(path, length)
    try:
        descriptor, direct = open_directly(path), True
    except OSError:
        descriptor, direct = os.open(path, os.O_RDONLY), False
    try:
        uncached = blocks[~cached]
        candidates = blocks if direct and len(uncached) * BLOCK < MIN_BYTES else uncached
        if direct and len(candidates) and not _reads_directly(descriptor):
            os.close(descriptor)
            descriptor, direct = os.open(path, os.O_RDONLY), False
            candidates = uncached
        if not len(candidates):
            return None
        chosen = random.sample(range(len(candidates)), min(MAX_BYTES // BLOCK, len(candidates)))
        offsets = [int(candidates[k]) * BLOCK for k in chosen]
        return _read(descriptor, offsets, give_back=not direct)
    finally:
        os.close(descriptor)


def _read(descriptor: int, offsets: list[int], give_back: bool) -> Rate:
    """Read blocks on THREADS threads until all are read or BUDGET_S has passed."""
    if give_back:
        advise(descriptor, 0, 0, "RANDOM")  # for this descriptor alone
    queue, lock, total = iter(offsets), threading.Lock(), [0]
    started = time.perf_counter()

    def work() -> None:
        buffer, done = mmap.mmap(-1, BLOCK), 0  # O_DIRECT needs page-aligned memory
        for offset in _shared(queue, lock):
            if time.perf_counter() - started > BUDGET_S:
                break
            done += os.preadv(descriptor, [buffer], offset)
            if give_back:
                advise(descriptor, offset, BLOCK, "DONTNEED")
        with lock:
            total[0] += done

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Rate(total[0] / (time.perf_counter() - started), total[0])


def _shared(queue: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    while True:
        with lock:
            offset = next(queue, None)
        if offset is None:
            return
        yield offset


def _reads_directly(descriptor: int) -> bool:
    """Whether O_DIRECT reads work: on some file systems the open succeeds and the read fails."""
    try:
        return os.preadv(descriptor, [mmap.mmap(-1, BLOCK)], 0) > 0
    except OSError:
        return False


def _cached_blocks(path: Path, length: int) -> np.ndarray:
    """Which of a file's complete blocks hold a cached page, (blocks,) bool; True for blocks that were not checked."""
    cached = np.ones(length // BLOCK, bool)
    if _may_know(path):
        for first, pages in _resident(path):
            blocks = cached[first * PAGE // BLOCK :][: len(pages) * PAGE // BLOCK]
            # Without the pages of a last, incomplete block.
            complete = pages[: len(blocks) * (BLOCK // PAGE)]
            blocks[:] = complete.reshape(len(blocks), BLOCK // PAGE).any(axis=1)
    return cached


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | None]:
    """A file mapped at its current length, which another program may change; None if it is empty."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _resident(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(first page, which pages are resident) of each window of WINDOW_PAGES pages: all windows, or WINDOWS of them spread evenly."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    with _mapped(path) as mapped:
        if mapped is None:
            return
        length = len(mapped)
        pages = -(-length // PAGE)
        windows = -(-pages // WINDOW_PAGES)
        view = np.frombuffer(mapped, np.uint8)
        try:
            for k in range(min(windows, WINDOWS)):
                first = (k * windows // WINDOWS if windows > WINDOWS else k) * WINDOW_PAGES
                found = np.zeros(min(WINDOW_PAGES, pages - first), np.uint8)
                address = view.ctypes.data + first * PAGE
                if libc.mincore(address, min(len(found) * PAGE, length - first * PAGE), found.ctypes.data):
                    raise OSError(ctypes.get_errno(), f"mincore of {path}")
                yield first, (found & 1).astype(bool)
        finally:
            del view  # a mapping that has a view cannot be closed


def _may_know(path: Path) -> bool:
    """Whether mincore reports the true state of a file to this process."""
    found = path.stat()
    return os.access(path, os.W_OK) or found.st_uid == os.geteuid()


def _share_by_trial(path: Path) -> float:
    """The share by touching random pages: a page that was not cached costs a major fault, and is cached from then on."""
    misses = tried = 0
    end = time.perf_counter() + BUDGET_S
    with _mapped(path) as mapped:
        if mapped is None:
            return 1.0
        pages = -(-len(mapped) // PAGE)
        mapped.madvise(mmap.MADV_RANDOM)  # no readahead: only the page that is touched
        for page in random.sample(
            range(pages), min(TRIES, pages)
        ):  # other pages at each call, as those are cached now
            if (
                mapped.size() <= page * PAGE
            ):  # the file was truncated: touching the page would kill the process
                continue
            before = major_faults()
            mapped[page * PAGE]
            misses += major_faults() > before
            tried += 1
            if time.perf_counter() > end:
                break
    return 1 - misses / tried if tried else 1.0
