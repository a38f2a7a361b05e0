"""Vectors of integers under construction, with operators, so that an intrinsic reads as what it computes.

They are plain LLVM vectors: AVX2 makes two registers of each, AVX-512 one, NEON four, and every machine computes the same bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

VECTOR_PIXELS = 32
"""Pixels of one vector."""
BYTES = ir.VectorType(ir.IntType(8), VECTOR_PIXELS)
WORDS = ir.VectorType(ir.IntType(16), VECTOR_PIXELS)


class Lanes:
    """A vector of signed integers under construction, with operators, so that an operation reads as what it computes."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _other(self, other: Lanes | int) -> Any:
        return (
            other.value
            if isinstance(other, Lanes)
            else ir.Constant(self.value.type, [int(other)] * VECTOR_PIXELS)
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
        wide = ir.VectorType(ir.IntType(2 * half), VECTOR_PIXELS)
        first, second = (getattr(builder, extend)(each, wide) for each in (self.value, self._other(other)))
        upper = getattr(builder, shift)(builder.mul(first, second), ir.Constant(wide, [half] * VECTOR_PIXELS))
        return Lanes(builder, builder.trunc(upper, self.value.type))

    def times_high(self, other: Lanes | int) -> Lanes:
        """The upper half of a product: of 16 bits one instruction on x86 (pmulhw), two on NEON."""
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


def splat(builder: Any, number: Any) -> Lanes:
    """One number (an LLVM integer) in every lane."""
    vector = ir.VectorType(number.type, VECTOR_PIXELS)
    empty = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(empty, number, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), VECTOR_PIXELS), [0] * VECTOR_PIXELS)
    return Lanes(builder, builder.shuffle_vector(first, empty, mask))


def load_bytes(builder: Any, address: Any, lane: Any = None) -> Lanes:
    """Bytes from memory of any alignment, in lanes of an integer type (16 bits unless given). address: an LLVM integer."""
    values = builder.load(builder.inttoptr(address, BYTES.as_pointer()), align=1)
    return Lanes(builder, builder.zext(values, WORDS if lane is None else ir.VectorType(lane, VECTOR_PIXELS)))


def store_bytes(lanes: Lanes, address: Any) -> None:
    """The lanes' lower bytes to memory of any alignment."""
    builder = lanes.builder
    builder.store(builder.trunc(lanes.value, BYTES), builder.inttoptr(address, BYTES.as_pointer()), align=1)
