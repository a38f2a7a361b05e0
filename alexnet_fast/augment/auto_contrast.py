"""AutoContrast: each channel stretched to 0 to 255."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernel_cache import kernel
from .augmentation import Augmentation
from .point_operations import auto_contrast_image


@dataclass(frozen=True)
class AutoContrast(Augmentation):
    """Stretches each channel so that its least value becomes 0 and its largest 255; a channel that is all alike stays.

    Reference: torchvision.transforms.v2.RandomAutocontrast, to one level: it divides in float32, this to the exact quotient rounded down.

    Args:
        p: probability that an image is changed; by name only.
    """

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomAutocontrast", {"p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        auto_contrast(images, chosen)


@kernel
def auto_contrast(images, chosen):
    """Stretch the channels of images[chosen]."""
    for place in chosen:
        auto_contrast_image(images[place])
