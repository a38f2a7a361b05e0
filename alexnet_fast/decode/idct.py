"""The inverse DCT of 16 blocks at a time, a block a lane: libjpeg's "islow" (jidctint.c) to the bit.

Coefficient k of the zigzag of block b is at place ``16 * (63 - k) + b``, so no block is transposed; only the bytes of the result are. Measured
on Zen 4: 9 ns a block, where one block at a time (as libjpeg-turbo's SIMD does it) takes 20.

Products are sums of two 16-bit products in 32 bits (``_dot``): one instruction on x86 (pmaddwd).  Sums of two inputs stay in
16 bits, as in libjpeg-turbo's SIMD; its C form has 32.  The two differ only for coefficients that no encoder makes of 8-bit
pixels, and there `inverse_dct` returns a flag instead of choosing one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 16
"""Blocks of a group."""
GROUP_BYTES = 64 * LANES * 2
"""Coefficients of a group, int16."""

CONST_BITS, PASS1_BITS = 13, 2
MAX_COEFFICIENT = (1 << 14) - 1
"""Of dequantised coefficients: up to here no sum of two leaves 16 bits, and no sum of products 32."""


# fmt: off
ZIGZAG = [
     0,  1,  5,  6, 14, 15, 27, 28,
     2,  4,  7, 13, 16, 26, 29, 42,
     3,  8, 12, 17, 25, 30, 41, 43,
     9, 11, 18, 24, 31, 40, 44, 53,
    10, 19, 23, 32, 39, 45, 52, 54,
    20, 22, 33, 38, 46, 51, 55, 60,
    21, 34, 37, 47, 50, 56, 59, 61,
    35, 36, 48, 49, 57, 58, 62, 63,
]
# fmt: on
"""The place in the zigzag of a block's coefficients, row by row (T.81, figure A.6)."""


def _fix(number: float) -> int:
    return round(number * (1 << CONST_BITS))


# Names and values of jidctint.c.
F_0_298, F_0_390, F_0_541, F_0_765 = (
    _fix(0.298631336),
    _fix(0.390180644),
    _fix(0.541196100),
    _fix(0.765366865),
)
F_0_899, F_1_175, F_1_501, F_1_847 = (
    _fix(0.899976223),
    _fix(1.175875602),
    _fix(1.501321110),
    _fix(1.847759065),
)
F_1_961, F_2_053, F_2_562, F_3_072 = (
    _fix(1.961570560),
    _fix(2.053119869),
    _fix(2.562915447),
    _fix(3.072711026),
)

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
WORDS = ir.VectorType(I16, LANES)
LONGS = ir.VectorType(I32, LANES // 2)
HALF = LANES // 2
# Interleaving within 128 bits, as the registers of x86 do it: what is taken apart so is put together in the same way.
LOW = [lane for base in range(0, LANES, 8) for k in range(base, base + 4) for lane in (k, k + LANES)]
HIGH = [lane for base in range(4, LANES, 8) for k in range(base, base + 4) for lane in (k, k + LANES)]


def _pick(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


class _Transform:
    """Builds the code of one inverse DCT."""

    def __init__(self, builder: Any, *, x86: bool) -> None:
        self.builder = builder
        self.zero = ir.Constant(WORDS, [0] * LANES)
        self.x86 = x86

    def words(self, number: int) -> Any:
        return ir.Constant(WORDS, [number] * LANES)

    def pair(self, first: Any, second: Any) -> list[Any]:
        """Two vectors, interleaved: the operands of `dot`."""
        return [_pick(self.builder, first, second, lanes) for lanes in (LOW, HIGH)]

    def dot(self, pair: list[Any], a: int, b: int) -> list[Any]:
        """first * a + second * b, in 32 bits."""
        return [self._dot(half, ir.Constant(WORDS, [a, b] * HALF)) for half in pair]

    def _dot(self, words: Any, factors: Any) -> Any:
        b = self.builder
        if self.x86:
            function = b.module.declare_intrinsic(
                "llvm.x86.avx2.pmadd.wd", (), ir.FunctionType(LONGS, [WORDS, WORDS])
            )
            return b.call(function, [words, factors])
        wide = ir.VectorType(I32, LANES)
        products = b.mul(b.sext(words, wide), b.sext(factors, wide))
        even, odd = (_pick(b, products, products, range(begin, LANES, 2)) for begin in (0, 1))
        return b.add(even, odd)

    def add(self, x: list[Any], y: list[Any]) -> list[Any]:
        return [self.builder.add(i, k) for i, k in zip(x, y)]

    def sub(self, x: list[Any], y: list[Any]) -> list[Any]:
        return [self.builder.sub(i, k) for i, k in zip(x, y)]

    def shifted(self, words: Any, bits: int) -> list[Any]:
        """words << CONST_BITS in 32 bits, plus what rounds a later ``>> bits``."""
        b = self.builder
        rounding = ir.Constant(LONGS, [1 << (bits - 1)] * HALF)
        by = ir.Constant(LONGS, [16 - CONST_BITS] * HALF)
        return [b.add(b.ashr(b.bitcast(half, LONGS), by), rounding) for half in self.pair(self.zero, words)]

    def descaled(self, longs: list[Any], bits: int) -> Any:
        """longs >> bits, cut to 16 bits."""
        b = self.builder
        low, high = (b.ashr(half, ir.Constant(LONGS, [bits] * HALF)) for half in longs)
        if self.x86:
            function = b.module.declare_intrinsic(
                "llvm.x86.avx2.packssdw", (), ir.FunctionType(WORDS, [LONGS, LONGS])
            )
            return b.call(function, [low, high])
        order = [
            lane for base in range(0, HALF, 4) for at in (base, base + HALF) for lane in range(at, at + 4)
        ]
        return b.trunc(_clamped(b, _pick(b, low, high, order), -(1 << 15), (1 << 15) - 1), WORDS)

    def one_dimension(self, row: list[Any], bits: int) -> list[Any]:
        """Eight vectors of coefficients -> eight of samples, ``>> bits`` (jidctint.c, either pass)."""
        b = self.builder
        even = self.pair(row[2], row[6])
        t2 = self.dot(even, F_0_541, F_0_541 - F_1_847)
        t3 = self.dot(even, F_0_541 + F_0_765, F_0_541)
        t0 = self.shifted(b.add(row[0], row[4]), bits)
        t1 = self.shifted(b.sub(row[0], row[4]), bits)
        a0, a3, a1, a2 = self.add(t0, t3), self.sub(t0, t3), self.add(t1, t2), self.sub(t1, t2)
        odd = self.pair(b.add(row[7], row[3]), b.add(row[5], row[1]))
        z3 = self.dot(odd, F_1_175 - F_1_961, F_1_175)
        z4 = self.dot(odd, F_1_175, F_1_175 - F_0_390)
        outer, inner = self.pair(row[7], row[1]), self.pair(row[5], row[3])
        b0 = self.add(self.dot(outer, F_0_298 - F_0_899, -F_0_899), z3)
        b3 = self.add(self.dot(outer, -F_0_899, F_1_501 - F_0_899), z4)
        b1 = self.add(self.dot(inner, F_2_053 - F_2_562, -F_2_562), z4)
        b2 = self.add(self.dot(inner, -F_2_562, F_3_072 - F_2_562), z3)
        pairs = ((a0, b3), (a1, b2), (a2, b1), (a3, b0))
        first = [self.descaled(self.add(a, odd_part), bits) for a, odd_part in pairs]
        last = [self.descaled(self.sub(a, odd_part), bits) for a, odd_part in reversed(pairs)]
        return first + last

    def bytes_of(self, row: list[Any]) -> list[Any]:
        """Eight vectors of samples around 0, column by column -> sixteen 8-byte rows of the blocks, as int64."""
        b = self.builder
        byte = ir.VectorType(I8, 2 * LANES)
        columns = []
        for k in range(4):  # columns k and k + 4 in one vector
            if self.x86:
                function = b.module.declare_intrinsic(
                    "llvm.x86.avx2.packsswb", (), ir.FunctionType(byte, [WORDS, WORDS])
                )
                packed = b.call(function, [row[k], row[k + 4]])
            else:
                order = [
                    lane
                    for base in range(0, LANES, 8)
                    for at in (base, base + LANES)
                    for lane in range(at, at + 8)
                ]
                packed = b.trunc(_clamped(b, _pick(b, row[k], row[k + 4], order), -128, 127), byte)
            columns.append(b.xor(packed, ir.Constant(byte, [128] * 2 * LANES)))
        woven = [_weave(b, columns[0], columns[1], 1), _weave(b, columns[2], columns[3], 1)]
        (a0, a1), (a2, a3) = woven
        (b0, b1), (b2, b3) = _weave(b, a0, a2, 2), _weave(b, a1, a3, 2)
        rows = [*_weave(b, b0, b2, 4), *_weave(b, b1, b3, 4)]
        longs = [b.bitcast(each, ir.VectorType(I64, 4)) for each in rows]
        blocks: list[Any] = [None] * LANES
        for k, each in enumerate(longs):
            for place, block in enumerate((2 * k, 2 * k + 1, 2 * k + 8, 2 * k + 9)):
                blocks[block] = b.extract_element(each, I32(place))
        return blocks


def _weave(builder: Any, first: Any, second: Any, width: int) -> tuple[Any, Any]:
    """Two vectors of bytes, interleaved ``width`` bytes at a time within each 128 bits: the lower and the upper halves."""
    low: list[int] = []
    high: list[int] = []
    for base in (0, 16):
        for half, lanes in ((0, low), (8, high)):
            for at in range(base + half, base + half + 8, width):
                lanes += [*range(at, at + width), *range(at + 32, at + 32 + width)]
    return _pick(builder, first, second, low), _pick(builder, first, second, high)


def _clamped(builder: Any, value: Any, low: int, high: int) -> Any:
    least, most = (ir.Constant(value.type, [number] * value.type.count) for number in (low, high))
    above = builder.select(builder.icmp_signed("<", value, least), least, value)
    return builder.select(builder.icmp_signed(">", above, most), most, above)


def _has_avx2() -> bool:
    """Whether kernels are compiled for a processor with AVX2: x86's instructions are then named, since LLVM finds only some of them."""
    return "+avx2" in cpu_target.target_context.codegen()._tm_features


@intrinsic
def inverse_dct(typing_context, coefficients, quantisation, targets, stride):  # type: ignore[no-untyped-def]
    """Transform a group of 16 blocks, and clear it.

    Args:
        coefficients: address (uint64) of 64 x 16 int16, in the zigzag's order from its end; 0 afterwards.
        quantisation: address (uint64) of 64 int16, in the zigzag's order.
        targets: address (uint64) of 16 uint64: where each block's 8 rows of 8 bytes go (``units.place_blocks`` keeps them inside the planes).
        stride: bytes (uint64) from row to row.

    Returns:
        uint64, 0 if no intermediate result left the range in which all of libjpeg-turbo's transforms are equal.  Products
        of coefficient and quantiser must be at most MAX_COEFFICIENT.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        coefficients, quantisation, targets, stride = arguments
        b = builder
        t = _Transform(b, x86=_has_avx2())

        def place(base, offset, kind):  # type: ignore[no-untyped-def]
            return b.inttoptr(b.add(base, offset), kind.as_pointer())

        def gather(name):  # type: ignore[no-untyped-def]
            collected = cgutils.alloca_once(b, WORDS, name=name)
            b.store(t.zero, collected)
            return collected

        workspace = cgutils.alloca_once(b, WORDS, size=64, name="workspace")
        large, wide = gather("large"), gather("wide")
        zigzag = cgutils.global_constant(b, "zigzag", ir.Constant(ir.ArrayType(I64, 64), ZIGZAG))

        # Loops, not 16 copies: those would be 16 KB of code, half of a first-level instruction cache.
        with cgutils.for_range(b, I64(8), intp=I64) as column:
            row = []
            for y in range(8):
                k = b.load(b.gep(zigzag, [I32(0), b.add(column.index, I64(8 * y))]))
                where = place(coefficients, b.mul(b.sub(I64(63), k), I64(2 * LANES)), WORDS)
                word = b.load(where, align=2)
                b.store(t.zero, where, align=2)
                factor = b.load(place(quantisation, b.mul(k, I64(2)), I16), align=2)
                splat = b.insert_element(ir.Constant(WORDS, ir.Undefined), factor, I32(0))
                row.append(b.mul(word, _pick(b, splat, splat, [0] * LANES)))
            for y, each in enumerate(t.one_dimension(row, CONST_BITS - PASS1_BITS)):
                b.store(each, b.gep(workspace, [b.add(column.index, I64(8 * y))]))
        addresses = [b.load(place(targets, I64(8 * k), I64), align=8) for k in range(LANES)]
        with cgutils.for_range(b, I64(8), intp=I64) as line:
            row = [b.load(b.gep(workspace, [b.add(b.mul(line.index, I64(8)), I64(x))])) for x in range(8)]
            seen = b.load(large)
            for x in (0, 1, 3, 4, 5, 7):  # those that the second pass adds in 16 bits
                seen = b.or_(seen, b.add(row[x], t.words(MAX_COEFFICIENT + 1)))
            b.store(seen, large)
            row = t.one_dimension(row, CONST_BITS + PASS1_BITS + 3)
            seen = b.load(wide)
            for each in row:
                seen = b.or_(seen, b.add(each, t.words(512)))
            b.store(seen, wide)
            offset = b.mul(stride, line.index)
            for address, value in zip(addresses, t.bytes_of(row)):
                b.store(value, b.inttoptr(b.add(address, offset), I64.as_pointer()), align=1)
        large, wide = b.load(large), b.load(wide)
        flags = b.or_(b.and_(large, t.words(-(1 << 15))), b.and_(wide, t.words(-(1 << 10))))
        parts = b.bitcast(flags, ir.VectorType(I64, 4))
        left = b.extract_element(parts, I32(0))
        for k in range(1, 4):
            left = b.or_(left, b.extract_element(parts, I32(k)))
        return left

    return types.uint64(*[types.uint64] * 4), generate
