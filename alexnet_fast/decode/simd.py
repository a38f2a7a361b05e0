"""Lanes code for the kernels, written out: what LLVM does not find by itself in loops over bytes.

numba widens each integer operation to 64 bits, LLVM guards each loop against overlapping memory and ends
it with a loop over single pixels; a row of 224 pixels is too short to earn that back.  So the kernels' inner
steps are intrinsics over ``VECTOR_PIXELS`` pixels at a time.  They are plain LLVM vectors: AVX2 makes two registers of
each, AVX-512 one, NEON four, and every machine computes the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import BYTES, WORDS, Lanes, load_bytes, splat, store_bytes
from .lanes import VECTOR_PIXELS as VECTOR_PIXELS

BLOCK = 16
"""Side in bytes of the square that ``transpose_block`` transposes: one vector register of any machine."""


@contextmanager
def _steps(builder: Any, width: Any) -> Iterator[Any]:
    """A loop over x = 0, VECTOR_PIXELS, 2 * LANES ... below ``width`` (an LLVM integer)."""
    word = width.type
    with cgutils.for_range_slice(builder, word(0), width, word(VECTOR_PIXELS), intp=word) as (x, _):
        yield x


MAX_UNROLLED = 4  # rows whose weights `filter_rows` keeps in registers


@intrinsic
def filter_rows(typing_context, source, stride, weights, count, target, width):  # type: ignore[no-untyped-def]
    """target[x] = (sum over k < count of weights[k] * source[k * stride + x] + 128) >> 8, for x < width.

    Args:
        source, target: addresses (uintp) of the first row and of the result.
        stride: bytes (uintp) from one source row to the next.
        weights: address (uintp) of ``count`` uint16 that sum to 256.
        count: rows (uintp), at least 1.
        width: bytes (uintp) of a row; whole steps of VECTOR_PIXELS are read and written.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, stride, weights, count, target, width = arguments
        first_weight = builder.inttoptr(weights, ir.IntType(16).as_pointer())

        def weight(k):  # type: ignore[no-untyped-def]
            return splat(builder, builder.load(builder.gep(first_weight, [k])))

        done = builder.append_basic_block("blended")
        cases = [builder.append_basic_block(f"blend_{n}") for n in range(1, MAX_UNROLLED + 1)]
        many = builder.append_basic_block("blend_many")
        switch = builder.switch(count, many)
        for n, case in enumerate(cases, 1):
            switch.add_case(count.type(n), case)
            builder.position_at_end(case)
            kept = [weight(count.type(k)) for k in range(n)]
            with _steps(builder, width) as x:
                row, total = builder.add(source, x), None
                for k in range(n):
                    product = load_bytes(builder, row) * kept[k]
                    total = product if total is None else total + product
                    row = builder.add(row, stride)
                store_bytes((total + 128).unsigned_shift_right(8), builder.add(target, x))
            builder.branch(done)

        builder.position_at_end(many)
        with _steps(builder, width) as x:
            total = cgutils.alloca_once(builder, WORDS)
            builder.store(ir.Constant(WORDS, [128] * VECTOR_PIXELS), total)
            with cgutils.for_range(builder, count, intp=count.type) as tap:
                row = builder.add(builder.add(source, x), builder.mul(stride, tap.index))
                so_far = Lanes(builder, builder.load(total)) + load_bytes(builder, row) * weight(tap.index)
                builder.store(so_far.value, total)
            store_bytes(Lanes(builder, builder.load(total)).unsigned_shift_right(8), builder.add(target, x))
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 6), generate


@intrinsic
def filter_rows_signed(typing_context, source, stride, weights, count, target, width):  # type: ignore[no-untyped-def]
    """target[x] = the sum over k < count of weights[k] * source[k * stride + x], rounded and cut to a byte, for x < width.

    In int16: of a pixel's distance from 128 in the upper byte, times a weight, the upper half of the product is 64ths of a level.
    Each is rounded down, which the start of the sum makes up for on average; so a sum of 9 is at most 0.07 levels off.

    Args:
        weights: address (uintp) of ``count`` int16 that sum to 2^14; the sum of their absolute values is below 2^16.
        The others are those of ``filter_rows``.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, stride, weights, count, target, width = arguments
        half = ir.IntType(16)
        first_weight = builder.inttoptr(weights, half.as_pointer())
        # 128 levels, half a level, and half a 64th for each product.
        start = builder.add(builder.lshr(count, count.type(1)), count.type((128 << 6) + 32))
        start = splat(builder, builder.trunc(start, half)).value
        total = cgutils.alloca_once(builder, WORDS)
        with _steps(builder, width) as x:
            builder.store(start, total)
            with cgutils.for_range(builder, count, intp=count.type) as tap:
                row = builder.add(builder.add(source, x), builder.mul(stride, tap.index))
                weight = splat(builder, builder.load(builder.gep(first_weight, [tap.index])))
                product = ((load_bytes(builder, row) - 128) << 8).times_high(weight)
                builder.store((Lanes(builder, builder.load(total)) + product).value, total)
            store_bytes((Lanes(builder, builder.load(total)) >> 6).clamped(), builder.add(target, x))
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 6), generate


@intrinsic
def ycbcr_to_rgb(typing_context, luma, blue, red, r, g, b, width):  # type: ignore[no-untyped-def]
    """JFIF's YCbCr -> RGB (ITU-T T.871, 7) of ``width`` pixels in whole steps of VECTOR_PIXELS; addresses (uintp); may be in place.

    In int16, so that a register holds twice the pixels of Q16 arithmetic in int32: sums in sixteenths of a
    level, products by ``times_high`` of ``256 * chroma`` and ``16 * 256 * factor``.  At most 0.14 levels from
    exact rounding over all 2^24 colours.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        luma, blue, red, *targets, width = arguments
        with _steps(builder, width) as x:
            y = (load_bytes(builder, builder.add(luma, x)) << 4) + 8
            cb, cr = ((load_bytes(builder, builder.add(chroma, x)) - 128) << 8 for chroma in (blue, red))
            colours = (
                y + cr.times_high(5743),  # 1.402
                y - cb.times_high(1410) - cr.times_high(2925),  # 0.344136, 0.714136
                y + cb.times_high(7258),  # 1.772
            )
            for colour, target in zip(colours, targets):
                store_bytes((colour >> 4).clamped(), builder.add(target, x))
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 7), generate


@intrinsic
def split_rgb(typing_context, rgb, r, g, b, width):  # type: ignore[no-untyped-def]
    """Interleaved pixels -> three rows, ``width`` pixels in whole steps of VECTOR_PIXELS; addresses (uintp)."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        rgb, *targets, width = arguments
        pixels = ir.VectorType(ir.IntType(8), 3 * VECTOR_PIXELS)
        with _steps(builder, width) as x:
            at = builder.add(rgb, builder.mul(x, x.type(3)))
            values = builder.load(builder.inttoptr(at, pixels.as_pointer()), align=1)
            for channel, target in enumerate(targets):
                row = _picked(builder, values, values, range(channel, 3 * VECTOR_PIXELS, 3))
                place = builder.inttoptr(builder.add(target, x), BYTES.as_pointer())
                builder.store(row, place, align=1)
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 5), generate


@intrinsic
def copy_bytes(typing_context, source, target, count):  # type: ignore[no-untyped-def]
    """Copy ``count`` bytes; all uintp."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, target, count = arguments
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(target, byte), builder.inttoptr(source, byte), count, 1)
        return context.get_dummy_value()

    return types.void(*[types.uintp] * 3), generate


@intrinsic
def transpose_block(typing_context, source, source_stride, target, target_stride):  # type: ignore[no-untyped-def]
    """Transpose a 16 x 16 square of bytes.

    Args:
        source, target: addresses (uintp) of the squares' first bytes, of any alignment.
        source_stride, target_stride: bytes (uintp) between their rows.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, source_stride, target, target_stride = arguments
        row = ir.VectorType(ir.IntType(8), BLOCK)
        word = source.type

        def place(base, stride, k):  # type: ignore[no-untyped-def]
            return builder.inttoptr(builder.add(base, builder.mul(stride, word(k))), row.as_pointer())

        rows = [builder.load(place(source, source_stride, k), align=1) for k in range(BLOCK)]
        # Interleaving row i with row i + 8, four times over, is a transpose: each round moves one
        # bit of the row's number into the column's.
        half = BLOCK // 2
        for _ in range(4):
            woven = []
            for i in range(half):
                for begin in (0, half):
                    lanes = [lane for x in range(begin, begin + half) for lane in (x, x + BLOCK)]
                    woven.append(_picked(builder, rows[i], rows[i + half], lanes))
            rows = woven
        for k, value in enumerate(rows):
            builder.store(value, place(target, target_stride, k), align=1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp, types.uintp), generate


def _picked(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """The numbered lanes of two vectors laid end to end."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(first, second, mask)
