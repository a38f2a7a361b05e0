"""The ceiling of storage: how fast a training set's samples come from the page cache, and from the disk itself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from ..beton.reader import Beton
from ..common import page_cache
from ..common.machine import Machine
from ..distributed.world import World
from ..loader.loader import Loader
from ..loader.page_advice import PAGE
from ..loader.sampler import epoch_permutation
from .stats import Stat, summed, throughput

MAX_BYTES = 256 << 20  # of the set, on each rank, are read from the page cache again and again
A_TASK = 16  # samples
DISK_TRIES = 3
ORDER_SEED = (
    0x7E57  # not the order of training, whose first samples stay on the disk or in memory, as they are
)


@dataclass(frozen=True)
class Read:
    """How fast samples are read, over all ranks.

    cached_bytes_per_s: from the page cache, by as many threads as decode.
    disk_bytes_per_s: from the disk itself; None if only cached pages could be read.
    resident_share: of the file, in the page cache before the profile began, 0 to 1.
    file_bytes, available_bytes: the file, and the memory that could hold it in the page cache.
    sample_bytes: a stored sample, on average.
    """

    cached_bytes_per_s: Stat
    disk_bytes_per_s: Stat | None
    resident_share: float
    file_bytes: int
    available_bytes: int
    sample_bytes: float

    def at(self, resident_share: float) -> float:
        """Images a second with this share of the file in the page cache; the rest comes from the disk."""
        byte_s = resident_share / self.cached_bytes_per_s.median
        if resident_share < 1:  # read-ahead keeps the disk busy, so the sum is the worst case
            disk = self.disk_bytes_per_s or self.cached_bytes_per_s
            byte_s += (1 - resident_share) / disk.median
        return 1 / (byte_s * self.sample_bytes)


def measure(loader: Loader, seconds: float, world: World) -> Read:
    """Read samples of the loader's file for about `seconds`; what is in the page cache stays there."""
    beton, path = loader.beton, page_cache.largest(loader.beton.files)
    resident_share = page_cache.resident_share_of(beton.files)  # before anything of it is touched
    disk = [rate.bytes_per_s for _ in range(DISK_TRIES) if (rate := page_cache.disk_rate(path))]
    everywhere = int(world.all_reduce_sum(torch.tensor(int(len(disk) == DISK_TRIES)))) == world.world_size
    return Read(
        cached_bytes_per_s=_from_page_cache(beton, loader.threads, seconds, world),
        disk_bytes_per_s=summed(disk, world) if everywhere else None,
        resident_share=resident_share,
        file_bytes=beton.num_bytes,
        available_bytes=Machine().available_bytes,
        sample_bytes=float(beton.sizes.mean()),
    )


def _from_page_cache(beton: Beton, threads: int, seconds: float, world: World) -> Stat:
    """Bytes a second of copying samples in a shuffled order out of the page cache, on `threads` threads of each rank."""
    places = small_share(beton, world, MAX_BYTES)
    tasks = [places[at : at + A_TASK] for at in range(0, len(places), A_TASK)]
    scratch = threading.local()

    def read(places: np.ndarray) -> int:
        total = 0
        for place in places:
            payload = beton.payload(int(place))
            if getattr(scratch, "bytes", _NOTHING).size < payload.size:
                scratch.bytes = np.empty(payload.size, np.uint8)
            np.copyto(scratch.bytes[: payload.size], payload)  # without the GIL
            total += payload.size
        return total

    with ThreadPoolExecutor(threads) as pool:
        return throughput(lambda: sum(pool.map(read, tasks)), seconds, world)


_NOTHING = np.empty(0, np.uint8)


def small_share(beton: Beton, world: World, max_bytes: int) -> np.ndarray:
    """Indices of samples from all over the file, different ones on each rank, of at most about `max_bytes` in all."""
    order = epoch_permutation(beton.num_samples, ORDER_SEED, 0)
    own = order[world.rank :: world.world_size] if len(order) >= world.world_size else order
    return own[: max(1, int(np.searchsorted(np.cumsum(beton.sizes[own]), max_bytes)))]


def touch(beton: Beton, places: np.ndarray) -> None:
    """Read these samples into the page cache."""
    with beton.unchanged:
        for place in places:
            payload = beton.payload(int(place))
            payload[::PAGE].max(initial=0)
            payload[-1:].max(initial=0)  # its last page, which those steps may miss
