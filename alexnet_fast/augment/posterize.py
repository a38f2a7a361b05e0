"""Posterize: fewer bits for each value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import set_checked
from ..kernel_cache import kernel
from .augmentation import Augmentation, whole_in
from .point_operations import posterize_image


@dataclass(frozen=True)
class Posterize(Augmentation):
    """Keeps the upper ``bits`` bits of each value, and sets the others to 0.

    Reference: torchvision.transforms.v2.RandomPosterize, to the bit.

    Args:
        bits: 0 to 8; 8 changes nothing.
        p: probability that an image is changed; by name only.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        set_checked(self, bits=whole_in(self, "bits", 0, 8))

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomPosterize", {"bits": self.bits, "p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        posterize(images, chosen, self.bits)


@kernel
def posterize(images, chosen, bits):
    """Keep the upper bits of images[chosen]."""
    for place in chosen:
        posterize_image(images[place], bits)
