"""Affine maps of one image in place: whole rows where a map only moves them, else pixel by pixel in fixed point."""

from __future__ import annotations

import math

import numpy as np

from ..decode.simd import copy_bytes
from ..kernel_cache import kernel

U = np.uintp
ONE = 4294967296.0  # coordinates have 32 bits before the point and 32 behind it: nearest pixels need no more, and no less is exact over a row


@kernel
def inverse_affine(angle, translate_x, translate_y, scale, shear_x, shear_y, centre_x, centre_y):
    """torchvision's affine map, from the output back to the input: (a, b, c, d, e, f), x = a X + b Y + c, y = d X + e Y + f.

    Args:
        angle, shear_x, shear_y: in degrees.
        translate_x, translate_y, centre_x, centre_y: in pixels; all coordinates count from the image's centre.
    """
    turn, lean_x, lean_y = math.radians(angle), math.radians(shear_x), math.radians(shear_y)
    a = math.cos(turn - lean_y) / math.cos(lean_y)
    b = -math.cos(turn - lean_y) * math.tan(lean_x) / math.cos(lean_y) - math.sin(turn)
    c = math.sin(turn - lean_y) / math.cos(lean_y)
    d = -math.sin(turn - lean_y) * math.tan(lean_x) / math.cos(lean_y) + math.cos(turn)
    a, b, c, d = d / scale, -b / scale, -c / scale, a / scale
    x, y = -centre_x - translate_x, -centre_y - translate_y
    return a, b, a * x + b * y + centre_x, c, d, c * x + d * y + centre_y


@kernel
def first_inside(start, step, size, count):
    """The places [low, high) of 0 to ``count`` at which start + place * step lies in [0, size * ONE)."""
    end = size << 32
    if step == 0:
        return 0, count if 0 <= start < end else 0
    if step > 0:
        low = -(start // step) if start < 0 else 0
        high = (end - start + step - 1) // step
    else:
        low = (start - end) // -step + 1 if start >= end else 0
        high = start // -step + 1
    low = max(low, 0)
    return low, max(min(high, count), low)


@kernel
def map_image(image, matrix, fill, scratch):
    """Each pixel becomes the nearest one of where an affine map takes it, or ``fill`` where that is outside.

    Args:
        matrix: of ``inverse_affine``.
        fill: (3,) uint8.
        scratch: (3 * height * width,) uint8 at least.
    """
    height, width = image.shape[1], image.shape[2]
    pixels = height * width
    plane = U(pixels)
    at, copy = U(image.ctypes.data), U(scratch.ctypes.data)
    copy_bytes(at, copy, U(3) * plane)
    old = scratch[: 3 * pixels]
    new = image.reshape(-1)
    a, b, c, d, e, f = matrix
    half, half_down = 0.5 * width, 0.5 * height
    step_x, step_y = np.int64(round(a * ONE)), np.int64(round(d * ONE))
    side = U(width)
    for row in range(height):
        below = row + 0.5 - half_down
        # Of the first pixel's centre; a pixel's own coordinates are whole numbers below those.
        start_x = np.int64(math.floor((a * (0.5 - half) + b * below + c + half) * ONE))
        start_y = np.int64(math.floor((d * (0.5 - half) + e * below + f + half_down) * ONE))
        low, high = first_inside(start_x, step_x, width, width)
        other_low, other_high = first_inside(start_y, step_y, height, width)
        low, high = max(low, other_low), min(high, other_high)
        high = max(low, high)
        if low >= width:
            low = high = 0
        begin = U(row * width)
        for channel in range(3):
            values = new[channel * pixels + row * width : channel * pixels + (row + 1) * width]
            values[:low] = fill[channel]
            values[high:] = fill[channel]
        if low == high:
            continue
        x, y = start_x + low * step_x, start_y + low * step_y
        if step_y == 0 and step_x == np.int64(ONE):
            source = U((y >> 32) * width + (x >> 32))
            for channel in range(U(3)):
                copy_bytes(
                    copy + channel * plane + source, at + channel * plane + begin + U(low), U(high - low)
                )
            continue
        for place in range(begin + U(low), begin + U(high)):
            source = U(y >> 32) * side + U(x >> 32)
            new[place] = old[source]
            new[place + plane] = old[source + plane]
            new[place + plane + plane] = old[source + plane + plane]
            x += step_x
            y += step_y


@kernel
def map_scratch_bytes(height, width):
    """Scratch for either map of an image of this size."""
    return 3 * (height + 2) * (width + 2)


@kernel
def map_image_smoothly(image, matrix, fill, scratch):
    """Each pixel becomes the bilinear mean of the four around where an affine map takes it; those outside are ``fill``.

    Args:
        matrix: of ``inverse_affine``.
        fill: (3,) uint8.
        scratch: (map_scratch_bytes(height, width),) uint8 at least.
    """
    height, width = image.shape[1], image.shape[2]
    # The image in a frame of the fill, so that no pixel of it needs a test.
    framed_height, framed_width = height + 2, width + 2
    framed_pixels = framed_height * framed_width
    plane, step = U(framed_pixels), U(framed_width)
    old = scratch[: 3 * framed_pixels]
    for channel in range(3):
        framed = old[channel * framed_pixels : (channel + 1) * framed_pixels].reshape(
            framed_height, framed_width
        )
        framed[:] = fill[channel]
        for y in range(height):
            copy_bytes(U(image[channel, y].ctypes.data), U(framed[y + 1].ctypes.data) + U(1), U(width))
    new = image.reshape(-1)
    pixels = U(height * width)
    a, b, c, d, e, f = matrix
    half, half_down = 0.5 * width, 0.5 * height
    step_x, step_y = np.int64(round(a * ONE)), np.int64(round(d * ONE))
    for row in range(height):
        below = row + 0.5 - half_down
        # Pixel centres are whole numbers here, and the frame's is 0.
        start_x = np.int64(math.floor((a * (0.5 - half) + b * below + c + half + 0.5) * ONE))
        start_y = np.int64(math.floor((d * (0.5 - half) + e * below + f + half_down + 0.5) * ONE))
        low, high = first_inside(start_x, step_x, width + 1, width)
        other_low, other_high = first_inside(start_y, step_y, height + 1, width)
        low, high = max(low, other_low), min(high, other_high)
        if low >= high:
            low = high = 0
        begin = row * width
        for channel in range(3):
            values = new[channel * height * width + begin : channel * height * width + begin + width]
            values[:low] = fill[channel]
            values[high:] = fill[channel]
        x, y = start_x + low * step_x, start_y + low * step_y
        for place in range(U(begin + low), U(begin + high)):
            at = U(y >> 32) * step + U(x >> 32)
            right, down = (x >> 24) & 255, (y >> 24) & 255
            for channel in range(U(3)):
                corner = at + channel * plane
                upper = old[corner] * (256 - right) + old[corner + U(1)] * right
                lower = old[corner + step] * (256 - right) + old[corner + step + U(1)] * right
                new[place + channel * pixels] = (upper * (256 - down) + lower * down + 32768) >> 16
            x += step_x
            y += step_y
