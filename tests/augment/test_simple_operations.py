"""The operations that draw nothing but whether an image is changed, next to the transforms of torchvision that they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.augment import AutoContrast, Equalize, Grayscale, Invert, Posterize, Sharpness, Solarize
from alexnet_fast.augment.augmentation import Augmentation
from alexnet_fast.errors import UserError
from beside_torchvision import applied, by_torch, difference, photos, transforms

MADE: list[Augmentation] = [
    AutoContrast(),
    Equalize(),
    Invert(),
    *(Posterize(bits) for bits in (0, 3, 8)),
    *(Solarize(threshold) for threshold in (0, 99.5, 255)),
    *(Sharpness(factor) for factor in (0.0, 1.7)),
    Grayscale(),
]


@pytest.mark.parametrize("made", MADE, ids=repr)
def test_an_operation_is_torchvisions_to_one_level(made: Any) -> None:
    name, arguments = made.reference()
    if isinstance(made, Grayscale):
        theirs = getattr(transforms(), name)(p=1.0)
    else:
        theirs = getattr(transforms(), name)(**arguments)
    images = photos()
    expected = by_torch(lambda image: theirs(image).expand(image.shape).to(torch.uint8), images)
    assert difference(applied(made, images), expected).most <= 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Posterize(9), "Posterize.bits = 9 is out of range, expected 0 to 8"),
        (lambda: Posterize(4.0), "Posterize.bits = 4.0 is of type float, expected a whole number, 0 to 8"),
        (lambda: Sharpness(4), "Sharpness.factor = 4 is out of range, expected 0 to 3.999"),
        (lambda: Sharpness(-1), "Sharpness.factor = -1 is out of range"),
        (lambda: Grayscale(p=2), "Grayscale.p = 2 is out of range, expected a probability, 0 to 1"),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(made: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        made()
    assert str(caught.value).startswith(said)


def test_grayscale_is_rare_by_default_and_the_others_are_applied_to_every_other_image() -> None:
    assert Grayscale().p == 0.1 and Invert().p == Posterize().p == 0.5
    images = photos()
    assert np.array_equal(*(applied(Grayscale(), images)[:, k] for k in (0, 2)))
