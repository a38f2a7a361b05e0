"""Solarize: bright pixels inverted, as RandAugment and AutoAugment do it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..common.arguments import number, set_checked
from ..kernel_cache import kernel
from .augmentation import Augmentation


@dataclass(frozen=True)
class Solarize(Augmentation):
    """Inverts each channel's values at or above ``threshold``: value -> 255 - value.

    Reference: torchvision.transforms.v2.RandomSolarize, Pillow's ImageOps.solarize.

    Args:
        threshold: 0 to 255; 0 inverts everything.
        p: probability that an image is changed; by name only.
    """

    threshold: float = 128.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_checked(
            self, threshold=number("Solarize.threshold", self.threshold, "0 to 255", lambda t: 0 <= t <= 255)
        )

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        solarize(images, chosen, np.uint8(math.ceil(self.threshold)))


@kernel
def solarize(images, chosen, threshold):
    """Invert the values at or above ``threshold`` (uint8) of images[chosen]."""
    for place in chosen:
        image = images[place].reshape(-1)
        for at in range(len(image)):
            value = image[at]
            image[at] = value if value < threshold else 255 - value
