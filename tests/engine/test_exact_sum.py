"""Sums that no order changes, against fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from alexnet_fast.engine import exact_sum


def of_every_size(count: int, seed: int = 0) -> Tensor:
    """Positive float32 of every exponent, among them zero and the smallest ones."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 0x7F800000, (count,), generator=generator)
    bits[:4] = torch.tensor([0, 1, 0x7FFFFF, 0x7F7FFFFF])
    return bits.to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("seed", range(5))
def test_a_mean_is_the_exact_one_rounded_once(seed: int) -> None:
    numbers = of_every_size(1000, seed)
    total = exact_sum.slots(numbers)
    assert total.dtype is torch.int64 and total.shape == (exact_sum.SLOTS,)
    expected = sum(map(Fraction, numbers.tolist())) / 1000
    assert exact_sum.mean(total.tolist(), 1000) == float(expected)


def test_neither_order_nor_parts_change_a_sum() -> None:
    numbers = of_every_size(999)
    whole = exact_sum.slots(numbers)
    order = torch.randperm(999, generator=torch.Generator().manual_seed(0))
    for size in (1, 7, 500):
        parts = [exact_sum.slots(part) for part in numbers[order].split(size)]
        assert torch.equal(torch.stack(parts).sum(0), whole)


def test_small_numbers_next_to_large_ones_are_not_lost() -> None:
    numbers = torch.tensor([2.0**60, 1.0, 2.0**-60])
    (total,) = (exact_sum.slots(numbers).tolist(),)
    without = exact_sum.slots(numbers[:1]).tolist()
    assert total != without
    less = [one - other for one, other in zip(total, without, strict=True)]
    assert exact_sum.mean(less, 1) == 1.0 and exact_sum.mean(total, 1) == 2.0**60


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_number_that_is_not_finite_makes_the_mean_infinite(bad: float) -> None:
    total = exact_sum.slots(torch.tensor([1.0, bad, 2.0]))
    assert exact_sum.mean(total.tolist(), 3) == float("inf")


def test_of_no_numbers_the_mean_is_zero() -> None:
    assert exact_sum.mean(exact_sum.slots(torch.zeros(0)).tolist(), 0) == 0
