"""What vector code needs and numba's language lacks: integers that keep their width, and a byte transpose.

numba widens each integer operation to 64 bits.  Where LLVM cannot prove the upper bits idle (any
right shift of a signed value) a vector register then holds 8 pixels in place of 32.  The four
operations here stay at their operands' type.  They are plain LLVM instructions, so every machine
that numba knows has them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

BLOCK = 16
"""Side in bytes of the square that ``turn_block`` transposes: one vector register of any machine."""


def _same_width(emit: Any) -> Any:
    """An intrinsic of two integers of one type whose result has that type."""

    @intrinsic
    def operation(typing_context, a, b):  # type: ignore[no-untyped-def]
        if not isinstance(a, types.Integer) or a != b:
            return None

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return emit(builder, a, *arguments)

        return a(a, b), generate

    return operation


add = _same_width(lambda builder, kind, a, b: builder.add(a, b))
sub = _same_width(lambda builder, kind, a, b: builder.sub(a, b))
mul = _same_width(lambda builder, kind, a, b: builder.mul(a, b))
shift_right = _same_width(
    lambda builder, kind, a, b: builder.ashr(a, b) if kind.signed else builder.lshr(a, b)
)


@intrinsic
def mul_high(typing_context, a, b):  # type: ignore[no-untyped-def]
    """The upper 16 of the 32 bits of an int16 product: one instruction on x86 (pmulhw), two on NEON."""
    if (a, b) != (types.int16, types.int16):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        wide = ir.IntType(32)
        product = builder.mul(*(builder.sext(x, wide) for x in arguments))
        return builder.trunc(builder.ashr(product, wide(16)), ir.IntType(16))

    return types.int16(a, b), generate


@intrinsic
def turn_block(typing_context, source, source_stride, target, target_stride):  # type: ignore[no-untyped-def]
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
                    mask = ir.Constant(ir.VectorType(ir.IntType(32), BLOCK), lanes)
                    woven.append(builder.shuffle_vector(rows[i], rows[i + half], mask))
            rows = woven
        for k, value in enumerate(rows):
            builder.store(value, place(target, target_stride, k), align=1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp, types.uintp), generate
