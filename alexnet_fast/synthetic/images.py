"""Made-up photos that cost as much to store and to decode as ImageNet's: noise of the same spectrum, sizes and JPEG lengths.

The amplitudes of natural scenes fall as about 1 / frequency, and their detail is rich in one place and absent in the next
(D. L. Ruderman, "The statistics of natural images", 1994).  The figures below imitate both, and were found by comparing
with 1,000 ImageNet photos packed at 500 px and quality 90: mean and spread of the bytes a pixel, coefficients that are
not zero in luma and chroma, and the decoder's times (tools/bench_kernels.py).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..packing.encode import Encoding, encode_jpeg

FIELD_PX = 1024  # side of the fields of which photos are cut
LONGEST_PX, SHORTEST_PX = 500, 100
FULL_SIZE, LANDSCAPE = 0.82, 0.71  # shares: longest side of 500 px; wider than high
SHAPES = ((3 / 4, 0.42), (2 / 3, 0.27), (1.0, 0.04))  # shorter side over longer, and its share; the rest:
NARROWEST = 0.5  # to 1, evenly
FALLING = 1.2  # exponents of the amplitudes' fall, of light and hues
FALLING_PATCHES = 1.5
CONTRAST, CONTRAST_SPREAD = 19.0, 0.53  # median in levels of 255, and standard deviation of its logarithm
HUES = 0.27  # contrast of the chroma planes over that of the luma plane


class Fields(NamedTuple):
    """What all photos of a series are cut from: (FIELD_PX, FIELD_PX) float32 each, mean 0, standard deviation 1 but for
    ``patches``, which say how rich in detail a place is, about 1."""

    light: np.ndarray
    patches: np.ndarray
    blue: np.ndarray
    red: np.ndarray


def photo(index: int) -> Image.Image:
    """Photo ``index`` of the series: YCbCr, its longest side 500 px or less.  The same numpy makes the same pixels."""
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
    """(width, height) in pixels, as the packer's longest side of 500 px leaves ImageNet's."""
    longest = LONGEST_PX if rng.random() < FULL_SIZE else int(rng.integers(SHORTEST_PX, LONGEST_PX))
    ratio, drawn = rng.uniform(NARROWEST, 1.0), rng.random()
    for shape, share in SHAPES:
        if 0 <= drawn < share:
            ratio = shape
        drawn -= share
    shorter = round(longest * ratio)
    return (longest, shorter) if rng.random() < LANDSCAPE else (shorter, longest)


def cut(rng: np.random.Generator, field: np.ndarray, width: int, height: int) -> np.ndarray:
    """A part of a field from anywhere in it, mirrored or turned at random. (height, width)"""
    if rng.random() < 0.5:
        field = field.T
    field = field[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    top, left = rng.integers(FIELD_PX - height, endpoint=True), rng.integers(FIELD_PX - width, endpoint=True)
    return field[top : top + height, left : left + width]


@cache
def fields() -> Fields:
    """Made once a process, in a fourth of a second."""
    rng = np.random.default_rng(0)
    light, patches = noise(rng, FALLING), noise(rng, FALLING_PATCHES)
    return Fields(light, np.exp(patches), noise(rng, FALLING), noise(rng, FALLING))


def noise(rng: np.random.Generator, falling: float) -> np.ndarray:
    """White noise whose amplitudes were made to fall as 1 / frequency ** falling."""
    frequency = np.hypot(np.fft.fftfreq(FIELD_PX)[:, None], np.fft.rfftfreq(FIELD_PX)[None, :])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((FIELD_PX, FIELD_PX))) / frequency**falling)
    return (field / field.std()).astype(np.float32)


def encoded(index: int) -> tuple[bytes, int, int]:
    """Photo ``index`` as the packer stores it by default: the JPEG, its width and its height."""
    image = photo(index)
    return encode_jpeg(image, Encoding()), image.width, image.height
