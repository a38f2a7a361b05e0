"""Sharpness: sharper, or blurred, by a factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import set_checked
from ..kernel_cache import kernel
from .augmentation import Augmentation, number_in
from .neighbourhoods import scratch_bytes, sharpen_image
from .point_operations import MAX_FACTOR


@dataclass(frozen=True)
class Sharpness(Augmentation):
    """Moves each pixel away from (or towards) the mean of the 3 x 3 pixels around it, the middle one counted five times.

    Reference: torchvision.transforms.v2.RandomAdjustSharpness, to one level.

    Args:
        factor: 0 to 3.999; 0 is that mean, 1 changes nothing, 2 doubles the distance to it.  The outermost pixels stay.
        p: probability that an image is changed; by name only.
    """

    factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_checked(self, factor=number_in(self, "factor", 0, MAX_FACTOR))

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomAdjustSharpness", {"sharpness_factor": self.factor, "p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        sharpen(images, chosen, self.factor)


@kernel
def sharpen(images, chosen, factor):
    """Sharpen images[chosen] by one factor."""
    scratch = np.empty(scratch_bytes(images.shape[2], images.shape[3], 1), np.uint8)
    for place in chosen:
        sharpen_image(images[place], factor, scratch)
