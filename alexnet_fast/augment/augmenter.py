"""Applies a loader's augmentations to chunks of decoded images, and draws for each image which of them it gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..decode.counter_rng import GOLDEN, mix, sample_key, uniform, view_key
from ..decode.status import OK
from ..kernel_cache import kernel
from .augmentation import Augmentation

if TYPE_CHECKING:
    from .mix import Mix

U64 = np.uint64
SALT = 0x6175676D656E74  # "augment": keeps these keys apart from the crops' and the order's of the same seed


@kernel
def draw(samples, statuses, seed, epoch, view, p, chosen, keys):
    """Draw which images each augmentation changes, and the keys of its own random numbers.

    Args:
        samples: (n,) kernel.SAMPLE_DTYPE.
        statuses: (n,) uint8; a sample that is not OK is never chosen.
        view: which of the samples' views the images are, int64.
        p: (m,) float64, the probability of each augmentation.
        chosen: (m, n) bool, out.
        keys: (m, n) uint64, out.
    """
    for q in range(len(samples)):
        sample = view_key(sample_key(seed, epoch, samples[q].index, samples[q].occurrence), view)
        for place in range(len(p)):
            key = mix((sample + GOLDEN) ^ U64(place))
            chosen[place, q] = statuses[q] == OK and uniform(key, 0) < p[place]
            # Another key: draw 0 of this one is known to be small where the image is chosen.
            keys[place, q] = mix(key)


class Augmenter:
    """A loader's augmentations, applied in their order.  It has no state, so one serves any number of threads.

    What an image gets is a function of (seed, epoch, index, occurrence, view) and of the augmentation's place in the list: the same
    for any threads, ranks, batch size and resume.

    Args:
        augmentations: may be empty.
        seed: 0 to 2^64 - 1.
        mix: what is done to a batch when all of its images are complete; None = nothing.
    """

    def __init__(self, augmentations: Sequence[Augmentation], seed: int, mix: Mix | None = None) -> None:
        self._augmentations = tuple(augmentations)
        self._mix, self._mix_seed = mix, seed
        self._seed = U64(seed ^ SALT)
        self._p = np.array([each.p for each in self._augmentations], np.float64)

    def apply(
        self,
        samples: np.ndarray,
        epoch: int,
        images: np.ndarray,
        statuses: np.ndarray,
        places: np.ndarray,
    ) -> None:
        """Change some images of a batch in place.

        Args:
            samples: (n,) kernel.SAMPLE_DTYPE.
            images: (n, 3, height, width) uint8, or (views, n, 3, height, width).
            statuses: (n,) uint8; an image that is not OK is not touched.
            places: (m,) int64, those that are changed.
        """
        if not self._augmentations:
            return
        shape = (len(self._augmentations), len(places))
        chosen, keys = np.empty(shape, np.bool_), np.empty(shape, U64)
        samples, statuses = samples[places], statuses[places]
        for view, of_view in enumerate(_each_view(images)):
            draw(samples, statuses, self._seed, U64(epoch), view, self._p, chosen, keys)
            for augmentation, is_chosen, own in zip(self._augmentations, chosen, keys):
                augmentation.apply(of_view, places[is_chosen], own[is_chosen])

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed."""
        return self._mix is not None

    def mix(self, samples: np.ndarray, epoch: int, images: np.ndarray, statuses: np.ndarray) -> float:
        """Mix a complete batch in place; returns the share of each image's own label, 1 where nothing is mixed.

        Args:
            samples: (n,) kernel.SAMPLE_DTYPE.
            images: (n, 3, height, width) uint8 at least, or (views, n, 3, height, width), which are all mixed alike.
            statuses: (n,) uint8; an image that is not OK is neither touched nor read.
        """
        if self._mix is None:
            return 1.0
        # The draws are the batch's: each view gets the same partners, share and rectangle, so that one label is right for all.
        shares = [
            self._mix.apply(samples, self._mix_seed, epoch, of_view, statuses)
            for of_view in _each_view(images)
        ]
        return shares[0]

    def load(self, samples_dtype: np.dtype) -> None:
        """Load the kernels, or compile them: the threads' own way with no sample at all."""
        nothing = np.empty(0, samples_dtype)
        images, statuses = np.empty((0, 3, 1, 1), np.uint8), np.empty(0, np.uint8)
        self.apply(nothing, 0, images, statuses, np.empty(0, np.int64))
        self.mix(nothing, 0, images, statuses)


def _each_view(images: np.ndarray) -> np.ndarray:
    """Images, or views of them, as (views, n, 3, height, width)."""
    return images if images.ndim == 5 else images[None]
