"""ColorJitter: what is drawn, and the four next to torchvision's in the order that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alexnet_fast.augment.color_jitter import ColorJitter, draw_jitter
from alexnet_fast.errors import UserError
from beside_torchvision import applied, difference, functional, keys_of, photos, transforms


def drawn(operation: ColorJitter, key: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    amounts, order = np.empty(4), np.empty(4, np.int64)
    draw_jitter(key, operation.ranges, amounts, order)
    return amounts, order


def by_torchvision(image: np.ndarray, amounts: np.ndarray, order: np.ndarray) -> np.ndarray:
    names = ("brightness", "contrast", "saturation", "hue")
    out = torch.from_numpy(image.copy())
    for kind in order:
        out = getattr(functional(), f"adjust_{names[kind]}")(out, amounts[kind])
    return out.numpy()


def test_it_is_torchvisions_in_the_order_that_was_drawn() -> None:
    """Each of the four is off by one level in some values; what follows multiplies that by its factor."""
    for operation in (ColorJitter(), ColorJitter(0.8, 0.8, 0.8, 0.2), ColorJitter(hue=(-0.5, 0.5))):
        images, keys = photos(count=20), keys_of(20)
        expected = np.stack([by_torchvision(i, *drawn(operation, k)) for i, k in zip(images, keys)])
        found = difference(applied(operation, images, keys), expected)
        assert found.mean < 0.4 and found.most <= 12
        assert difference(images, expected).mean > 10


def test_amounts_are_uniform_and_every_order_is_as_likely() -> None:
    operation = ColorJitter(0.5, (0.2, 0.4), 0, 0.1)
    made = [drawn(operation, key) for key in keys_of(4800)]
    amounts = np.array([each for each, _ in made])
    for kind, (low, high) in enumerate(((0.5, 1.5), (0.2, 0.4), (1.0, 1.0), (-0.1, 0.1))):
        values = amounts[:, kind]
        assert low <= values.min() and values.max() <= high
        assert abs(values.mean() - (low + high) / 2) <= 0.03 * (high - low)
        assert abs(values.std() - (high - low) / 12**0.5) <= 0.03 * (high - low)
    orders, counts = np.unique([order for _, order in made], axis=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 130 and counts.max() < 280  # 200 each


def test_the_ranges_are_torchvisions() -> None:
    for given in (0.4, 0.0, 1.5, (0.2, 0.7), [1, 2]):
        ours, theirs = ColorJitter(given, given, given), transforms().ColorJitter(given, given, given)
        expected = theirs.brightness or (1.0, 1.0)  # None is what it makes of a range that changes nothing
        assert ours.brightness == ours.contrast == ours.saturation == tuple(expected)
    assert ColorJitter(hue=0.2).hue == transforms().ColorJitter(hue=0.2).hue


def test_amounts_that_change_nothing_are_not_applied() -> None:
    images = photos()
    assert np.array_equal(applied(ColorJitter(0, 0, 0, 0), images), images)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"brightness": -1}, "ColorJitter.brightness = -1 is out of range, expected 0 to 2.999"),
        (
            {"contrast": (0, 5)},
            "ColorJitter.contrast = (0, 5) is out of range, expected least and most, 0 <=",
        ),
        ({"saturation": (2, 1)}, "ColorJitter.saturation = (2, 1) is out of range"),
        ({"hue": 0.6}, "ColorJitter.hue = 0.6 is out of range, expected 0 to 0.5"),
        ({"hue": "much"}, "ColorJitter.hue = 'much' is of type str, expected a number"),
        ({"hue": None}, "ColorJitter.hue = None is of type NoneType"),
    ],
)
def test_an_amount_that_it_cannot_use_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        ColorJitter(**given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
