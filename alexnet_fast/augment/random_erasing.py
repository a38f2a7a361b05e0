"""RandomErasing: a rectangle filled with one colour, or with noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..common.arguments import crop_ratio, crop_scale, set_checked
from ..decode.counter_rng import GOLDEN, mix, uniform
from ..kernel_cache import kernel
from .augmentation import Augmentation, Colour, colour_bytes, colour_of

TRIES = 10  # as torchvision's
U, U64 = np.uintp, np.uint64


@dataclass(frozen=True)
class RandomErasing(Augmentation):
    """Fills a random rectangle (Zhong et al., "Random erasing data augmentation", AAAI 2020).

    Reference: torchvision.transforms.v2.RandomErasing; the rectangle is drawn as it draws it.

    Args:
        scale: (least, most) share of the image's area.
        ratio: (least, most) height / width, drawn uniformly in its logarithm.
        value: 0 to 255, or one for each channel, or "random": every value of the rectangle is drawn by itself, uniformly.
        p: probability that an image is changed; by name only.
    """

    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: Colour | Literal["random"] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_checked(
            self,
            scale=crop_scale("RandomErasing.scale", self.scale),
            ratio=crop_ratio("RandomErasing.ratio", self.ratio),
        )
        if not (isinstance(self.value, str) and self.value == "random"):
            set_checked(self, value=colour_of(self, "value"))

    def reference(self) -> tuple[str, dict[str, Any]]:
        value = self.value if isinstance(self.value, (str, tuple)) else (self.value,)
        return "RandomErasing", {"scale": self.scale, "ratio": self.ratio, "value": value, "p": 1.0}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        is_noise = self.value == "random"
        colour = colour_bytes(0.0 if self.value == "random" else self.value)
        erase(images, chosen, keys, self.scale, self.ratio, is_noise, colour)


@kernel
def draw_rectangle(key, sides, scale, ratio):
    """(top, left, height, width) in pixels; a height of 0 where no rectangle fitted. Draws 0 to 39 of the key.

    sides: the image's (height, width).
    """
    log_least, log_most = math.log(ratio[0]), math.log(ratio[1])
    for k in range(0, 4 * TRIES, 4):
        area = sides[0] * sides[1] * (scale[0] + (scale[1] - scale[0]) * uniform(key, k))
        aspect = math.exp(log_least + (log_most - log_least) * uniform(key, k + 1))
        height = int(round(math.sqrt(area * aspect)))
        width = int(round(math.sqrt(area / aspect)))
        if height < sides[0] and width < sides[1]:
            top = int(uniform(key, k + 2) * (sides[0] - height + 1))
            left = int(uniform(key, k + 3) * (sides[1] - width + 1))
            return top, left, height, width
    return 0, 0, 0, 0


@kernel
def erase(images, chosen, keys, scale, ratio, is_noise, colour):
    """Fill a rectangle of each of images[chosen]; colour: (3,) uint8."""
    sides = images.shape[2], images.shape[3]
    for k in range(len(chosen)):
        top, left, height, width = draw_rectangle(keys[k], sides, scale, ratio)
        noise = mix(keys[k] ^ GOLDEN)
        for channel in range(3):
            for y in range(top, top + height):
                row = images[chosen[k], channel, y, left : left + width]
                if not is_noise:
                    row[:] = colour[channel]
                    continue
                bits = U64(0)
                for x in range(U(width)):
                    if x % U(8) == U(0):
                        noise += GOLDEN
                        bits = mix(noise)
                    row[x] = np.uint8(bits & U64(255))
                    bits >>= U64(8)
