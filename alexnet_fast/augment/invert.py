"""Invert: every value becomes 255 minus itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernel_cache import kernel
from .augmentation import Augmentation
from .point_operations import invert_image


@dataclass(frozen=True)
class Invert(Augmentation):
    """Inverts every value: value -> 255 - value.

    Reference: torchvision.transforms.v2.RandomInvert, to the bit.

    Args:
        p: probability that an image is changed; by name only.
    """

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomInvert", {"p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        invert(images, chosen)


@kernel
def invert(images, chosen):
    """Invert images[chosen]."""
    for place in chosen:
        invert_image(images[place])
