"""Synthetic images that cost as much to store and to decode as ImageNet's: noise with the same spectrum, sizes and JPEG lengths.

The amplitudes of natural images fall approximately as 1 / frequency, and some places have much detail and others none
(D. L. Ruderman, "The statistics of natural images", 1994).  The figures below imitate both.  They were found by comparison
with 1,000 ImageNet images packed at 500 px and quality 90: mean and spread of the bytes per pixel, nonzero coefficients of
luma and chroma, and the decoder's times (tools/bench_kernels.py).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..packing.encode import Encoding, encode_jpeg

FIELD_PX = 1024  # side of the noise fields from which images are cut
LONGEST_PX, SHORTEST_PX = 500, 100
FULL_SIZE, LANDSCAPE = 0.82, 0.71  # shares of images: with a longest side of 500 px; wider than high
SHAPES = (
    (3 / 4, 0.42),
    (2 / 3, 0.27),
    (1.0, 0.04),
)  # (shorter side / longer side, its share); for the rest it is
NARROWEST = 0.5  # to 1, uniformly
FALLING = 1.2  # exponent with which amplitudes fall, for light and hues
FALLING_PATCHES = 1.5  # the same for patches
CONTRAST, CONTRAST_SPREAD = 19.0, 0.53  # median in levels of 255, and standard deviation of its logarithm
HUES = 0.27  # contrast of the chroma planes over that of the luma plane


class Fields(NamedTuple):
    """The noise fields from which all images are cut: (FIELD_PX, FIELD_PX) float32 each, mean 0, standard deviation 1.

    Only ``patches`` differs: it is the amount of detail at a place, about 1.
    """

    light: np.ndarray
    patches: np.ndarray
    blue: np.ndarray
    red: np.ndarray


def synthetic_image(index: int) -> Image.Image:
    """Image ``index``: YCbCr, longest side at most 500 px.  The same version of numpy makes the same pixels."""
    rng = np.random.default_rng([1, index])
    width, height = draw_size(rng)
    light, patches, blue, red = (cut(rng, field, width, height) for field in fields())
    contrast = CONTRAST * np.exp(CONTRAST_SPREAD * rng.standard_normal(dtype=np.float32))
    planes = (
        rng.integers(90, 150) + contrast * light * patches,
        128 + contrast * HUES * blue,
        128 + contrast * HUES * red,
    )
    return Image.merge("YCbCr", [Image.fromarray(plane.clip(0, 255).astype(np.uint8)) for plane in planes])


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in pixels, distributed as ImageNet's after packing with a longest side of 500 px."""
    longest = LONGEST_PX if rng.random() < FULL_SIZE else int(rng.integers(SHORTEST_PX, LONGEST_PX))
    ratio, drawn = rng.uniform(NARROWEST, 1.0), rng.random()
    for shape, share in SHAPES:
        if 0 <= drawn < share:
            ratio = shape
        drawn -= share
    shorter = round(longest * ratio)
    return (longest, shorter) if rng.random() < LANDSCAPE else (shorter, longest)


def cut(rng: np.random.Generator, field: np.ndarray, width: int, height: int) -> np.ndarray:
    """A random part of a field, randomly mirrored and transposed. (height, width) float32"""
    if rng.random() < 0.5:
        field = field.T
    field = field[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    top, left = rng.integers(FIELD_PX - height, endpoint=True), rng.integers(FIELD_PX - width, endpoint=True)
    return field[top : top + height, left : left + width]


@cache
def fields() -> Fields:
    """The noise fields; computed once per process, in a fourth of a second."""
    rng = np.random.default_rng(0)
    light, patches = noise(rng, FALLING), noise(rng, FALLING_PATCHES)
    return Fields(light, np.exp(patches), noise(rng, FALLING), noise(rng, FALLING))


def noise(rng: np.random.Generator, falling: float) -> np.ndarray:
    """White noise with amplitudes scaled by 1 / frequency ** falling, standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(FIELD_PX)[:, None], np.fft.rfftfreq(FIELD_PX)[None, :])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((FIELD_PX, FIELD_PX))) / frequency**falling)
    return (field / field.std()).astype(np.float32)


def encoded(index: int) -> tuple[bytes, int, int]:
    """Image ``index`` as the packer stores it by default: the JPEG, its width and its height in pixels."""
    image = synthetic_image(index)
    return encode_jpeg(image, Encoding()), image.width, image.height
