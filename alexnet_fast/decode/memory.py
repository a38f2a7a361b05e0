"""Loads and stores at addresses, for kernels whose inner loop cannot pay for numba's arrays.

numba counts a reference up and down for each slice, and tests each signed index for "counted from the end".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _load(bits: int, numba_type: Any, *, signed: bool = False, swapped: bool = False) -> Callable[..., Any]:
    def load(typing_context, address):  # type: ignore[no-untyped-def]
        """The number at an address (int64 or uint64) of any alignment."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            kind = ir.IntType(bits)
            value = builder.load(builder.inttoptr(arguments[0], kind.as_pointer()), align=1)
            if swapped:
                value = builder.bswap(value)
            if bits == 64:
                return value
            return (builder.sext if signed else builder.zext)(value, ir.IntType(64))

        return numba_type(address), generate

    return intrinsic(load)


load8 = _load(8, types.uint64)
load16 = _load(16, types.uint64)
load16_signed = _load(16, types.int64, signed=True)
load32 = _load(32, types.uint64)
load64 = _load(64, types.uint64)
load_int = _load(64, types.int64)
load64_swapped = _load(64, types.uint64, swapped=True)  # little-endian machines alone: numba has no other


def _store(bits: int) -> Callable[..., Any]:
    def store(typing_context, address, value):  # type: ignore[no-untyped-def]
        """Write the lower bits of ``value`` (int64 or uint64) to an address of any alignment."""

        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            address, value = arguments
            kind = ir.IntType(bits)
            if bits < 64:
                value = builder.trunc(value, kind)
            builder.store(value, builder.inttoptr(address, kind.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(address, value), generate

    return intrinsic(store)


store8, store16, store32, store64 = _store(8), _store(16), _store(32), _store(64)


@intrinsic
def sign_mask(typing_context, value):  # type: ignore[no-untyped-def]
    """All ones where a uint64's highest bit is set, else 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.ashr(arguments[0], ir.IntType(64)(63))

    return types.uint64(types.uint64), generate


@intrinsic
def trailing_zeros(typing_context, value):  # type: ignore[no-untyped-def]
    """Zeros below a uint64's lowest one; it must not be 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def rarely(typing_context, condition):  # type: ignore[no-untyped-def]
    """A condition (bool) that is seldom true: what happens then is laid out apart from the code that runs always."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        bit = ir.IntType(1)
        expect = builder.module.declare_intrinsic("llvm.expect", [bit], ir.FunctionType(bit, [bit, bit]))
        return builder.call(expect, [arguments[0], bit(0)])

    return types.boolean(types.boolean), generate


STEP = 32
"""Bytes that `copy_step` copies."""


@intrinsic
def copy_step(typing_context, source, target):  # type: ignore[no-untyped-def]
    """Copy 32 bytes between addresses (int64); returns a uint64 whose bit k is set where byte k is 0xFF."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.VectorType(ir.IntType(8), STEP)
        source, target = (builder.inttoptr(address, kind.as_pointer()) for address in arguments)
        value = builder.load(source, align=1)
        builder.store(value, target, align=1)
        equal = builder.icmp_unsigned("==", value, ir.Constant(kind, [0xFF] * STEP))
        return builder.zext(builder.bitcast(equal, ir.IntType(STEP)), ir.IntType(64))

    return types.uint64(types.int64, types.int64), generate


@intrinsic
def get(typing_context, address, field):  # type: ignore[no-untyped-def]
    """Number ``field`` (int64) of the int64 numbers at an address."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        where = builder.add(arguments[0], builder.mul(arguments[1], ir.IntType(64)(8)))
        return builder.load(builder.inttoptr(where, ir.IntType(64).as_pointer()), align=8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def put(typing_context, address, field, value):  # type: ignore[no-untyped-def]
    """Set number ``field`` (int64) of the int64 numbers at an address."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        where = builder.add(arguments[0], builder.mul(arguments[1], ir.IntType(64)(8)))
        builder.store(arguments[2], builder.inttoptr(where, ir.IntType(64).as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def fetch_add(typing_context, address, number):  # type: ignore[no-untyped-def]
    """Add to the int64 at an address, as one step for all threads; returns what was there before."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        where = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", where, arguments[1], "monotonic")

    return types.int64(types.int64, types.int64), generate
