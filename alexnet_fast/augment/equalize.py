"""Equalize: each channel's histogram made flat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernel_cache import kernel
from .augmentation import Augmentation
from .point_operations import equalize_image


@dataclass(frozen=True)
class Equalize(Augmentation):
    """Equalises each channel's histogram, as Pillow's ImageOps.equalize does.

    Reference: torchvision.transforms.v2.RandomEqualize, to the bit.

    Args:
        p: probability that an image is changed; by name only.
    """

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomEqualize", {"p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        equalize(images, chosen)


@kernel
def equalize(images, chosen):
    """Equalise the channels of images[chosen]."""
    for place in chosen:
        equalize_image(images[place])
