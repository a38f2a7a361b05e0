"""Affine: rotated, moved, scaled and sheared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.arguments import choice, set_checked
from ..decode.counter_rng import uniform
from ..kernel_cache import kernel
from .augmentation import (
    INTERPOLATIONS,
    Augmentation,
    Colour,
    colour_bytes,
    colour_of,
    is_smooth,
    range_about,
    range_in,
    two_in,
)
from .geometry import inverse_affine, map_image, map_image_smoothly, map_scratch_bytes

Amount = float | tuple[float, float]


@dataclass(frozen=True)
class Affine(Augmentation):
    """Rotates, moves, scales and shears about the image's centre, by amounts that are drawn for each image.

    Reference: torchvision.transforms.v2.RandomAffine; nearest pixels to the bit but for a few in a million that lie between two,
    bilinear ones to two levels (a fill that is not 0 is blended in at the edges here, and twice so there).

    Args:
        degrees: (least, most) angle, -180 to 180, clockwise; or one number, the most in both directions.
        translate: the most that it moves (across, down), as shares of the width and the height; rounded to whole pixels.
        scale: (least, most) factor, 0.1 to 10.
        shear_x, shear_y: (least, most) angle of the lean, -80 to 80 degrees; or one number, the most in both directions.
        fill: 0 to 255, or one for each channel: of pixels from outside of the image.
        interpolation: "nearest" or "bilinear".
        p: probability that an image is changed; by name only.
    """

    degrees: Amount = 15.0
    translate: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shear_x: Amount = 0.0
    shear_y: Amount = 0.0
    fill: Colour = 0.0
    interpolation: str = "nearest"
    p: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("Affine.interpolation", self.interpolation, INTERPOLATIONS)
        set_checked(
            self,
            degrees=range_about(self, "degrees", 0.0, -180.0, 180.0),
            translate=two_in(self, "translate", 0.0, 1.0),
            scale=range_in(self, "scale", 0.1, 10.0),
            shear_x=range_about(self, "shear_x", 0.0, -80.0, 80.0),
            shear_y=range_about(self, "shear_y", 0.0, -80.0, 80.0),
            fill=colour_of(self, "fill"),
        )

    def reference(self) -> tuple[str, dict[str, Any]]:
        shear = (*self.shear_x, *self.shear_y)  # type: ignore[misc]
        return "RandomAffine", {
            "degrees": self.degrees,
            "translate": self.translate,
            "scale": self.scale,
            "shear": shear,
            "fill": self.fill,
            "interpolation": self.interpolation,
        }

    @property
    def ranges(self) -> np.ndarray:
        """(6, 2) float64: least and most of angle, share across, share down, scale, shear across, shear down."""
        moves = ((-share, share) for share in self.translate)
        return np.array((self.degrees, *moves, self.scale, self.shear_x, self.shear_y), np.float64)

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        transform(images, chosen, keys, self.ranges, colour_bytes(self.fill), is_smooth(self))


@kernel
def draw_affine(key, height, width, ranges):
    """(angle in degrees, pixels across, pixels down, scale, shear across and down in degrees). Draws 0 to 5 of the key."""
    drawn = np.empty(6, np.float64)
    for k in range(6):
        drawn[k] = ranges[k, 0] + (ranges[k, 1] - ranges[k, 0]) * uniform(key, k)
    return drawn[0], round(drawn[1] * width), round(drawn[2] * height), drawn[3], drawn[4], drawn[5]


@kernel
def transform(images, chosen, keys, ranges, fill, smooth):
    """Transform images[chosen]; ranges: (6, 2) float64, fill: (3,) uint8, smooth: bilinear."""
    height, width = images.shape[2], images.shape[3]
    scratch = np.empty(map_scratch_bytes(height, width), np.uint8)
    for k in range(len(chosen)):
        angle, across, down, scale, lean_x, lean_y = draw_affine(keys[k], height, width, ranges)
        matrix = inverse_affine(angle, across, down, scale, lean_x, lean_y, 0.0, 0.0)
        if smooth:
            map_image_smoothly(images[chosen[k]], matrix, fill, scratch)
        else:
            map_image(images[chosen[k]], matrix, fill, scratch)
