"""The quantised DCT coefficients of a JPEG, where libturbojpeg is available to read them."""

from __future__ import annotations

import numpy as np

import components
from alexnet_fast.inspection import coefficients as read
from alexnet_fast.inspection.coefficients import geometry

__all__ = ["coefficients", "geometry", "same_coefficients"]


def coefficients(jpeg: bytes) -> list[np.ndarray]:
    """Per component: (rows of blocks, blocks per row, 64) int16; skips without libturbojpeg."""
    components.require("turbojpeg")
    return read.coefficients(jpeg)


def same_coefficients(one: bytes, other: bytes) -> bool:
    """Whether two JPEGs hold the same image; skips without libturbojpeg."""
    components.require("turbojpeg")
    return read.same_coefficients(one, other)
