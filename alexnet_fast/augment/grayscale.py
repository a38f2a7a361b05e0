"""Grayscale: the image without its colours, in three equal channels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernel_cache import kernel
from .augmentation import Augmentation
from .point_operations import grey_image


@dataclass(frozen=True)
class Grayscale(Augmentation):
    """Replaces each pixel by its grey, 0.2989 red + 0.587 green + 0.114 blue, in all three channels.

    Reference: torchvision.transforms.v2.RandomGrayscale, to one level.

    Args:
        p: probability that an image is changed; by name only.
    """

    p: float = field(default=0.1, kw_only=True)

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "RandomGrayscale", {"p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        grayscale(images, chosen)


@kernel
def grayscale(images, chosen):
    """Take the colours from images[chosen]."""
    for place in chosen:
        grey_image(images[place])
