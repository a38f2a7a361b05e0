"""The block order: pages of the file in a shuffled order, and samples shuffled within a window of pages.

    file order     page 0   page 1   page 2   page 3   page 4   page 5      whose samples lie side by side
    shuffled       page 4   page 1 | page 0   page 5 | page 3   page 2      another order in each epoch
    windows        ---- window 0 --|---- window 1 ---|---- window 2 --      here of 2 pages
    samples        a permutation of window 0's, then one of window 1's ...

A window is read in a few large requests before it begins, so that a disk is read at its sequential rate, and no more than about
two windows need to be in memory.  FFCV calls its kind QUASI_RANDOM; others shuffle within a buffer while they read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..common.arguments import set_checked, whole
from .sampler import epoch_keys

SALT = 0x626C6F636B  # "block": keeps these keys apart from the crops' and the other orders' of the same seed
PAGE_SALT = SALT ^ 0x70616765 << 32  # "page"


@dataclass(frozen=True)
class Block:
    """Pages of the file in a shuffled order, samples shuffled within a window of pages: for sets that do not fit in memory.

    Every sample comes once an epoch.  The order depends on the seed, the epoch, and where the samples lie in the file.

    Args:
        window_pages: pages of a window, at most; a set has windows of equal size.  About two windows are in memory at a time:
            2 GiB at the default and the usual page of 8 MiB.  A larger window mixes better: a batch has samples of so many pages.

    Raises:
        UserError: not at least 1.
    """

    window_pages: int = 128

    def __post_init__(self) -> None:
        set_checked(
            self,
            window_pages=whole("Block.window_pages", self.window_pages, "at least 1", lambda n: n >= 1),
        )


def block_permutation(
    pages: np.ndarray, window_pages: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """The order of one epoch's samples, and where its windows begin.

    Args:
        pages: (n,) int64, of each sample the page that holds it, counted from 0 without gaps.
        window_pages: pages of a window, at most.

    Returns:
        (n,) int64, a permutation of 0..n-1; and (windows + 1,) int64, the position at which each window begins, and n.
    """
    count = int(pages.max()) + 1
    windows = -(-count // window_pages)
    rank = np.empty(count, np.int64)
    rank[np.argsort(epoch_keys(count, seed ^ PAGE_SALT, epoch), kind="stable")] = np.arange(count)
    # As equal as can be: a last window of a single page would give batches of its neighbours alone.
    window = (rank * windows // count)[pages]
    places = np.lexsort((epoch_keys(len(pages), seed ^ SALT, epoch), window))
    return places, np.searchsorted(window[places], np.arange(windows + 1))
