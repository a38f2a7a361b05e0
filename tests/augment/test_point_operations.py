"""Each kernel next to torchvision's function of the same name, on real photos and on every value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alexnet_fast.augment import point_operations as kernels
from beside_torchvision import Difference, by_torch, difference, functional, photos

SIZES = (224, 37, 5)
FACTORS = (0.0, 0.1, 0.37, 0.999, 1.0, 1.3, 1.9, 3.9)


def changed(kernel: Callable[..., None], images: np.ndarray, *arguments: Any) -> np.ndarray:
    out = images.copy()
    for image in out:
        kernel(image, *arguments)
    return out


def all_values(size: int = 32) -> np.ndarray:
    """(2, 3, size, size) uint8: every value in every channel, and next to many others."""
    rng = np.random.default_rng(0)
    ramp = np.arange(3 * size * size).astype(np.uint8).reshape(1, 3, size, size)
    return np.concatenate([ramp, rng.integers(0, 256, ramp.shape, np.uint8)])


def compare(kernel: Callable[..., None], name: str, *arguments: Any, theirs: Any = None) -> Difference:
    """The largest differences of the kernel from torchvision's function, over all sizes."""
    function, found = getattr(functional(), name), []
    for images in (*map(photos, SIZES), all_values()):
        expected = by_torch(function, images, *(arguments if theirs is None else theirs))
        found.append(difference(changed(kernel, images, *arguments), expected))
    return Difference(*map(max, zip(*found)))  # type: ignore[arg-type]


def test_invert_posterize_solarize_and_equalize_are_torchvisions_to_the_bit() -> None:
    assert compare(kernels.invert_image, "invert").most == 0
    assert compare(kernels.equalize_image, "equalize").most == 0
    for bits in range(9):
        assert compare(kernels.posterize_image, "posterize", bits).most == 0
    for threshold in (0, 1, 100, 128, 255):
        assert compare(kernels.solarize_image, "solarize", threshold).most == 0


def test_grey_is_torchvisions_to_one_level_in_one_pixel_of_a_hundred() -> None:
    found = compare(kernels.grey_image, "rgb_to_grayscale", theirs=(3,))
    assert found.most <= 1 and found.share < 0.02


def test_auto_contrast_is_torchvisions_to_one_level() -> None:
    found = compare(kernels.auto_contrast_image, "autocontrast")
    assert found.most <= 1 and found.share < 0.2


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_contrast_and_saturation_are_torchvisions_to_one_level(factor: float) -> None:
    for kernel, name in (
        (kernels.brighten_image, "adjust_brightness"),
        (kernels.contrast_image, "adjust_contrast"),
        (kernels.saturate_image, "adjust_saturation"),
    ):
        found = compare(kernel, name, factor)
        # A grey that is one level off is multiplied by the factor's distance from 1.
        assert found.most <= max(1, abs(1 - factor) + 0.5) and found.share < 0.25, (name, found)
    if factor == 1.0:
        assert compare(kernels.brighten_image, "adjust_brightness", 1.0).most == 0


@pytest.mark.parametrize("turn", [-0.5, -0.31, -0.1, -0.001, 0.0, 0.02, 0.25, 0.5])
def test_hue_is_torchvisions_to_one_level(turn: float) -> None:
    found = compare(kernels.shift_hue_image, "adjust_hue", turn)
    assert found.most <= 1 and found.share < 0.1
    if turn == 0:
        assert found.most == 0


def test_hue_keeps_greys_and_turns_every_colour_as_torchvision_does() -> None:
    """All pairs of two channels next to every third of the third channel's values."""
    levels = np.arange(0, 256, 5).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels)).reshape(3, -1)
    side = int(np.ceil(grid.shape[1] ** 0.5))
    images = np.zeros((1, 3, side, side), np.uint8)
    images.reshape(3, -1)[:, : grid.shape[1]] = grid
    for turn in (-0.4, 0.13, 1 / 3):
        expected = by_torch(functional().adjust_hue, images, turn)
        assert difference(changed(kernels.shift_hue_image, images, turn), expected).most <= 1
    greys = np.repeat(np.arange(256).astype(np.uint8), 3).reshape(1, 16, 16, 3).transpose(0, 3, 1, 2).copy()
    assert np.array_equal(changed(kernels.shift_hue_image, greys, 0.3), greys)


def test_an_image_of_one_colour_stays_where_there_is_nothing_to_stretch() -> None:
    flat = np.full((1, 3, 9, 9), 77, np.uint8)
    assert np.array_equal(changed(kernels.auto_contrast_image, flat), flat)
    assert np.array_equal(changed(kernels.equalize_image, flat), flat)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 11, 33])
def test_nothing_beyond_the_image_is_written(size: int) -> None:
    """Rows that are no multiple of a vector end in a copy."""
    calls: list[tuple[Callable[..., None], tuple[float, ...]]] = [
        (kernels.invert_image, ()),
        (kernels.brighten_image, (1.5,)),
        (kernels.contrast_image, (1.5,)),
        (kernels.saturate_image, (1.5,)),
        (kernels.shift_hue_image, (0.2,)),
        (kernels.auto_contrast_image, ()),
        (kernels.equalize_image, ()),
    ]
    for kernel, arguments in calls:
        images = np.random.default_rng(0).integers(20, 200, (3, 3, size, size), np.uint8)
        before = images.copy()
        kernel(images[1], *arguments)
        assert np.array_equal(images[[0, 2]], before[[0, 2]]), kernel
