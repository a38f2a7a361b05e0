"""Which samples go into which batch, and where each batch goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from ..beton.reader import Beton
from ..common.untrusted import printable
from ..errors import UserError
from .buffer_pool import BufferPool
from .decode_workers import BatchTask
from .read_ahead import ReadAhead
from .sampler import DistributedBatchSampler, epoch_permutation


class Planner:
    """Which samples go into which batch, from any point on and for ever."""

    def __init__(
        self,
        beton: Beton,
        samples: np.ndarray,
        share: DistributedBatchSampler,
        ring: BufferPool,
        read_ahead: ReadAhead,
        seed: int,
        shuffle: bool,
    ) -> None:
        self._beton, self._samples, self._share, self._ring = beton, samples, share, ring
        self._read_ahead, self._seed, self._shuffle = read_ahead, seed, shuffle
        self._sorted: dict[int, np.ndarray] = {}  # epoch -> its order, made before it is needed

    def jobs(self, epoch: int, step: int) -> Iterator[BatchTask]:
        """The batches from ``step`` of ``epoch`` on, without end; the threads run on into the next epoch while this one is consumed."""
        for key, samples in self._read_ahead.ahead_of(self._batches(epoch, step)):
            slot = self._ring.take()
            slot.labels[: len(samples)] = self._beton.labels[samples["index"]]
            yield BatchTask(key, samples, slot)

    def _batches(self, epoch: int, step: int) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        while self._share.steps:  # a rank may have no share of a small evaluation
            order = self._order(epoch)
            for at in range(step, self._share.steps):
                begin, end = self._share.positions(at)
                yield (epoch, at), self._samples[order[begin:end]]
            epoch, step = epoch + 1, 0

    def _order(self, epoch: int) -> np.ndarray:
        """The order of an epoch; the next one's is sorted meanwhile (0.15 s for 1.28 million samples)."""
        if not self._shuffle:
            return np.arange(len(self._samples))
        order = self._sorted.pop(epoch, None)
        self._sorted.clear()
        self._read_ahead.do(partial(self._sort, epoch + 1))
        return epoch_permutation(len(self._samples), self._seed, epoch) if order is None else order

    def _sort(self, epoch: int) -> None:
        self._sorted[epoch] = epoch_permutation(len(self._samples), self._seed, epoch)


def check_indices(indices: Sequence[int] | np.ndarray, beton: Beton) -> np.ndarray:
    """The places of samples in the file, (n,) int64; UserError where one is none, or there are none."""
    try:
        places = np.asarray(indices)
    except (TypeError, ValueError) as error:  # lists of several lengths, a tensor on a card
        raise UserError(
            f"indices is no array: {printable(str(error))}; expected a list of whole numbers"
        ) from None
    if places.ndim != 1 or (len(places) and places.dtype.kind not in "iu"):
        mask = "; numpy.flatnonzero(mask) makes one of a mask" if places.dtype.kind == "b" else ""
        raise UserError(
            f"indices is of type {type(indices).__name__}, to numpy {places.dtype} of shape {places.shape}, expected a list "
            f"of whole numbers{mask}"
        )
    if len(places) == 0:
        raise UserError("indices is empty, expected at least one sample's place in the file")
    wrong = places[(places < 0) | (places >= beton.num_samples)]
    if len(wrong):
        raise UserError(
            f"indices holds {wrong[0]}, but {beton.path} has samples 0 to {beton.num_samples - 1}: leave it out"
        )
    return places.astype(np.int64)
