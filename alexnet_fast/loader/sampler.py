"""The order of an epoch's samples, (seed, epoch, position) -> sample, and which positions a rank takes at each step.

    position   0 1 2 3   4 5 6 7   8 9 10 11   12 13 14
               |rank 0 | rank 1 |  rank 0 |   rank 1 ...      batch_size 4, 2 ranks
               |----- step 0 ---|------ step 1 --------|

All are pure functions, so a resume costs nothing and ranks agree without communication.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..decode.counter_rng import sample_key
from ..kernel_cache import kernel

SALT = 0x6F72646572  # "order": keeps the order's keys apart from the crops' of the same seed


@kernel
def _fill_keys(seed, epoch, keys):
    for index in range(len(keys)):
        keys[index] = sample_key(seed, epoch, index, 0)


def epoch_permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch's samples: a permutation of 0..N-1. (N,) int64.

    The samples sorted by a 64-bit hash of (seed, epoch, index): unlike numpy's shuffle it is the
    same with every version of every library.
    """
    return np.argsort(epoch_keys(num_samples, seed ^ SALT, epoch), kind="stable")


def epoch_keys(count: int, seed: int, epoch: int) -> np.ndarray:
    """A 64-bit hash of (seed, epoch, position) for each position. (count,) uint64."""
    keys = np.empty(count, np.uint64)
    _fill_keys(np.uint64(seed), np.uint64(epoch), keys)
    return keys


@dataclass(frozen=True)
class DistributedBatchSampler:
    """The positions of an epoch that one rank takes.

    Attributes:
        batch_size: samples a step on each rank; those of a last, incomplete step are divided evenly.
        drop_last: skip the rest that does not fill a step of all ranks.
        first: the position at which step 0 begins: not 0 in an epoch that is resumed in the middle of a step.
    """

    num_samples: int
    batch_size: int
    rank: int
    world_size: int
    drop_last: bool
    first: int = 0

    @property
    def global_batch_size(self) -> int:
        """Samples of a full step, over all ranks."""
        return self.batch_size * self.world_size

    @property
    def steps(self) -> int:
        """Steps of an epoch that have samples for this rank."""
        full, rest = divmod(self.num_samples - self.first, self.global_batch_size)
        return full + (not self.drop_last and rest > self.rank)

    @property
    def dropped(self) -> int:
        """Samples of an epoch that no rank sees."""
        return (self.num_samples - self.first) % self.global_batch_size if self.drop_last else 0

    def positions(self, step: int) -> tuple[int, int]:
        """The positions [begin, end) of this rank's batch at ``step``."""
        begin = self.first + step * self.global_batch_size
        count = min(self.global_batch_size, self.num_samples - begin)
        each, extra = divmod(count, self.world_size)
        first = begin + self.rank * each + min(self.rank, extra)
        return first, first + each + (self.rank < extra)
