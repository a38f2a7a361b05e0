"""Planes to interleaved pixels, for every width beside a vector register's."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.decode.interleave import interleave


@pytest.mark.parametrize("size", [1, 15, 16, 17, 33, 64, 224])
def test_interleaving_is_a_transpose_for_every_height_width_and_first_column(size: int) -> None:
    rng = np.random.default_rng(size)
    planes = rng.integers(0, 256, (3, 3, size, size), np.uint8)
    for height, width in {(size, size), (1, size), (size, 1), (size // 2 + 1, size - size // 3)}:
        lefts = rng.integers(0, size - width + 1, 3)
        out = np.zeros((5, height, width, 3), np.uint8)
        interleave(planes, lefts, out[1:4])
        for k in range(3):
            wanted = planes[k, :, :height, lefts[k] : lefts[k] + width].transpose(1, 2, 0)
            assert np.array_equal(out[1 + k], wanted)
        assert not out[0].any() and not out[4].any()
