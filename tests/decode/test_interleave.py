"""Planes to interleaved pixels, for every width beside a vector register's."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.decode.interleave import interleave


@pytest.mark.parametrize("size", [1, 15, 16, 17, 33, 64, 224])
def test_interleaving_is_a_transpose_for_every_height_and_width(size: int) -> None:
    rng = np.random.default_rng(size)
    for height, width in {(size, size), (1, size), (size, 1), (size // 2 + 1, size - size // 3)}:
        planes = rng.integers(0, 256, (3, 3, height, width), np.uint8)
        out = np.zeros((5, height, width, 3), np.uint8)
        interleave(planes, out[1:4])
        for k in range(3):
            assert np.array_equal(out[1 + k], planes[k].transpose(1, 2, 0))
        assert not out[0].any() and not out[4].any()
