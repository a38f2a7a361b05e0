"""The vector code, against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.decode.resample import transpose, triangle_taps, ycbcr_row
from alexnet_fast.decode.simd import VECTOR_PIXELS, copy_bytes, filter_rows, split_rgb
from alexnet_fast.kernel_cache import kernel

U = np.uintp
GUARD = 77


@kernel
def blended(rows, weights, target):
    filter_rows(
        U(rows.ctypes.data),
        U(rows.strides[0]),
        U(weights.ctypes.data),
        U(len(weights)),
        U(target.ctypes.data),
        U(rows.shape[1]),
    )


@kernel
def split(pixels, rows):
    split_rgb(
        U(pixels.ctypes.data),
        U(rows[0].ctypes.data),
        U(rows[1].ctypes.data),
        U(rows[2].ctypes.data),
        U(rows.shape[1]),
    )


@kernel
def coloured(planes, width, out):
    ycbcr_row(planes, width, U(out[0].ctypes.data), U(out[1].ctypes.data), U(out[2].ctypes.data))


@kernel
def copied(source, target, count):
    copy_bytes(U(source.ctypes.data), U(target.ctypes.data), U(count))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 50])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_rows_are_blended_to_the_rounded_sum_and_nothing_is_written_behind_them(
    count: int, steps: int
) -> None:
    rows = noise(count, steps * VECTOR_PIXELS)
    cuts = np.sort(np.random.default_rng(count).integers(0, 257, count - 1))
    weights = np.diff(np.concatenate([[0], cuts, [256]])).astype(np.uint16)
    target = np.full(steps * VECTOR_PIXELS + 1, GUARD, np.uint8)
    blended(rows, weights, target)
    expected = (np.tensordot(weights.astype(np.int64), rows.astype(np.int64), 1) + 128) >> 8
    assert np.array_equal(target[:-1], expected)
    assert target[-1] == GUARD


@pytest.mark.parametrize("value", [0, 255])
def test_the_ends_of_the_scale_stay_where_they_are(value: int) -> None:
    rows = np.full((7, VECTOR_PIXELS), value, np.uint8)
    target = np.empty(VECTOR_PIXELS, np.uint8)
    blended(rows, np.array([36, 37, 36, 37, 36, 37, 37], np.uint16), target)
    assert (target == value).all()


@pytest.mark.parametrize("width", [1, 31, 32, 33, 64, 224, 227])
def test_colours_are_jfifs_to_one_level_and_end_with_the_row(width: int) -> None:
    stride = -(-width // VECTOR_PIXELS) * VECTOR_PIXELS
    planes = noise(3, stride)
    out = np.full((3, width + 1), GUARD, np.uint8)
    y, cb, cr = planes[:, :width].astype(np.float64)
    coloured(planes, width, out)
    exact = np.stack(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ]
    )
    assert np.abs(out[:, :width] - exact.clip(0, 255)).max() < 0.75
    assert (out[:, width] == GUARD).all()


def test_every_colour_is_at_most_a_seventh_of_a_level_beside_exact_rounding() -> None:
    worst = 0.0
    blue, red = (plane.reshape(-1).astype(np.uint8) for plane in np.mgrid[:256:3, :256:3])
    width = len(blue)
    stride = -(-width // VECTOR_PIXELS) * VECTOR_PIXELS
    for luma in range(0, 256, 5):
        planes = np.zeros((3, stride), np.uint8)
        planes[:, :width] = np.full(width, luma), blue, red
        out = np.empty((3, width), np.uint8)
        coloured(planes, width, out)
        cb, cr = blue - 128.0, red - 128.0
        exact = np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb])
        worst = max(worst, float(np.abs(out - exact.clip(0, 255)).max()) - 0.5)
    assert worst <= 0.14


def test_squares_are_transposed() -> None:
    source, target = noise(48, 80), np.zeros((64, 48), np.uint8)
    transpose(source, target, 3, 4)
    assert np.array_equal(target, source[:, :64].T)


def test_pixels_are_split_into_rows() -> None:
    pixels, rows = noise(96, 3), np.zeros((3, 96), np.uint8)
    split(pixels, rows)
    assert np.array_equal(rows, pixels.T)


def test_as_many_bytes_are_copied_as_are_asked_for() -> None:
    source, target = noise(40), np.full(41, GUARD, np.uint8)
    copied(source, target, 40)
    assert np.array_equal(target[:40], source) and target[40] == GUARD


@pytest.mark.parametrize("length", [40.0, 224.0, 300.5, 1000.0])
def test_taps_sum_to_256_and_are_the_triangle(length: int) -> None:
    size, most = 224, 12
    first, count = np.zeros(size, np.int32), np.zeros(size, np.int32)
    weights = np.zeros((size, most), np.uint16)
    triangle_taps(3.0, length, size, 0, 1100, False, first, count, weights)
    scale = length / size
    radius = max(scale, 1.0)
    for x in (0, 1, 100, 223):
        centre = 3.0 + (x + 0.5) * scale
        taps = np.arange(first[x], first[x] + count[x]) + 0.5
        triangle = np.maximum(radius - np.abs(taps - centre), 0)
        assert weights[x, : count[x]].sum() == 256
        assert np.abs(weights[x, : count[x]] / 256 - triangle / triangle.sum()).max() <= 1.01 / 256
