"""Sharpening and blur next to torchvision's, on real photos."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.augment.neighbourhoods import blur_image, scratch_bytes, sharpen_image
from alexnet_fast.common.sizes import Size
from beside_torchvision import by_torch, difference, functional, photos


def blurred(images: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    out = images.copy()
    scratch = np.empty(scratch_bytes(*images.shape[2:], radius), np.uint8)
    for image in out:
        blur_image(image, radius, sigma, scratch)
    return out


def sharpened(images: np.ndarray, factor: float) -> np.ndarray:
    out = images.copy()
    scratch = np.empty(scratch_bytes(*images.shape[2:], 1), np.uint8)
    for image in out:
        sharpen_image(image, factor, scratch)
    return out


@pytest.mark.parametrize("size", [224, 37, 12, 5, 2, 1, (160, 224), (70, 33), (9, 2)])
def test_sharpening_is_torchvisions_to_one_level(size: Size) -> None:
    images = photos(size)
    for factor in (0.0, 0.1, 1.0, 1.9, 3.0):
        found = difference(sharpened(images, factor), by_torch(functional().adjust_sharpness, images, factor))
        assert found.most <= 1 and found.share < 0.1, factor
    assert np.array_equal(sharpened(images, 1.0), images)


@pytest.mark.parametrize("size", [224, 37, 12, (160, 224), (70, 33)])
@pytest.mark.parametrize(("radius", "sigma"), [(1, 0.1), (1, 0.5), (2, 1.0), (3, 0.8), (11, 0.4), (11, 2.0)])
def test_blur_is_torchvisions_to_one_level(size: Size, radius: int, sigma: float) -> None:
    images, side = photos(size), 2 * radius + 1
    expected = by_torch(functional().gaussian_blur, images, [side, side], [sigma, sigma])
    found = difference(blurred(images, radius, sigma), expected)
    assert found.most <= 1 and found.mean < 0.25


def test_a_wide_blur_keeps_the_mean_and_an_even_image() -> None:
    images = photos(64)
    assert abs(blurred(images, 31, 20.0).mean() - images.mean()) < 1.5
    for level in (0, 1, 128, 255):
        flat = np.full((1, 3, 40, 40), level, np.uint8)
        for radius, sigma in ((3, 1.0), (20, 9.0)):
            assert np.abs(blurred(flat, radius, sigma).astype(int) - level).max() <= (level > 0)


@pytest.mark.parametrize("size", [3, 33, 40])
def test_nothing_beyond_the_image_is_written(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, size, size), np.uint8)
    before = images.copy()
    sharpen_image(images[1], 2.0, np.empty(scratch_bytes(size, size, 1), np.uint8))
    blur_image(images[1], 2, 1.5, np.empty(scratch_bytes(size, size, 2), np.uint8))
    assert np.array_equal(images[[0, 2]], before[[0, 2]]) and not np.array_equal(images[1], before[1])
