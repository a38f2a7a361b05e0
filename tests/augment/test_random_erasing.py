"""RandomErasing: the rectangle, its size and place as torchvision draws them, and what it is filled with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_fast.augment.random_erasing import RandomErasing, draw_rectangle
from alexnet_fast.common.sizes import Size, sides
from alexnet_fast.errors import UserError
from beside_torchvision import applied, functional, keys_of, photos, transforms


def rectangles(operation: RandomErasing, size: Size, count: int) -> np.ndarray:
    return np.array(
        [draw_rectangle(key, sides(size), operation.scale, operation.ratio) for key in keys_of(count)]
    )


@pytest.mark.parametrize("value", [0, 130, (10, 20, 30)])
def test_it_is_torchvisions_erase_of_the_rectangle_that_was_drawn(
    value: float | tuple[int, int, int],
) -> None:
    operation, images = RandomErasing(value=value), photos()
    colour = torch.tensor(value, dtype=torch.uint8).reshape(-1, 1, 1)
    expected = [
        functional().erase(torch.from_numpy(image.copy()), *box.tolist(), colour).numpy()
        for image, box in zip(images, rectangles(operation, 224, 10))
    ]
    assert np.array_equal(applied(operation, images), np.stack(expected))


@pytest.mark.parametrize("size", [224, 64, (60, 224)])
def test_rectangles_are_as_large_and_as_long_as_torchvisions(size: Size) -> None:
    torch.manual_seed(0)
    operation, theirs = RandomErasing(), transforms().RandomErasing()
    ours = rectangles(operation, size, 3000)
    image = torch.zeros(3, *sides(size), dtype=torch.uint8)
    drawn = [theirs.make_params([image]) for _ in range(3000)]
    expected = np.array([[each[name] for name in "ijhw"] for each in drawn])
    spread = expected.std(0) / 3000**0.5
    assert (np.abs(ours.mean(0) - expected.mean(0)) < 5 * spread).all()
    assert (np.abs(ours.std(0) / expected.std(0) - 1) < 0.08).all()
    assert (ours >= 0).all() and (ours[:, :2] + ours[:, 2:] <= sides(size)).all()


def test_noise_is_even_and_differs_in_every_image_and_outside_nothing_is_changed() -> None:
    operation, images = RandomErasing((0.3, 0.33), (1, 1), "random"), photos()
    out = applied(operation, images)
    noises = []
    for image, before, (top, left, height, width) in zip(out, images, rectangles(operation, 224, 10)):
        inside = np.zeros((224, 224), bool)
        inside[top : top + height, left : left + width] = True
        assert np.array_equal(image[:, ~inside], before[:, ~inside])
        noises.append(image[:, inside])
        histogram = np.bincount(noises[-1].reshape(-1), minlength=256)
        expected = noises[-1].size / 256
        assert ((histogram - expected) ** 2 / expected).sum() < 350  # chi-squared of 255, one in 10,000
        assert abs(np.corrcoef(noises[-1])[0, 1]) < 0.03
    assert len({noise.tobytes() for noise in noises}) == 10


def test_where_no_rectangle_fits_the_image_stays() -> None:
    images = photos(37)
    assert np.array_equal(applied(RandomErasing((0.9, 1.0), (8, 9)), images), images)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": (0, 0.5)}, "RandomErasing.scale = (0, 0.5) is out of range"),
        ({"ratio": 3}, "RandomErasing.ratio = 3 is not a pair of numbers"),
        ({"value": 256}, "RandomErasing.value = 256 is out of range, expected 0 to 255"),
        ({"value": (1, 2)}, "RandomErasing.value = (1, 2) is out of range, expected 0 to 255, or a triple"),
        ({"value": "noise"}, "RandomErasing.value = 'noise' is of type str"),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        RandomErasing(**given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
