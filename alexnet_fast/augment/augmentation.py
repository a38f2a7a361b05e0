"""What an augmentation is: its parameters, checked once, and one call of a kernel for a chunk of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ..common.arguments import instances, probability, set_checked

EXPECTED = "a list of the operations of alexnet_fast.augment, such as [Solarize(128, p=0.2)]"


@dataclass(frozen=True, kw_only=True)
class Augmentation(ABC):
    """Base of every operation: a frozen dataclass of its parameters, which it checks in ``__post_init__``.

    It has no state and draws nothing by itself: its random numbers are functions of the keys that it is given.  A base class
    and no Protocol, since transforms of torchvision and albumentations also have a ``p`` and an ``apply``, and mean something else.

    Args:
        p: probability that an image is changed.

    Raises:
        UserError: a parameter out of range or of a wrong type.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        set_checked(self, p=probability(f"{type(self).__name__}.p", self.p))

    @abstractmethod
    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        """Change the chosen images in place, by one call of a kernel, so that the thread asks for the GIL once.

        Args:
            images: (n, 3, size, size) uint8, RGB, C-contiguous.
            chosen: (m,) int64, the places in ``images`` of those to change.  ``p`` is drawn already, and none of them is broken.
            keys: (m,) uint64, a key for each of them: ``counter_rng.uniform(key, k)``, for k from 0 on, are its random numbers.
        """


def augmentations_of(name: str, given: object) -> tuple[Augmentation, ...]:
    """A list of augmentations, as a tuple; UserError for anything else."""
    return instances(name, given, Augmentation, EXPECTED)  # type: ignore[type-abstract]
