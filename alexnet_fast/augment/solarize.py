"""Solarize: bright pixels inverted, as RandAugment and AutoAugment do it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import set_checked
from ..kernel_cache import kernel
from .augmentation import Augmentation, number_in
from .point_operations import solarize_image


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
        set_checked(self, threshold=number_in(self, "threshold", 0, 255))

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomSolarize", {"threshold": self.threshold, "p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        solarize(images, chosen, math.ceil(self.threshold))


@kernel
def solarize(images, chosen, threshold):
    """Invert the values at or above ``threshold`` (int) of images[chosen]."""
    for place in chosen:
        solarize_image(images[place], threshold)
