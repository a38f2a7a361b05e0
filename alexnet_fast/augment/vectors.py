"""Vector loops over planes of bytes, for operations that treat every pixel alike.

An operation writes down what it does to 32 pixels, as arithmetic on lanes of 16 or 32 bits; ``over_pixels`` makes an intrinsic of it that
runs over a row of any length.  Why not plain loops is told in ``decode.simd``.  The lanes are plain LLVM vectors: every
machine computes the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from ..decode.lanes import BYTES, Lanes, load_bytes, splat, store_bytes
from ..decode.lanes import VECTOR_PIXELS as PIXELS
from ..kernel_cache import kernel

BYTE, WORD = ir.IntType(8), ir.IntType(64)
SPARE = types.Array(types.uint8, 1, "C")
MAX_PLANES = 3


@kernel
def spare_bytes():
    """Memory for the last step of a loop. (MAX_PLANES * PIXELS,) uint8"""
    return np.empty(MAX_PLANES * PIXELS, np.uint8)


Step = Callable[..., Sequence[Lanes]]
"""What is done to PIXELS pixels: called with the lanes of each plane and of each constant, returns those of each plane."""


def grey_of(r: Lanes, g: Lanes, b: Lanes) -> Lanes:
    """torchvision's grey, floor(0.2989 r + 0.587 g + 0.114 b), of lanes of 16 bits; at most one level from it."""
    parts = (
        (r << 8).times_high_unsigned(19589),
        (g << 8).times_high_unsigned(38470),
        (b << 8).times_high_unsigned(7471),
    )
    return (parts[0] + parts[1] + parts[2] + 1).unsigned_shift_right(8)


def _place(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, BYTES.as_pointer())


@contextmanager
def _steps(
    builder: Any, addresses: Sequence[Any], targets: Sequence[Any], count: Any, spare: Any
) -> Iterator[tuple[list[Any], list[Any]]]:
    """A loop over ``count`` bytes of several rows, PIXELS at a time: yields where to read and where to write.

    The last step of a count that is no multiple of PIXELS works on a copy in ``spare``, an address, which begins as zeros.  The stack has no
    such room: LLVM's stores there are aligned to 32 bytes, the stack of a kernel to 16.
    """
    word = count.type
    copies = [builder.add(spare, word(k * PIXELS)) for k in range(len(addresses))]
    byte = BYTE.as_pointer()
    with cgutils.for_range_slice(builder, word(0), count, word(PIXELS), intp=word) as (x, _):
        rest = builder.sub(count, x)
        is_last = builder.icmp_unsigned("<", rest, word(PIXELS))
        sources = [builder.add(each, x) for each in addresses]
        with builder.if_then(is_last, likely=False):
            for source, copy in zip(sources, copies):
                builder.store(ir.Constant(BYTES, [0] * PIXELS), _place(builder, copy), align=1)
                cgutils.raw_memcpy(
                    builder, builder.inttoptr(copy, byte), builder.inttoptr(source, byte), rest, 1
                )
        results = [builder.add(each, x) for each in targets]
        yield (
            [builder.select(is_last, copy, source) for source, copy in zip(sources, copies)],
            [builder.select(is_last, copy, result) for result, copy in zip(results, copies)],
        )
        if results:
            with builder.if_then(is_last, likely=False):
                for result, copy in zip(results, copies):
                    cgutils.raw_memcpy(
                        builder, builder.inttoptr(result, byte), builder.inttoptr(copy, byte), rest, 1
                    )


def _address(context: Any, builder: Any, kind: Any, array: Any, word: Any) -> Any:
    """Of an array's first byte.  An array, not an address, is what keeps its memory for as long as the intrinsic runs."""
    return builder.ptrtoint(make_array(kind)(context, builder, array).data, word)


def _loaded(builder: Any, places: Sequence[Any], lane: Any) -> list[Lanes]:
    return [load_bytes(builder, each, lane) for each in places]


def over_pixels(step: Step, planes: int = 1, bits: int = 16) -> Any:
    """An intrinsic (source, target, stride, count, constants, spare) that does ``step`` to ``count`` pixels; may be in place.

    Args:
        step: see Step.
        planes: how many planes it takes and returns; with one, bytes of any kind.
        bits: of its lanes.

    The intrinsic's arguments are uintp: the addresses of the first planes, the bytes from a plane to the next, and the pixels; ``constants``
    is a tuple of int64, one for each of the step's further parameters ((0,) if it has none); ``spare`` is
    of ``spare_bytes``.
    """
    wanted, lane = step.__code__.co_argcount - planes, ir.IntType(bits)

    @intrinsic
    def loop(typing_context, source, target, stride, count, constants, spare):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, target, stride, count, constants, spare = arguments
            spare = _address(context, builder, SPARE, spare, count.type)
            known = [
                splat(builder, builder.trunc(each, lane)) for each in cgutils.unpack_tuple(builder, constants)
            ]
            offsets = [builder.mul(stride, stride.type(k)) for k in range(planes)]
            sources = [builder.add(source, each) for each in offsets]
            targets = [builder.add(target, each) for each in offsets]
            with _steps(builder, sources, targets, count, spare) as (read, write):
                results = step(*_loaded(builder, read, lane), *known[:wanted])
                for each, place in zip(results, write):
                    store_bytes(each, place)
            return context.get_dummy_value()

        constant_types = types.UniTuple(types.int64, max(wanted, 1))
        return types.void(*[types.uintp] * 4, constant_types, SPARE), generate

    return loop


def sum_over_pixels(step: Step, planes: int) -> Any:
    """An intrinsic (source, stride, count, spare) -> int64, the sum of what ``step`` makes of each pixel: a byte, and 0 of a black pixel.

    At most 2^24 pixels a lane, half a billion in all.
    """
    longs = ir.VectorType(ir.IntType(32), PIXELS)

    @intrinsic
    def total(typing_context, source, stride, count, spare):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            source, stride, count, spare = arguments
            spare = _address(context, builder, SPARE, spare, count.type)
            sums = cgutils.alloca_once_value(builder, ir.Constant(longs, [0] * PIXELS))
            sources = [builder.add(source, builder.mul(stride, stride.type(k))) for k in range(planes)]
            with _steps(builder, sources, [], count, spare) as (read, _):
                (result,) = step(*_loaded(builder, read, ir.IntType(16)))
                builder.store(builder.add(builder.load(sums), builder.zext(result.value, longs)), sums)
            whole, so_far = WORD(0), builder.load(sums)
            for k in range(PIXELS):
                lane = builder.zext(builder.extract_element(so_far, ir.IntType(32)(k)), WORD)
                whole = builder.add(whole, lane)
            return whole

        return types.int64(types.uintp, types.uintp, types.uintp, SPARE), generate

    return total


@intrinsic
def extremes(typing_context, source, count):  # type: ignore[no-untyped-def]
    """(source, count) -> least + 256 * most of the bytes at an address, int64; both uintp, and at least PIXELS of them."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        source, count = arguments
        word = count.type
        kept = [
            cgutils.alloca_once_value(builder, ir.Constant(BYTES, [start] * PIXELS)) for start in (255, 0)
        ]
        last = builder.sub(count, word(PIXELS))
        with cgutils.for_range_slice(builder, word(0), count, word(PIXELS), intp=word) as (x, _):
            # The last step begins earlier: a byte that is looked at twice changes neither.
            x = builder.select(builder.icmp_unsigned(">", x, last), last, x)
            values = builder.load(_place(builder, builder.add(source, x)), align=1)
            for place, comparison in zip(kept, "<>"):
                known = builder.load(place)
                better = builder.icmp_unsigned(comparison, values, known)
                builder.store(builder.select(better, values, known), place)
        found = []
        for place, comparison in zip(kept, "<>"):
            lanes = builder.load(place)
            best = builder.extract_element(lanes, ir.IntType(32)(0))
            for k in range(1, PIXELS):
                each = builder.extract_element(lanes, ir.IntType(32)(k))
                best = builder.select(builder.icmp_unsigned(comparison, each, best), each, best)
            found.append(builder.zext(best, WORD))
        return builder.add(found[0], builder.shl(found[1], WORD(8)))

    return types.int64(types.uintp, types.uintp), generate
