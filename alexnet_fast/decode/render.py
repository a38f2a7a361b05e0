"""Planes of a crop -> RGB pixels of the output's size."""

from __future__ import annotations

import numpy as np

from ..kernel_cache import kernel
from .planes import GREY, YCBCR
from .resample import blend_rows, cubic_taps, resize_horizontally, support, triangle_taps, ycbcr_row
from .simd import VECTOR_PIXELS, copy_bytes

U64 = np.uint64


@kernel
def make_taps(axis, origin, factor, size, cubic, mirrored, table, scratch):
    """Fill tap table ``table`` for planes that begin at pixel ``origin``; returns the samples [a, b) that it reads."""
    first, count, weights = scratch.first[table], scratch.count[table], scratch.weights[table]
    if cubic:
        # Counted from the image's edge: how many taps there are, those of no weight too, must not depend on where the planes begin.
        begin = origin // factor
        start, length = axis.start / factor, axis.length / factor
        low, high = axis.low // factor, (axis.high + factor - 1) // factor
        cubic_taps(start, length, size, low, high, mirrored, first, count, weights)
        for x in range(size):
            first[x] -= begin
        a, b = support(start, length, size, cubic, low, high)
        return a - begin, b - begin
    start, length = (axis.start - origin) / factor, axis.length / factor
    # Not below the plane's first sample: counted from here, rounding may reach one further than in `reach` (with weight 0).
    low, high = max((axis.low - origin) // factor, 0), (axis.high - origin + factor - 1) // factor
    triangle_taps(start, length, size, low, high, mirrored, first, count, weights)
    return support(start, length, size, cubic, low, high)


@kernel
def resample_to_rgb(planes, y, x, mirrored, scratch, out):
    """Resample planes to the scratch's output and write them as RGB. out: (3, height, width) uint8.

    The horizontal pass goes through memory, the vertical one row by row straight into the colours.
    Each filter has one place in the source where it is called: LLVM inlines it, and every further
    copy would cost seconds of compiling.
    """
    height, width, cubic = scratch.output
    for chroma in range(2):
        across, down = (planes.across, planes.down) if chroma else (1, 1)
        columns = make_taps(x, planes.left, across, width, cubic, mirrored, chroma, scratch)
        rows = make_taps(y, planes.top, down, height, cubic, False, 2 + chroma, scratch)
        scratch.spans[chroma, 0], scratch.spans[chroma, 1] = columns
        scratch.spans[2 + chroma, 0], scratch.spans[2 + chroma, 1] = rows

    channels = 1 if planes.colour == GREY else 3
    sources = (planes.luma, planes.blue, planes.red)
    for channel in range(channels):
        table = min(channel, 1)
        columns, rows = scratch.spans[table], scratch.spans[2 + table]
        taps = (scratch.first[table], scratch.count[table], scratch.weights[table])
        source = sources[channel][rows[0] :]
        resize_horizontally(
            source,
            rows[1] - rows[0],
            columns,
            taps,
            width,
            cubic,
            scratch.turned,
            scratch.filtered,
            scratch.narrowed[channel],
        )

    whole = (width + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS
    rows_of = scratch.turned[: 3 * whole].reshape(3, whole)
    # Addresses, as in `resize_horizontally`.
    target, step = U64(rows_of.ctypes.data), U64(whole)
    tables = U64(scratch.weights.ctypes.data)
    stride = U64(scratch.narrowed.strides[1])
    at = U64(out.ctypes.data)
    plane = U64(height * width)
    for row in range(height):
        for channel in range(channels):
            table = 2 + min(channel, 1)
            first = scratch.first[table, row] - scratch.spans[table, 0]
            blend_rows(
                cubic,
                U64(scratch.narrowed.ctypes.data)
                + U64(channel * scratch.narrowed.strides[0])
                + U64(first) * stride,
                stride,
                tables + U64(table * scratch.weights.strides[0] + row * scratch.weights.strides[1]),
                U64(scratch.count[table, row]),
                target + U64(channel) * step,
                step,
            )
        if planes.colour == YCBCR:
            ycbcr_row(rows_of, width, at, at + plane, at + plane + plane)
        else:
            for channel in range(3):
                source = target + U64(min(channel, channels - 1)) * step
                copy_bytes(source, at + U64(channel) * plane, U64(width))
        at += U64(width)
