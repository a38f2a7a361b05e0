"""GaussianBlur: a blur of a random width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import check, set_checked, whole
from ..decode.counter_rng import uniform
from ..kernel_cache import kernel
from .augmentation import Augmentation, range_in
from .neighbourhoods import MAX_RADIUS, blur_image, scratch_bytes


@dataclass(frozen=True)
class GaussianBlur(Augmentation):
    """Blurs by a Gaussian whose standard deviation is drawn for each image.

    Reference: torchvision.transforms.v2.GaussianBlur, to one level.

    Args:
        kernel_size: pixels of the filter's side, odd, 3 to 129; in an image that is too small to be mirrored so far, fewer.
        sigma: (least, most) standard deviation in pixels, or one number.
        p: probability that an image is changed; by name only.
    """

    kernel_size: int = 23
    sigma: tuple[float, float] | float = (0.1, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 2 * MAX_RADIUS + 1
        size = whole(
            "GaussianBlur.kernel_size",
            self.kernel_size,
            f"an odd one, 3 to {most}",
            lambda n: 3 <= n <= most and n % 2 == 1,
        )
        if not isinstance(self.sigma, (tuple, list, np.ndarray)):
            set_checked(self, sigma=(self.sigma, self.sigma))
        sigma = range_in(self, "sigma", 0, 100)
        check("GaussianBlur.sigma", self.sigma, "more than 0", sigma[0] > 0)
        set_checked(self, kernel_size=size, sigma=sigma)

    def reference(self) -> tuple[str, dict[str, Any]]:
        return "GaussianBlur", {"kernel_size": self.kernel_size, "sigma": self.sigma}

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        blur(images, chosen, keys, self.kernel_size // 2, self.sigma)


@kernel
def draw_sigma(key, sigma):
    """The standard deviation of one image, in pixels."""
    return sigma[0] + (sigma[1] - sigma[0]) * uniform(key, 0)


@kernel
def blur(images, chosen, keys, radius, sigma):
    """Blur images[chosen]; sigma: (least, most)."""
    height, width = images.shape[2], images.shape[3]
    radius = min(radius, height - 1, width - 1)
    scratch = np.empty(scratch_bytes(height, width, radius), np.uint8)
    for k in range(len(chosen)):
        blur_image(images[chosen[k]], radius, draw_sigma(keys[k], sigma), scratch)
