"""How much of a file lies in the page cache, and what its disk gives, without changing the one or trusting it for the other."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

PAGE = mmap.PAGESIZE
WINDOW_PAGES = 1024
WINDOWS = 4096  # 16 GiB in 4 KiB pages: a larger file is sampled, since each page costs some 45 ns
BLOCK = 128 << 10  # about what a photo takes, and what a loader asks for at random
BUDGET_S, MIN_BYTES, MAX_BYTES, THREADS, TRIES = 1.0, 64 << 20, 256 << 20, 16, 256


class Rate(NamedTuple):
    """Random reads of BLOCK bytes, THREADS at a time, from the disk itself."""

    bytes_per_s: float
    read_bytes: int


def resident_share(path: Path) -> float:
    """The share of a file that lies in the page cache.

    mincore(2), since Linux 5.2, calls every page of a file resident that the caller neither owns nor may write:
    there TRIES pages are tried.
    """
    if not _may_know(path):
        return _share_by_trial(path)
    seen = [pages for _, pages in _resident(path)]
    return float(np.concatenate(seen).mean()) if seen else 1.0


def disk_rate(path: Path) -> Rate | None:
    """What the disk gives of a file, in at most about BUDGET_S seconds and MAX_BYTES; None where only its cached pages could be read.

    O_DIRECT goes around the page cache.  Where the file system has none, pages that are not cached are read, and
    given back.  Blocks that are cached are left alone as long as there are MIN_BYTES of others, fewer of which say
    little: some file systems drop them when they are read directly.
    """
    length = path.stat().st_size
    blocks = np.arange(length // BLOCK)
    cached = _cached_blocks(path, length)
    try:
        descriptor, direct = os.open(path, os.O_RDONLY | os.O_DIRECT), True
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
    """Read blocks on THREADS threads until they are all read or the time is over."""
    if give_back:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # of this descriptor alone
    queue, lock, total = iter(offsets), threading.Lock(), [0]
    started = time.perf_counter()

    def work() -> None:
        buffer, done = mmap.mmap(-1, BLOCK), 0  # O_DIRECT wants page-aligned memory
        for offset in _shared(queue, lock):
            if time.perf_counter() - started > BUDGET_S:
                break
            done += os.preadv(descriptor, [buffer], offset)
            if give_back:
                os.posix_fadvise(descriptor, offset, BLOCK, os.POSIX_FADV_DONTNEED)
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
    """Some file systems open with O_DIRECT and then read nothing."""
    try:
        return os.preadv(descriptor, [mmap.mmap(-1, BLOCK)], 0) > 0
    except OSError:
        return False


def _cached_blocks(path: Path, length: int) -> np.ndarray:
    """Which of a file's whole blocks hold a cached page, (blocks,) bool; those that were not looked at are taken to."""
    cached = np.ones(length // BLOCK, bool)
    if _may_know(path):
        for first, pages in _resident(path):
            blocks = cached[first * PAGE // BLOCK :][: len(pages) * PAGE // BLOCK]
            # A last page that is not full can make a block that is not whole look so.
            whole = pages[: len(blocks) * (BLOCK // PAGE)]
            blocks[:] = whole.reshape(len(blocks), BLOCK // PAGE).any(axis=1)
    return cached


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap | None]:
    """A file in memory, as long as it is now: another program may have changed that since; None where it is empty."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield mapped


def _resident(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(first page, which pages of a window are resident), all windows or WINDOWS of them spread evenly."""
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
                begin = view.ctypes.data + first * PAGE
                if libc.mincore(begin, min(len(found) * PAGE, length - first * PAGE), found.ctypes.data):
                    raise OSError(ctypes.get_errno(), f"mincore of {path}")
                yield first, (found & 1).astype(bool)
        finally:
            del view  # a map with a view of it cannot be closed


def _may_know(path: Path) -> bool:
    """Whether mincore tells this process the truth of a file."""
    found = path.stat()
    return os.access(path, os.W_OK) or found.st_uid == os.geteuid()


def _share_by_trial(path: Path) -> float:
    """The share by touching pages here and there: those that were not cached cost a major fault, and then are cached."""
    misses = tried = 0
    end = time.perf_counter() + BUDGET_S
    with _mapped(path) as mapped:
        if mapped is None:
            return 1.0
        pages = -(-len(mapped) // PAGE)
        mapped.madvise(mmap.MADV_RANDOM)  # no page but the one that is touched
        for page in random.sample(range(pages), min(TRIES, pages)):  # others than those of the last look
            if mapped.size() <= page * PAGE:  # cut short meanwhile: touched, it would end the process
                continue
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
            mapped[page * PAGE]
            misses += resource.getrusage(resource.RUSAGE_THREAD).ru_majflt > before
            tried += 1
            if time.perf_counter() > end:
                break
    return 1 - misses / tried if tried else 1.0
