"""The vector code, against the same arithmetic in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.decode.resample import cubic_taps, max_taps, transpose, triangle_taps, ycbcr_row
from alexnet_fast.decode.simd import (
    VECTOR_PIXELS,
    copy_bytes,
    filter_rows,
    filter_rows_signed,
    split_rgb,
)
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
def blended_by_signed(rows, weights, target):
    filter_rows_signed(
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


def keys_kernel(distance: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = -0.5 (Keys, 1981), as Pillow's Resample.c has it."""
    x = np.abs(distance)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@pytest.mark.parametrize("length", [40.0, 224.0, 300.5, 1000.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_cubic_taps_sum_to_one_and_are_keys_kernel(length: float, mirrored: bool) -> None:
    size = 224
    first, count = np.zeros(size, np.int32), np.zeros(size, np.int32)
    weights = np.zeros((size, max_taps(1000, size, 1)), np.uint16)
    cubic_taps(3.0, length, size, 0, 1100, mirrored, first, count, weights)
    signed = weights.view(np.int16).astype(np.int64)
    shrinks = max(length / size, 1.0)
    for x in (0, 1, 100, 223):
        at = size - 1 - x if mirrored else x
        taps = np.arange(first[at], first[at] + count[at]) + 0.5
        kernel = keys_kernel((taps - 3.0 - (x + 0.5) * length / size) / shrinks)
        assert signed[at, : count[at]].sum() == 1 << 14
        assert np.abs(signed[at, : count[at]] / (1 << 14) - kernel / kernel.sum()).max() <= 1.01 / (1 << 14)
        beyond = (first[at] - 1, first[at] + count[at])  # what is left out has no weight
        outside = [each for each in beyond if 0 <= each < 1100]
        assert (
            np.abs(keys_kernel((np.array(outside) + 0.5 - 3.0 - (x + 0.5) * length / size) / shrinks)).max()
            < 1e-2
        )


@pytest.mark.parametrize("count", [1, 4, 5, 8, 13, 33, 60])
@pytest.mark.parametrize("steps", [1, 7])
def test_rows_are_blended_by_weights_of_either_sign_cut_to_bytes_and_nothing_is_written_behind_them(
    count: int, steps: int
) -> None:
    rng = np.random.default_rng(count)
    rows = noise(count, steps * VECTOR_PIXELS)
    weights = rng.uniform(-0.3, 1, count)
    weights = np.floor(weights / weights.sum() * (1 << 14)).astype(np.int16)
    weights[0] += (1 << 14) - int(weights.sum(dtype=np.int64))
    target = np.full(steps * VECTOR_PIXELS + 1, GUARD, np.uint8)
    blended_by_signed(rows, weights.view(np.uint16), target)
    exact = np.tensordot(weights.astype(np.float64), rows.astype(np.float64), 1) / (1 << 14)
    assert np.abs(target[:-1] - exact.clip(0, 255)).max() <= 0.5 + count / 128
    assert target[-1] == GUARD


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("weights", [[1 << 14], [-1024, 9216, 9216, -1024], [-500, 100, 17384, -600]])
def test_a_flat_row_stays_what_it_is_under_weights_of_either_sign(value: int, weights: list[int]) -> None:
    rows = np.full((len(weights), VECTOR_PIXELS), value, np.uint8)
    target = np.empty(VECTOR_PIXELS, np.uint8)
    blended_by_signed(rows, np.array(weights, np.int16).view(np.uint16), target)
    assert (target == value).all()
