"""Kernels that change each pixel by itself, one image at a time: what Posterize, ColorJitter, RandAugment and others are made of.

All are in place on (3, size, size) uint8, and torchvision's functional operation on the same bytes to at most one level.
"""

from __future__ import annotations

import math

import numpy as np

from ..decode.lanes import VECTOR_PIXELS as PIXELS
from ..kernel_cache import kernel
from .vectors import extremes, grey_of, over_pixels, spare_bytes, sum_over_pixels

U = np.uintp
MAX_FACTOR = 3.999
"""The largest factor of brightness, contrast, saturation and sharpness: one that fits into 16 bits (``to_q13``)."""


def blended(value, base, factor):  # type: ignore[no-untyped-def]
    """floor(base + (value - base) * factor), cut to a byte; lanes of 16 bits, ``factor`` as of ``to_q13``."""
    sixteenths = (base << 4) + ((value - base) << 7).times_high(factor)
    return (sixteenths >> 4).clamped()


inverted = over_pixels(lambda value: [value.negated() + 255])
masked = over_pixels(lambda value, mask: [value & mask])
solarized = over_pixels(lambda value, threshold: [value.where(">=", threshold, value.negated() + 255)])
scaled = over_pixels(lambda value, factor: [((value << 7).times_high_unsigned(factor) >> 4).least(255)])
# offset + (value - base) * factor, of sixteenths of a level.
scaled_about = over_pixels(
    lambda value, base, factor, offset: [((((value - base) << 7).times_high(factor) + offset) >> 4).clamped()]
)
# floor((value - least) * factor / 2^16), whose quotients of bytes are exact.
stretched = over_pixels(lambda value, least, factor: [(value - least) * factor >> 16], bits=32)
greyed = over_pixels(lambda r, g, b: [grey_of(r, g, b)] * 3, planes=3)
grey_sum = sum_over_pixels(lambda r, g, b: [grey_of(r, g, b)], planes=3)


def _saturated(r, g, b, factor):  # type: ignore[no-untyped-def]
    grey = grey_of(r, g, b)
    return [blended(each, grey, factor) for each in (r, g, b)]


saturated = over_pixels(_saturated, planes=3)


def _hue_shifted(r, g, b, turn):  # type: ignore[no-untyped-def]
    """Turn the hue by ``turn`` sextants, in units of 1 / 8192.

    A hue times the chroma is a difference of two channels, and the way back (Smith, "Color gamut transform pairs", 1978) is a
    maximum and minimum of such: without the division by the chroma all of it fits into 16 bits, in sixteenths of a level.
    """
    most, least = r.most(g).most(b), r.least(g).least(b)
    chroma = most - least
    of_blue = (chroma << 2) + (r - g)
    hue = r.if_equal(most, g - b, g.if_equal(most, (chroma << 1) + (b - r), of_blue))
    chroma = chroma << 4
    circle = (chroma << 2) + (chroma << 1)
    hue = (hue << 4) + (chroma << 3).times_high(turn)
    hue = hue.where("<", 0, hue + circle)
    hue = hue.where(">", circle, hue - circle)
    channels = []
    for sextants in (1, 3, 5):
        place = hue - chroma * sextants
        place = place.where("<", 0, place + circle)
        drop = place.least((chroma << 2) - place).least(chroma).most(0)
        value = (most << 4) - drop
        # torchvision makes a byte of v / 255 as floor(v * 255.999 / 255).
        channels.append((value + (value >> 8)) >> 4)
    return channels


hue_shifted = over_pixels(_hue_shifted, planes=3)


@kernel
def to_q13(factor):
    """A factor, 0 to MAX_FACTOR, as the vector loops take it: in units of 1 / 8192."""
    return np.int64(math.floor(min(max(factor, 0.0), MAX_FACTOR) * 8192.0 + 0.5))


@kernel
def bytes_of(image):
    """(address, count) of an image's bytes, uintp."""
    return U(image.ctypes.data), U(image.size)


@kernel
def plane_of(image):
    """(address of the first plane, pixels of a plane), uintp."""
    return U(image.ctypes.data), U(image.shape[1] * image.shape[2])


@kernel
def invert_image(image):
    at, count = bytes_of(image)
    inverted(at, at, U(0), count, (np.int64(0),), spare_bytes())


@kernel
def posterize_image(image, bits):
    """Keep the upper ``bits`` bits of each value, 0 to 8."""
    at, count = bytes_of(image)
    masked(at, at, U(0), count, (np.int64(256 - (1 << (8 - bits))),), spare_bytes())


@kernel
def solarize_image(image, threshold):
    """Invert the values at or above ``threshold``, an int, 0 to 256."""
    at, count = bytes_of(image)
    solarized(at, at, U(0), count, (np.int64(threshold),), spare_bytes())


@kernel
def brighten_image(image, factor):
    at, count = bytes_of(image)
    scaled(at, at, U(0), count, (to_q13(factor),), spare_bytes())


@kernel
def contrast_image(image, factor):
    """Blend with the mean of the image's grey."""
    at, plane = plane_of(image)
    mean = grey_sum(at, plane, plane, spare_bytes()) / plane
    level = np.int64(mean)
    offset = np.int64(math.floor(16.0 * (level + (mean - level) * (1.0 - factor)) + 0.5))
    scaled_about(at, at, U(0), U(3) * plane, (level, to_q13(factor), offset), spare_bytes())


@kernel
def saturate_image(image, factor):
    """Blend with the image's grey."""
    at, plane = plane_of(image)
    saturated(at, at, plane, plane, (to_q13(factor),), spare_bytes())


@kernel
def shift_hue_image(image, turn):
    """Turn the hue by ``turn`` circles, -0.5 to 0.5."""
    at, plane = plane_of(image)
    hue_shifted(at, at, plane, plane, (np.int64(math.floor(turn * 6.0 * 8192.0 + 0.5)),), spare_bytes())


@kernel
def grey_image(image):
    at, plane = plane_of(image)
    greyed(at, at, plane, plane, (np.int64(0),), spare_bytes())


@kernel
def auto_contrast_image(image):
    """Stretch each channel to 0 to 255; one that is all alike stays."""
    for channel in range(3):
        plane = image[channel]
        at, count = bytes_of(plane)
        if count >= U(PIXELS):
            both = extremes(at, count)
            least, most = both & 255, both >> 8
        else:
            least, most = np.int64(plane.min()), np.int64(plane.max())
        if most > least:
            length = most - least
            stretched(at, at, U(0), count, (least, (255 * 65536 + length - 1) // length), spare_bytes())


@kernel
def equalize_image(image):
    """Pillow's and torchvision's histogram equalisation, channel by channel."""
    counts, table = np.empty((4, 256), np.uint32), np.empty(256, np.uint8)
    for channel in range(3):
        values = image[channel].reshape(-1)
        count_values(values, counts)
        if fill_equalizing(counts[0], len(values), table):
            look_up(values, table)


@kernel
def count_values(values, counts):
    """The histogram of bytes, in counts[0]; (4, 256) uint32, since neighbours are often alike and would wait for each other."""
    counts[:] = 0
    whole = U(len(values) // 4 * 4)
    for x in range(U(0), whole, U(4)):
        counts[U(0), values[x]] += np.uint32(1)
        counts[U(1), values[x + U(1)]] += np.uint32(1)
        counts[U(2), values[x + U(2)]] += np.uint32(1)
        counts[U(3), values[x + U(3)]] += np.uint32(1)
    for x in range(whole, U(len(values))):
        counts[U(0), values[x]] += np.uint32(1)
    for value in range(256):
        counts[0, value] += counts[1, value] + counts[2, value] + counts[3, value]


@kernel
def fill_equalizing(counts, pixels, table):
    """The look-up table of an equalisation; whether it changes anything."""
    last = 255
    while counts[last] == 0:
        last -= 1
    step = (pixels - np.int64(counts[last])) // 255
    if step == 0:
        return False
    below = np.int64(0)
    for value in range(256):
        table[value] = min((below + step // 2) // step, 255)
        below += np.int64(counts[value])
    return True


@kernel
def look_up(values, table):
    """table[value] in place of each value."""
    for x in range(U(len(values))):
        values[x] = table[values[x]]
