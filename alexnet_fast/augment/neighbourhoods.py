"""Kernels that make each pixel of those around it: sharpening and Gaussian blur, one image at a time, in place.

They read a copy of the image, in scratch memory that the caller allocates once a chunk.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..decode.lanes import VECTOR_PIXELS as PIXELS
from ..decode.lanes import WORDS, Lanes, load_bytes, splat, store_bytes
from ..decode.simd import copy_bytes
from ..kernel_cache import kernel
from .point_operations import to_q13

U = np.uintp
MAX_RADIUS = 64


@intrinsic
def sharpen_row(typing_context, source, stride, target, width, factor):  # type: ignore[no-untyped-def]
    """target[x] = mean + (source[x] - mean) * factor, cut to a byte, where mean is that of the 3 x 3 pixels, the middle one five times.

    Args:
        source, target: addresses (uintp) of the rows' first pixels; what is read lies one pixel around them.
        stride: bytes (uintp) from a source row to the next.
        width: bytes (uintp), in whole steps of PIXELS.
        factor: int64, as of ``to_q13``.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, stride, target, width, factor = arguments
        word = source.type
        factors = splat(builder, builder.trunc(factor, ir.IntType(16)))
        with cgutils.for_range_slice(builder, word(0), width, word(PIXELS), intp=word) as (x, _):
            middle = builder.add(source, x)
            centre, total = load_bytes(builder, middle), None
            for row in (builder.sub(middle, stride), middle, builder.add(middle, stride)):
                for offset in (-1, 0, 1):
                    if row is middle and offset == 0:
                        continue
                    each = load_bytes(builder, builder.add(row, word(offset)))
                    total = each if total is None else total + each
            # A sum of thirteenths is never half-way, so this is the nearest: (total + 6) // 13, exact up to 13 * 255.
            mean = (total + (centre << 2) + centre + 6).times_high_unsigned(5042)
            sixteenths = (mean << 4) + ((centre - mean) << 7).times_high(factors)
            store_bytes((sixteenths >> 4).clamped(), builder.add(target, x))
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 4, types.int64), generate


@intrinsic
def blur_row(typing_context, source, stride, weights, radius, target, width):  # type: ignore[no-untyped-def]
    """target[x] = weights[0] * source[x] + the sum over k of weights[k] * (source[x - k * stride] + source[x + k * stride]), rounded.

    Args:
        source, target: addresses (uintp) of the rows' first pixels.
        stride: bytes (uintp) between the pixels that are weighed: 1 along a row, the row's length across rows.
        weights: address (uintp) of radius + 1 int16 in units of 1 / 32768.
        radius: uintp.
        width: bytes (uintp), in whole steps of PIXELS.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, stride, weights, radius, target, width = arguments
        word, half = source.type, ir.IntType(16)
        first = builder.inttoptr(weights, half.as_pointer())

        def weight(k):  # type: ignore[no-untyped-def]
            return splat(builder, builder.load(builder.gep(first, [k])))

        middle_weight = weight(word(0))
        total = cgutils.alloca_once(builder, WORDS)
        with cgutils.for_range_slice(builder, word(0), width, word(PIXELS), intp=word) as (x, _):
            middle = builder.add(source, x)
            # Sums of 32nds of a level: of a value in its upper bits the upper half of the product is that.
            begin = (load_bytes(builder, middle) << 6).times_high(middle_weight)
            begin = begin + Lanes(builder, builder.load(total_rounding(builder, radius)))
            builder.store(begin.value, total)
            with cgutils.for_range_slice(
                builder, word(1), builder.add(radius, word(1)), word(1), intp=word
            ) as (k, _):
                away = builder.mul(k, stride)
                both = load_bytes(builder, builder.sub(middle, away)) + load_bytes(
                    builder, builder.add(middle, away)
                )
                more = Lanes(builder, builder.load(total)) + (both << 6).times_high(weight(k))
                builder.store(more.value, total)
            store_bytes((Lanes(builder, builder.load(total)) >> 5).clamped(), builder.add(target, x))
        return context.get_dummy_value()

    def total_rounding(builder, radius):  # type: ignore[no-untyped-def]
        """Half a level, and half a 32nd for each product, which is rounded down."""
        place = cgutils.alloca_once(builder, WORDS)
        number = builder.add(
            radius.type(16), builder.lshr(builder.add(radius, radius.type(1)), radius.type(1))
        )
        builder.store(splat(builder, builder.trunc(number, ir.IntType(16))).value, place)
        return place

    return types.void(*[types.uintp] * 6), generate


@kernel
def scratch_bytes(height, width, radius):
    """Scratch for an image of this size and pixels ``radius`` around it."""
    whole = (width + PIXELS - 1) // PIXELS * PIXELS
    return 2 * (whole + 2 * radius + PIXELS) * (height + 2 * radius + 2) + 4 * PIXELS


@kernel
def sharpen_image(image, factor, scratch):
    """torchvision's adjust_sharpness; the outermost pixels stay. scratch: scratch_bytes(height, width, 1), uint8."""
    height, width = U(image.shape[1]), U(image.shape[2])
    if height <= U(2) or width <= U(2):
        return
    limited = to_q13(factor)
    plane = height * width
    spare = U(scratch.ctypes.data)
    copy, at = spare + U(width + 2 * PIXELS), U(image.ctypes.data)
    inner = width - U(2)
    whole = (inner + U(PIXELS - 1)) // U(PIXELS) * U(PIXELS)
    for channel in range(U(3)):
        copy_bytes(at + channel * plane, copy, plane)
        for row in range(U(1), height - U(1)):
            place = row * width + U(1)
            sharpen_row(copy + place, width, spare, whole, limited)
            copy_bytes(spare, at + channel * plane + place, inner)


@kernel
def fill_gaussian(sigma, radius, weights):
    """Fill the weights of a Gaussian of radius + 1 pixels, in units of 1 / 32768, int16; returns the last that is not 0."""
    total = 1.0
    for k in range(1, radius + 1):
        total += 2.0 * math.exp(-0.5 * (k / sigma) ** 2)
    given = np.int64(0)
    reach = 0
    for k in range(1, radius + 1):
        weights[k] = np.int64(32768.0 * math.exp(-0.5 * (k / sigma) ** 2) / total + 0.5)
        given += 2 * np.int64(weights[k])
        if weights[k] > 0:
            reach = k
    weights[0] = min(32768 - given, 32767)
    return reach


@kernel
def blur_image(image, radius, sigma, scratch):
    """Gaussian blur with a kernel of 2 * radius + 1 pixels, mirrored at the edges without repeating the outermost pixel.

    Args:
        radius: below the image's height and width.
        scratch: scratch_bytes(height, width, radius), uint8.
    """
    weights = np.empty(MAX_RADIUS + 1, np.int16)
    reach = fill_gaussian(sigma, radius, weights)
    if reach == 0:
        return
    height, width = image.shape[1], image.shape[2]
    whole = (width + PIXELS - 1) // PIXELS * PIXELS
    stride = whole + 2 * reach
    rows = height + 2 * reach
    # The image with its surroundings, then the same blurred along its rows.
    padded = scratch[: rows * stride].reshape(rows, stride)
    filtered = scratch[rows * stride : rows * (stride + whole)].reshape(rows, whole)
    table, spare = U(weights.ctypes.data), U(scratch.ctypes.data) + U(len(scratch) - whole)
    for channel in range(3):
        for y in range(height):
            row = padded[reach + y]
            copy_bytes(U(image[channel, y].ctypes.data), U(row.ctypes.data) + U(reach), U(width))
            for k in range(1, reach + 1):
                row[reach - k] = row[reach + k]
                row[reach + width - 1 + k] = row[reach + width - 1 - k]
            blur_row(
                U(row.ctypes.data) + U(reach),
                U(1),
                table,
                U(reach),
                U(filtered[reach + y].ctypes.data),
                U(whole),
            )
        for k in range(1, reach + 1):
            filtered[reach - k] = filtered[reach + k]
            filtered[reach + height - 1 + k] = filtered[reach + height - 1 - k]
        for y in range(height):
            blur_row(U(filtered[reach + y].ctypes.data), U(whole), table, U(reach), spare, U(whole))
            copy_bytes(spare, U(image[channel, y].ctypes.data), U(width))
    weights[0] = (
        0  # numba frees an array after the last line that names it, not after the last use of its address
    )
