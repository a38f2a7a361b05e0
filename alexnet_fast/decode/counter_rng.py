"""Random numbers without a state: pure functions of (seed, epoch, index, occurrence), so that neither threads nor a resume shift them.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014),
whose k-th number is ``mix(key + k * GOLDEN)``.
"""

from __future__ import annotations

import numpy as np

from ..kernel_cache import kernel

U64 = np.uint64
GOLDEN = U64(0x9E3779B97F4A7C15)


@kernel
def mix(z):
    """SplitMix64's finaliser: a bijection of uint64; each output bit depends on every input bit."""
    z = (z ^ (z >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> U64(27))) * U64(0x94D049BB133111EB)
    return z ^ (z >> U64(31))


@kernel
def sample_key(seed, epoch, index, occurrence):
    """The key of one sample's draws in one epoch: another for each (index, occurrence), both below 2^32.

    occurrence: 0 for the first copy of a sample, 1 for the second; the first has the key that it has without copies.
    """
    sample = U64(index) | (U64(occurrence) << U64(32))
    return mix((mix(mix(U64(seed) + GOLDEN) ^ U64(epoch)) + GOLDEN) ^ sample)


@kernel
def view_key(key, view):
    """The key of the draws of one of a sample's views; view 0 has the sample's own."""
    # mix(key) is no draw of the sample's: `uniform` begins at key + GOLDEN.
    return key if view == 0 else mix(mix(key) + U64(view))


@kernel
def uniform(key, k):
    """The k-th draw of a key: float64 in [0, 1), of 53 bits."""
    return (mix(key + U64(k + 1) * GOLDEN) >> U64(11)) * (1.0 / 9007199254740992.0)


def occurrences(indices: np.ndarray) -> np.ndarray:
    """Which copy of its sample each place of a list holds: 0 for the first, 1 for the second. (n,) -> (n,) int32.

    So a copy is known by its place in the list, in whatever order, rank, batch or thread it is met.
    A list of 1.28 million without repeats takes 10 ms; sorting one that has some, 0.16 s.
    """
    indices, copies = indices.astype(np.int64), np.zeros(len(indices), np.int32)
    if len(indices) == 0 or np.bincount(indices).max() == 1:
        return copies
    order = np.argsort(indices, kind="stable")
    in_order = indices[order]
    first = np.flatnonzero(np.diff(in_order, prepend=in_order[0] + 1))  # where the run of each sample begins
    copies[order] = np.arange(len(indices)) - np.repeat(first, np.diff(first, append=len(indices)))
    return copies
