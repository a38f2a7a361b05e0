"""Sums of float32 numbers that are exact, so that no order, batch size or number of ranks changes them.

A sum of floats depends on its order.  Here a number's 24 bits are added, as an integer, to one of 32 slots, chosen by its
exponent: a sum of integers is the same in any order, on every device.  `mean` combines the slots on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EXPONENTS = 8  # of one slot: 24 bits, shifted by up to 7, leave room for 2^32 numbers in an int64
FINITE = 256 // EXPONENTS
SLOTS = FINITE + 1  # the last counts numbers that are not finite
UNIT = 127 + 23  # a float32 is its 24 bits times 2^(exponent - UNIT)


def slots(numbers: Tensor) -> Tensor:
    """The sum of `numbers`, float32 (N,) and not negative, as int64 (SLOTS,), which can be added to others."""
    bits = numbers.contiguous().view(torch.int32).long()
    exponent, mantissa = bits >> 23 & 0xFF, bits & 0x7FFFFF
    is_finite = exponent < 0xFF
    mantissa = (
        mantissa + (exponent > 0) * 0x800000
    )  # the leading bit, which is not stored; subnormal numbers have none
    shift = exponent.clamp(min=1) % EXPONENTS
    slot = torch.where(is_finite, exponent.clamp(min=1) // EXPONENTS, FINITE)
    amount = torch.where(is_finite, mantissa << shift, 1)
    # A comparison with each slot, not scatter_add: every device has the operations that it needs.
    own = slot[:, None] == torch.arange(SLOTS, device=numbers.device)
    return (own * amount[:, None]).sum(0)


def mean(total: Sequence[int], count: int) -> float:
    """The mean of `count` numbers, from the sum of their `slots`, correctly rounded; infinite if one was not finite."""
    *finite, others = total
    if others:
        return float("inf")
    return sum(each << EXPONENTS * k for k, each in enumerate(finite)) / (max(1, count) << UNIT)
