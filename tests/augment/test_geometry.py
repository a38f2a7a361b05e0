"""Affine maps next to torchvision's, on real photos, with nearest pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from alexnet_fast.augment.geometry import (
    first_inside,
    inverse_affine,
    map_image,
    map_image_smoothly,
    map_scratch_bytes,
)
from alexnet_fast.common.sizes import Size, sides
from beside_torchvision import by_torch, difference, functional, photos

FILL = (10, 20, 30)
Affine = tuple[float, tuple[int, int], float, tuple[float, float], bool]
SLOPE = math.degrees(math.atan(0.09))
# At 30 and 45 degrees whole rows of pixels lie exactly between two, where torchvision's float32 decides by its errors.
MAPS: list[Affine] = [  # angle, (across, down), scale, (shear across, shear down), about the corner
    (0, (20, 0), 1.0, (0, 0), False),
    (0, (3, -20), 1.0, (0, 0), False),
    (0, (500, 0), 1.0, (0, 0), False),
    (0, (0, 0), 1.0, (SLOPE, 0), True),
    (0, (0, 0), 1.0, (-SLOPE, 0), True),
    (0, (0, 0), 1.0, (0, SLOPE), True),
    (0, (0, 0), 1.0, (0, -SLOPE), True),
    (9, (0, 0), 1.0, (0, 0), False),
    (
        -29,
        (0, 0),
        1.0,
        (0, 0),
        False,
    ),  # at 30 of an odd side many lie exactly between two, where float32 decides by its errors
    (90, (0, 0), 1.0, (0, 0), False),
    (180, (0, 0), 1.0, (0, 0), False),
    (134, (5, 5), 0.7, (0, 0), False),
    (-100, (3, 9), 1.3, (5, 7), False),
    (10, (0, 0), 4.0, (-20, 30), False),
]


def matrix_of(size: Size, affine: Affine) -> Any:
    """Of an image of this size."""
    height, width = sides(size)
    angle, move, scale, shear, at_corner = affine
    centre = (-width / 2, -height / 2) if at_corner else (0.0, 0.0)
    return inverse_affine(
        float(angle), float(move[0]), float(move[1]), scale, float(shear[0]), float(shear[1]), *centre
    )


def torchvisions(images: np.ndarray, affine: Affine, **options: Any) -> np.ndarray:
    angle, move, scale, shear, at_corner = affine
    given = {"angle": angle, "translate": list(move), "scale": scale, "shear": list(shear)}
    return by_torch(functional().affine, images, **given, center=[0, 0] if at_corner else None, **options)


@pytest.mark.parametrize("size", [224, 37, 5, 1, (160, 224), (61, 33)])
@pytest.mark.parametrize("affine", MAPS)
def test_a_map_is_torchvisions_but_for_pixels_that_lie_between_two(size: Size, affine: Affine) -> None:
    images = photos(size)
    out, scratch = images.copy(), np.empty(images[0].size, np.uint8)
    for image in out:
        map_image(image, matrix_of(size, affine), np.array(FILL, np.uint8), scratch)
    expected = torchvisions(images, affine, fill=list(map(float, FILL)))
    assert difference(out, expected).share < 1e-4


@pytest.mark.parametrize("size", [224, 37, 5, 1, (160, 224), (61, 33)])
@pytest.mark.parametrize("affine", MAPS)
def test_a_bilinear_map_is_torchvisions_to_two_levels(size: Size, affine: Affine) -> None:
    """Pixels are weighed in 256ths here."""
    images = photos(size)
    out, scratch = images.copy(), np.empty(map_scratch_bytes(*images.shape[2:]), np.uint8)
    for image in out:
        map_image_smoothly(image, matrix_of(size, affine), np.zeros(3, np.uint8), scratch)
    bilinear = functional().InterpolationMode.BILINEAR
    found = difference(out, torchvisions(images, affine, interpolation=bilinear))
    assert found.most <= 2 and (size == 1 or found.mean < 0.35)


def test_a_bilinear_map_blends_into_the_fill_at_the_edges() -> None:
    image, fill = np.full((3, 9, 9), 200, np.uint8), np.array([0, 100, 200], np.uint8)
    matrix = inverse_affine(0.0, 2.5, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    map_image_smoothly(image, matrix, fill, np.empty(map_scratch_bytes(9, 9), np.uint8))
    assert image[:, 4].tolist() == [
        [0, 0, 100, 200, 200, 200, 200, 200, 200],
        [100, 100, 150, 200, 200, 200, 200, 200, 200],
        [200] * 9,
    ]


@pytest.mark.parametrize("step", [0, 1, -1, 1 << 31, -(1 << 31), 3 << 32, -(7 << 32) - 5, 12345])
def test_the_pixels_inside_are_those_whose_place_is(step: int) -> None:
    size, count = 9, 40
    for start in (-(50 << 32), -(3 << 32) - 1, -1, 0, 1, (9 << 32) - 1, 9 << 32, 60 << 32, 5 << 31):
        inside = [k for k in range(count) if 0 <= start + k * step < size << 32]
        low, high = first_inside(start, step, size, count)
        assert list(range(low, high)) == inside or (not inside and low >= high)
