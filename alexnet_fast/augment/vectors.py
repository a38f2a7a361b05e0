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

from ..kernel_cache import kernel

PIXELS = 32
"""Pixels of one step."""

BYTE, WORD = ir.IntType(8), ir.IntType(64)
BYTES = ir.VectorType(BYTE, PIXELS)
SPARE = types.Array(types.uint8, 1, "C")
MAX_PLANES = 3


class Lanes:
    """A vector of signed integers under construction, with operators, so that an operation reads as what it computes."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _other(self, other: Lanes | int) -> Any:
        return (
            other.value if isinstance(other, Lanes) else ir.Constant(self.value.type, [int(other)] * PIXELS)
        )

    def _with(self, operation: str, other: Lanes | int) -> Lanes:
        return Lanes(self.builder, getattr(self.builder, operation)(self.value, self._other(other)))

    def __add__(self, other: Lanes | int) -> Lanes:
        return self._with("add", other)

    def __sub__(self, other: Lanes | int) -> Lanes:
        return self._with("sub", other)

    def __mul__(self, other: Lanes | int) -> Lanes:
        return self._with("mul", other)

    def __and__(self, other: Lanes | int) -> Lanes:
        return self._with("and_", other)

    def __lshift__(self, bits: int) -> Lanes:
        return self._with("shl", bits)

    def __rshift__(self, bits: int) -> Lanes:
        """Keeps the sign: rounds down."""
        return self._with("ashr", bits)

    def negated(self) -> Lanes:
        return Lanes(self.builder, self.builder.neg(self.value))

    def unsigned_shift_right(self, bits: int) -> Lanes:
        return self._with("lshr", bits)

    def _wide(self, extend: str, shift: str, other: Lanes | int) -> Lanes:
        builder, half = self.builder, self.value.type.element.width
        wide = ir.VectorType(ir.IntType(2 * half), PIXELS)
        first, second = (getattr(builder, extend)(each, wide) for each in (self.value, self._other(other)))
        upper = getattr(builder, shift)(builder.mul(first, second), ir.Constant(wide, [half] * PIXELS))
        return Lanes(builder, builder.trunc(upper, self.value.type))

    def times_high(self, other: Lanes | int) -> Lanes:
        """The upper half of a product: one instruction on x86 for 16 bits."""
        return self._wide("sext", "ashr", other)

    def times_high_unsigned(self, other: Lanes | int) -> Lanes:
        """The same of lanes and factors without a sign."""
        return self._wide("zext", "lshr", other)

    def _is(self, comparison: str, other: Lanes | int) -> Any:
        return self.builder.icmp_signed(comparison, self.value, self._other(other))

    def where(self, comparison: str, limit: Lanes | int, other: Lanes | int) -> Lanes:
        """``other`` where these lanes compare so with ``limit``, these lanes elsewhere."""
        chosen = self.builder.select(self._is(comparison, limit), self._other(other), self.value)
        return Lanes(self.builder, chosen)

    def least(self, other: Lanes | int) -> Lanes:
        return self.where(">", other, other)

    def most(self, other: Lanes | int) -> Lanes:
        return self.where("<", other, other)

    def clamped(self) -> Lanes:
        """Cut at 0 and 255."""
        return self.most(0).least(255)

    def if_equal(self, other: Lanes, then: Lanes, otherwise: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.select(self._is("==", other), then.value, otherwise.value))


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


def _splat(builder: Any, number: Any, lane: Any) -> Lanes:
    """An int64 in every lane."""
    vector = ir.VectorType(lane, PIXELS)
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, builder.trunc(number, lane), ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), PIXELS), [0] * PIXELS)
    return Lanes(builder, builder.shuffle_vector(first, empty, mask))


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
    wide = ir.VectorType(lane, PIXELS)
    return [
        Lanes(builder, builder.zext(builder.load(_place(builder, each), align=1), wide)) for each in places
    ]


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
            known = [_splat(builder, each, lane) for each in cgutils.unpack_tuple(builder, constants)]
            offsets = [builder.mul(stride, stride.type(k)) for k in range(planes)]
            sources = [builder.add(source, each) for each in offsets]
            targets = [builder.add(target, each) for each in offsets]
            with _steps(builder, sources, targets, count, spare) as (read, write):
                results = step(*_loaded(builder, read, lane), *known[:wanted])
                for each, place in zip(results, write):
                    builder.store(builder.trunc(each.value, BYTES), _place(builder, place), align=1)
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
