"""madvise: asks the kernel for pages of the mapped file before they are touched.

A shuffled epoch touches a file at random places.  Where the file is not in the page cache, a decoding thread
waits for the disk at every other page, one request at a time, and the kernel's own read-ahead, which expects the
neighbouring pages next, reads much that is not used.  The planner knows what comes next: it requests that early, and
with many requests at once, which is what disks are fast at.
"""

from __future__ import annotations

import mmap

import numpy as np
from numba import types

from ..kernel_cache import kernel

U64 = np.uint64
PAGE = U64(mmap.PAGESIZE)
WILLNEED = np.int32(mmap.MADV_WILLNEED)
PIECE = U64(128 << 10)
"""Bytes of one call.  The kernel reads no more of it than the disk's read-ahead (128 KiB unless somebody changed it) or its largest
request, whichever is more, and skips the rest without a word: of 64 MiB came 8, where the read-ahead was set to 8."""

# address, bytes, advice; 0 = ok. Of a mapped file it starts reading what is not in memory, and returns.
madvise = types.ExternalFunction("madvise", types.int32(types.uint64, types.uint64, types.int32))


@kernel
def _request(begin, end, advice):
    requests = 0
    while begin < end:
        size = min(end - begin, PIECE)
        madvise(begin, size, advice)
        begin += size
        requests += 1
    return requests


@kernel
def advise_willneed(file, samples, page, advice):
    """Request the bytes of samples that will be read soon, neighbours together; returns the number of requests.

    It is only advice: where a file system cannot follow it, the pages are read when they are touched.
    One call for many samples, so that the thread takes the GIL once.

    Args:
        file: (file size,) uint8, the memory map.
        samples: (n,) kernel.SAMPLE_DTYPE.
        page: bytes of a page of memory.
        advice: MADV_WILLNEED.
    """
    base = U64(file.ctypes.data)
    requests = 0
    begin = end = U64(0)  # whole pages that are wanted and not yet asked for
    for k in range(len(samples)):
        first = base + U64(samples[k].ptr)
        last = first + U64(samples[k].size)
        first = first // page * page
        if begin <= first <= end:
            end = max(end, last)
            continue
        if end > begin:
            requests += _request(begin, end, advice)
        begin, end = first, last
    if end > begin:
        requests += _request(begin, end, advice)
    return requests


def bytes_of(samples: np.ndarray) -> int:
    """Bytes of the payloads of samples, (n,) kernel.SAMPLE_DTYPE."""
    return int(samples["size"].sum())
