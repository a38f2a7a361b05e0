"""Solarize next to torchvision's and Pillow's."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import components
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.errors import UserError

THRESHOLDS = [*range(256), 0.5, 127.5, 254.01]


def all_values(size: int = 16) -> np.ndarray:
    """Images with every value in every channel. (4, 3, size, size) uint8"""
    return np.arange(12 * size * size).astype(np.uint8).reshape(4, 3, size, size)


def solarized(images: np.ndarray, threshold: float, chosen: list[int] | None = None) -> np.ndarray:
    """A copy of images of which those chosen (default: all) went through Solarize."""
    places = np.arange(len(images)) if chosen is None else np.array(chosen, np.int64)
    out = images.copy()
    Solarize(threshold).apply(out, places, np.zeros(len(places), np.uint64))
    return out


def test_it_is_torchvisions() -> None:
    components.require("torchvision")
    functional = importlib.import_module("torchvision.transforms.v2.functional")
    images = all_values()
    for threshold in THRESHOLDS:
        expected = functional.solarize(torch.from_numpy(images), threshold).numpy()
        assert np.array_equal(solarized(images, threshold), expected), threshold


def test_it_inverts_values_at_or_above_the_threshold() -> None:
    images = all_values()
    for threshold in THRESHOLDS:
        expected = np.where(images >= threshold, 255 - images, images)
        assert np.array_equal(solarized(images, threshold), expected), threshold


def test_it_is_pillows() -> None:
    images = all_values()
    for threshold in range(256):
        theirs = ImageOps.solarize(Image.fromarray(images[0].transpose(1, 2, 0).copy()), threshold)
        assert np.array_equal(solarized(images, threshold)[0], np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [1, 7, 17, 65, 224])
def test_images_of_any_size_and_no_other_images_than_the_chosen(size: int) -> None:
    images = all_values(size)
    out = solarized(images, 100, [0, 3])
    assert np.array_equal(out[[1, 2]], images[[1, 2]])
    assert np.array_equal(out[[0, 3]], np.where(images >= 100, 255 - images, images)[[0, 3]])


def test_its_parameters_are_named_as_torchvisions_and_kept_as_pythons() -> None:
    made = Solarize(np.uint8(128), p=np.float32(0.25))  # type: ignore[arg-type]
    assert made == Solarize(threshold=128.0, p=0.25)
    assert type(made.threshold) is type(made.p) is float
    assert Solarize() == Solarize(128, p=0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threshold": 256}, "Solarize.threshold = 256 is out of range, expected 0 to 255"),
        ({"threshold": -1}, "Solarize.threshold = -1 is out of range"),
        ({"threshold": float("nan")}, "Solarize.threshold = nan is out of range"),
        ({"threshold": "128"}, "Solarize.threshold = '128' is of type str, expected a number, 0 to 255"),
        ({"threshold": True}, "Solarize.threshold = True is of type bool"),
        ({"p": 1.5}, "Solarize.p = 1.5 is out of range, expected a probability, 0 to 1"),
        ({"p": None}, "Solarize.p = None is of type NoneType"),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Solarize(**given)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)
