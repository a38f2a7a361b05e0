"""Crop boxes against torchvision's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_fast.decode.crop import center_crop
from betons import RATIO, SCALE, drawn_crop, eval_geometry, eval_reference, picture

DRAWS = 4000


@pytest.fixture(scope="module")
def transforms(require: Callable[[str], Any]) -> Any:
    require("torchvision")
    from torchvision import transforms

    return transforms


def boxes_of_torchvision(transforms: Any, width: int, height: int, scale: tuple[float, float]) -> np.ndarray:
    """(DRAWS, 4) of (left, top, width, height)."""
    import torch

    torch.manual_seed(0)
    random.seed(0)
    image = torch.empty(3, height, width)
    drawn = (transforms.RandomResizedCrop.get_params(image, scale, RATIO) for _ in range(DRAWS))
    return np.array([(left, top, w, h) for top, left, h, w in drawn], float)


def boxes_of_ours(width: int, height: int, scale: tuple[float, float]) -> np.ndarray:
    drawn = (drawn_crop(width, height, i, seed=5, scale=scale)[0] for i in range(DRAWS))
    return np.array([(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in drawn], float)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Kolmogorov and Smirnov's: the largest difference of two samples' distribution functions."""
    places = np.sort(np.concatenate([ours, theirs]))
    shares = [np.searchsorted(np.sort(sample), places, "right") / len(sample) for sample in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (500, 375, SCALE),
        (375, 500, SCALE),
        (64, 64, SCALE),
        (900, 200, SCALE),
        (224, 225, (0.35, 1.0)),
        (500, 333, (1.0, 1.0)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(
    transforms: Any, width: int, height: int, scale: tuple[float, float]
) -> None:
    ours, theirs = boxes_of_ours(width, height, scale), boxes_of_torchvision(transforms, width, height, scale)
    most = 1.95 * (2 / DRAWS) ** 0.5  # where two samples of one distribution come one time in a thousand
    for name, measure in {
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect": lambda box: box[:, 2] / box[:, 3],
        "left": lambda box: box[:, 0],
        "top": lambda box: box[:, 1],
        "slack across": lambda box: box[:, 0] / (width - box[:, 2] + 1),
        "slack down": lambda box: box[:, 1] / (height - box[:, 3] + 1),
    }.items():
        assert distance(measure(ours), measure(theirs)) < most, name


def test_boxes_lie_inside_the_image() -> None:
    for width, height in ((500, 375), (3, 5), (1, 1), (1, 500), (17, 16)):
        box = boxes_of_ours(width, height, SCALE)
        assert box[:, :2].min() >= 0 and box[:, 2:].min() >= 1
        assert (box[:, 0] + box[:, 2]).max() <= width and (box[:, 1] + box[:, 3]).max() <= height


@pytest.mark.parametrize(
    ("width", "height"),
    [(1000, 10), (10, 1000), (500, 1), (1, 500), (2000, 7), (7, 2001), (999, 31), (31, 999), (65535, 3)],
)
def test_the_box_of_last_resort_is_torchvisions(transforms: Any, width: int, height: int) -> None:
    """No box of at least 0.08 of the area and an allowed shape fits these."""
    theirs = {tuple(box) for box in boxes_of_torchvision(transforms, width, height, SCALE)[:50]}
    assert len(theirs) == 1
    assert {tuple(box) for box in boxes_of_ours(width, height, SCALE)[:50]} == theirs


def test_half_of_the_samples_are_mirrored_and_none_or_all_when_asked() -> None:
    mirrored = [drawn_crop(500, 375, i)[1] for i in range(DRAWS)]
    assert 0.46 < np.mean(mirrored) < 0.54
    assert not any(drawn_crop(500, 375, i, flip=0.0)[1] for i in range(200))
    assert all(drawn_crop(500, 375, i, flip=1.0)[1] for i in range(200))


def test_the_flip_does_not_depend_on_the_box() -> None:
    boxes = boxes_of_ours(500, 375, SCALE)
    mirrored = np.array([drawn_crop(500, 375, i, seed=5)[1] for i in range(DRAWS)])
    assert distance(boxes[mirrored, 0], boxes[~mirrored, 0]) < 0.065


def test_the_first_boxes_of_seed_0_stay_what_they_are() -> None:
    """Changing them changes every training run: a change of major version, said in the changelog."""
    assert [drawn_crop(500, 375, index) for index in range(3)] == [
        ((61, 17, 322, 316), False),
        ((144, 20, 433, 367), True),
        ((152, 23, 423, 346), True),
    ]


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    size=st.integers(1, 512),
    ratio=st.sampled_from([224 / 256, 1.0, 0.5, 0.9]),
)
@settings(max_examples=500, deadline=None)
def test_the_evaluation_box_is_torchvisions_arithmetic(
    width: int, height: int, size: int, ratio: float
) -> None:
    resize = round(size / ratio)
    left, top, new_width, new_height = eval_geometry(width, height, size, resize)
    across, down = width / new_width, height / new_height
    assert center_crop(height, width, (size, size), (resize, resize)) == (
        top * down,
        left * across,
        size * down,
        size * across,
    )


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (333, 500), (64, 64), (301, 407), (257, 256), (256, 259)]
)
def test_the_reference_of_these_tests_is_torchvision(transforms: Any, width: int, height: int) -> None:
    image = picture(width, height)
    theirs = np.asarray(transforms.CenterCrop(224)(transforms.Resize(256)(image))).transpose(2, 0, 1)
    assert np.array_equal(eval_reference(image), theirs)


@given(
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    size=st.tuples(st.integers(1, 512), st.integers(1, 512)),
    ratio=st.sampled_from([224 / 256, 1.0, 0.5, 0.9]),
)
@settings(max_examples=500, deadline=None)
def test_an_evaluation_box_of_any_shape_lies_inside_the_image_and_is_as_large_as_its_ratio_lets_it_be(
    width: int, height: int, size: tuple[int, int], ratio: float
) -> None:
    resize = round(size[0] / ratio), round(size[1] / ratio)
    left, top, new_width, new_height = eval_geometry(width, height, size, resize)
    across, down = width / new_width, height / new_height
    box = center_crop(height, width, size, resize)
    assert box == (top * down, left * across, size[0] * down, size[1] * across)
    assert new_height >= resize[0] and new_width >= resize[1]
    assert new_height == resize[0] or new_width == resize[1]
    assert box[0] >= 0 and box[1] >= 0
    assert box[0] + box[2] <= height * (1 + 1e-12) and box[1] + box[3] <= width * (1 + 1e-12)
