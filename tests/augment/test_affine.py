"""Affine next to torchvision's, with the amounts that were drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_fast.augment.affine import Affine, draw_affine
from alexnet_fast.errors import UserError
from beside_torchvision import applied, difference, functional, keys_of, photos

ALL = Affine(40, (0.2, 0.1), (0.6, 1.5), 20, (-10, 30), fill=(1, 2, 3))


@pytest.mark.parametrize("sides", [(224, 224), (150, 224)])
@pytest.mark.parametrize("made", [Affine(), ALL, Affine(0, (0.5, 0.5)), Affine(0, shear_x=30)], ids=repr)
def test_it_is_torchvisions_but_for_pixels_that_lie_between_two(made: Affine, sides: tuple[int, int]) -> None:
    images, keys = photos(sides, 20), keys_of(20)
    fill = list(map(float, np.broadcast_to(made.fill, 3)))
    expected = []
    for image, key in zip(images, keys):
        angle, across, down, scale, *shear = draw_affine(key, *sides, made.ranges)
        given = torch.from_numpy(image.copy())
        moved = functional().affine(given, angle, [int(across), int(down)], scale, shear, fill=fill)
        expected.append(moved.numpy())
    assert difference(applied(made, images, keys), np.stack(expected)).share < 1e-4
    assert difference(images, np.stack(expected)).mean > 5


def test_amounts_are_uniform_and_moves_are_whole_pixels() -> None:
    drawn = np.array([draw_affine(key, 200, 200, ALL.ranges) for key in keys_of(4000)])
    for values, (low, high) in zip(
        drawn.T, ((-40, 40), (-40, 40), (-20, 20), (0.6, 1.5), (-20, 20), (-10, 30))
    ):
        assert low <= values.min() and values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
        assert abs(values.std() - (high - low) / 12**0.5) < 0.03 * (high - low)
    assert np.array_equal(drawn[:, 1:3], np.round(drawn[:, 1:3]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"degrees": 200}, "Affine.degrees = 200 is out of range, expected 0 to 180"),
        ({"translate": 0.1}, "Affine.translate = 0.1 is not a pair of numbers, expected two numbers, 0 to 1"),
        ({"scale": (0, 1)}, "Affine.scale = (0, 1) is out of range, expected least and most, 0.1 <="),
        ({"shear_x": 90}, "Affine.shear_x = 90 is out of range, expected 0 to 80"),
        ({"fill": -1}, "Affine.fill = -1 is out of range, expected 0 to 255"),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Affine(**given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
