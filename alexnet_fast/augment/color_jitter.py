"""ColorJitter: brightness, contrast, saturation and hue, in a random order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.arguments import set_checked
from ..decode.counter_rng import uniform
from ..kernel_cache import kernel
from .augmentation import Augmentation, range_about
from .point_operations import MAX_FACTOR, brighten_image, contrast_image, saturate_image, shift_hue_image

Amount = float | tuple[float, float]
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue by amounts that are drawn for each image, in an order that is drawn too.

    Reference: torchvision.transforms.v2.ColorJitter, each of the four to one level (saturation beyond a factor of 2: to the factor's distance from 1).

    Args:
        brightness, contrast, saturation: the factor's (least, most), 0 to 3.999; or one number, how far it is from 1 at most.
        hue: (least, most) turn of the colour circle, -0.5 to 0.5; or one number, how far it is from 0 at most.
        p: probability that an image is changed; by name only.
    """

    brightness: Amount = 0.4
    contrast: Amount = 0.4
    saturation: Amount = 0.4
    hue: Amount = 0.1
    p: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = {
            name: range_about(self, name, 1.0, 0.0, MAX_FACTOR)
            for name in ("brightness", "contrast", "saturation")
        }
        set_checked(self, **factors, hue=range_about(self, "hue", 0.0, -0.5, 0.5))

    def reference(self) -> tuple[str, dict[str, Any]]:
        names = ("brightness", "contrast", "saturation", "hue")
        return "ColorJitter", {name: getattr(self, name) for name in names}

    @property
    def ranges(self) -> np.ndarray:
        """(4, 2) float64: least and most of each amount, in the order of the parameters."""
        return np.array((self.brightness, self.contrast, self.saturation, self.hue), np.float64)

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        jitter(images, chosen, keys, self.ranges)


@kernel
def draw_jitter(key, ranges, amounts, order):
    """The four amounts, (4,) float64, out, and the order of the four, (4,) int64, out. Draws 0 to 6 of the key."""
    for kind in range(4):
        amounts[kind] = ranges[kind, 0] + (ranges[kind, 1] - ranges[kind, 0]) * uniform(key, kind)
        order[kind] = kind
    for last in range(3, 0, -1):
        other = int(uniform(key, 3 + last) * (last + 1))
        order[last], order[other] = order[other], order[last]


@kernel
def jitter(images, chosen, keys, ranges):
    """Jitter images[chosen]; ranges: (4, 2) float64."""
    amounts, order = np.empty(4, np.float64), np.empty(4, np.int64)
    for k in range(len(chosen)):
        image = images[chosen[k]]
        draw_jitter(keys[k], ranges, amounts, order)
        for kind in order:
            if amounts[kind] == (0.0 if kind == HUE else 1.0):
                continue
            if kind == BRIGHTNESS:
                brighten_image(image, amounts[kind])
            elif kind == CONTRAST:
                contrast_image(image, amounts[kind])
            elif kind == SATURATION:
                saturate_image(image, amounts[kind])
            else:
                shift_hue_image(image, amounts[kind])
