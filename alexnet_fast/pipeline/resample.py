"""Antialiased separable resampling of uint8 planes, and YCbCr planes to RGB.

Both directions are one kernel: it filters *rows*, which are contiguous, so LLVM turns it into vector
code on any machine.  For the horizontal direction the plane is turned first, 16 x 16 bytes at a time;
a horizontal pass by indexed loads costs ten times as much (and NEON has no gathers).

Weights are Q8 in uint16: they sum to exactly 256, so a sum of products stays below 2^16 and a vector
register holds twice the pixels that 32-bit arithmetic would.  Rounded so, crops of 1,000 photos lie
0.46 levels from Pillow's on average.
"""

from __future__ import annotations

import numpy as np

from .jit import kernel
from .lanes import BLOCK, add, mul, mul_high, shift_right, sub, turn_block

# Unsigned indices: a signed one costs a test for "counted from the end" at every access.
U = np.uintp
U8, U16, I16 = np.uint8, np.uint16, np.int16
HALF = U16(128)
EIGHT = U16(8)


def most_taps(side_px: int, size: int) -> int:
    """The most taps one output pixel can have when ``side_px`` pixels become ``size``."""
    return 2 * max(1, -(-side_px // size)) + 2


@kernel
def support(start, length, size, low, high):
    """The pixels [a, b) within [low, high) that ``triangle_taps`` of the same box reads."""
    radius = max(length / size, 1.0)
    edge = 0.5 * length / size
    a = int(np.floor(start + edge - radius + 0.5))
    b = int(np.floor(start + length - edge + radius + 0.5))
    return max(a, low), min(b, high)


@kernel
def triangle_taps(start, length, size, low, high, mirrored, first, count, weights):
    """Antialiased bilinear filter, as Pillow and torchvision define it, from a box to ``size`` pixels.

    A triangle of radius ``max(length / size, 1)`` source pixels around each output pixel's centre,
    cut at [low, high) and normalised.

    Args:
        start, length: the box in source pixels, float64; it may begin and end between pixels.
        size: output pixels.
        low, high: source pixels that exist; the filter does not look beyond them.
        mirrored: write the table in reverse.
        first: (size,) int32, out: each output pixel's first source pixel.
        count: (size,) int32, out: how many it reads.
        weights: (size, most taps) uint16, out: Q8, each row's sum 256.
    """
    scale = length / size
    radius = max(scale, 1.0)
    most = weights.shape[1]
    for x in range(size):
        centre = start + (x + 0.5) * scale
        a = min(max(int(np.floor(centre - radius + 0.5)), low), high - 1)
        b = max(min(int(np.floor(centre + radius + 0.5)), high, a + most), a + 1)
        total = 0.0
        for k in range(a, b):
            total += max(radius - abs(k + 0.5 - centre), 0.0)
        to_q8 = 256.0 / total if total > 0.0 else 0.0
        d = size - 1 - x if mirrored else x
        first[d] = a
        count[d] = b - a
        # Rounding the running sum, not each weight, keeps the sum at 256 however many taps there are.
        running, given = 0.0, 0
        for k in range(a, b - 1):
            running += max(radius - abs(k + 0.5 - centre), 0.0) * to_q8
            rounded = int(running + 0.5)
            weights[d, k - a] = rounded - given
            given = rounded
        weights[d, b - 1 - a] = 256 - given


@kernel
def filter_row(rows, first, count, weights, out):
    """out[x] = sum over k < count of weights[k] * rows[first + k, x], for all x of ``out``; Q8, rounded."""
    m = U(len(out))
    r = U(first)
    if count == 1:
        a = rows[r]
        for x in range(m):
            out[x] = a[x]
    elif count == 2:
        a, b = rows[r], rows[r + U(1)]
        p, q = weights[0], weights[1]
        for x in range(m):
            total = add(add(mul(p, U16(a[x])), mul(q, U16(b[x]))), HALF)
            out[x] = U8(shift_right(total, EIGHT))
    elif count == 3:
        a, b, c = rows[r], rows[r + U(1)], rows[r + U(2)]
        p, q, s = weights[0], weights[1], weights[2]
        for x in range(m):
            total = add(add(mul(p, U16(a[x])), mul(q, U16(b[x]))), add(mul(s, U16(c[x])), HALF))
            out[x] = U8(shift_right(total, EIGHT))
    elif count == 4:
        a, b, c, d = rows[r], rows[r + U(1)], rows[r + U(2)], rows[r + U(3)]
        p, q, s, t = weights[0], weights[1], weights[2], weights[3]
        for x in range(m):
            total = add(add(mul(p, U16(a[x])), mul(q, U16(b[x]))), add(mul(s, U16(c[x])), mul(t, U16(d[x]))))
            out[x] = U8(shift_right(add(total, HALF), EIGHT))
    elif count == 5:
        a, b, c, d, e = rows[r], rows[r + U(1)], rows[r + U(2)], rows[r + U(3)], rows[r + U(4)]
        p, q, s, t, u = weights[0], weights[1], weights[2], weights[3], weights[4]
        for x in range(m):
            total = add(add(mul(p, U16(a[x])), mul(q, U16(b[x]))), add(mul(s, U16(c[x])), mul(t, U16(d[x]))))
            out[x] = U8(shift_right(add(add(total, mul(u, U16(e[x]))), HALF), EIGHT))
    else:
        for x in range(m):
            total = HALF
            for k in range(U(count)):
                total = add(total, mul(weights[k], U16(rows[r + k, x])))
            out[x] = U8(shift_right(total, EIGHT))


@kernel
def turn(source, target, blocks_down, blocks_across):
    """Transpose bytes: ``target[x, y] = source[y, x]``, in squares of 16; both are 2-D uint8 with contiguous rows."""
    a, a_stride = U(source.ctypes.data), U(source.strides[0])
    b, b_stride = U(target.ctypes.data), U(target.strides[0])
    for y in range(U(0), U(blocks_down * BLOCK), U(BLOCK)):
        for x in range(U(0), U(blocks_across * BLOCK), U(BLOCK)):
            turn_block(a + y * a_stride + x, a_stride, b + x * b_stride + y, b_stride)


@kernel
def narrow(plane, rows, columns, taps, size, turned, filtered, out):
    """The horizontal pass: columns of a plane -> ``size`` columns.

    Args:
        plane: (height, stride) uint8; as many rows as ``rows`` rounded up to 16 and columns beyond the
            last rounded up to 16 are read, and their values not used.
        rows: rows to filter.
        columns: (first, end) of the columns that the taps read.
        taps: (first, count, weights) of each output column; ``first`` counts from the plane's column 0.
        size: output columns.
        turned, filtered: uint8 scratch for the turned plane and the turned result.
        out: (rows rounded up to 16, size rounded up to 16) uint8, the result.
    """
    first, count, weights = taps
    down = (rows + BLOCK - 1) // BLOCK
    across = (columns[1] - columns[0] + BLOCK - 1) // BLOCK
    size_blocks = (size + BLOCK - 1) // BLOCK
    side = turned[: BLOCK * across * BLOCK * down].reshape(BLOCK * across, BLOCK * down)
    turn(plane[:, columns[0] :], side, down, across)
    result = filtered[: BLOCK * size_blocks * BLOCK * down].reshape(BLOCK * size_blocks, BLOCK * down)
    for x in range(size):
        filter_row(side, first[x] - columns[0], count[x], weights[x], result[x])
    turn(result, out, size_blocks, down)


@kernel
def clamp(value):
    """An int16 as uint8, cut at 0 and 255."""
    return U8(I16(0) if value < I16(0) else (I16(255) if value > I16(255) else value))


@kernel
def ycbcr_row(luma, blue, red, r, g, b):
    """JFIF's YCbCr -> RGB (ITU-T T.871, 7) of one row.

    In int16, so that a register holds twice the pixels of Q16 arithmetic in int32 (11 against 44 us
    an image of 224 x 224): sums in sixteenths of a level, products by ``mul_high`` of ``256 * chroma``
    and ``16 * 256 * factor``.  At most 0.14 levels beside exact rounding over all 2^24 colours.
    """
    for x in range(U(len(luma))):
        y = add(I16(U16(luma[x]) << U16(4)), I16(8))
        cb = I16(U16(sub(I16(blue[x]), I16(128))) << U16(8))
        cr = I16(U16(sub(I16(red[x]), I16(128))) << U16(8))
        r[x] = clamp(shift_right(add(y, mul_high(cr, I16(5743))), I16(4)))  # 1.402
        g[x] = clamp(
            shift_right(sub(sub(y, mul_high(cb, I16(1410))), mul_high(cr, I16(2925))), I16(4))
        )  # 0.344136, 0.714136
        b[x] = clamp(shift_right(add(y, mul_high(cb, I16(7258))), I16(4)))  # 1.772
