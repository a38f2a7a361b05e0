"""A user's own operation: compiled and tried when it is made, and refused in words there."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alexnet_fast.augment import Custom, uniform
from alexnet_fast.errors import UserError
from beside_torchvision import applied, keys_of, photos


def add_noise(image, key):  # type: ignore[no-untyped-def]
    """Adds one number to all pixels of an image."""
    image += np.uint8(10 * uniform(key, 0))


def no_such_thing(image, key):  # type: ignore[no-untyped-def]
    image.whatever()


def beyond_the_image(image, key):  # type: ignore[no-untyped-def]
    image[0, 0, image.shape[2]] = 1


def raises(image, key):  # type: ignore[no-untyped-def]
    raise ValueError("not today")


def draws_by_itself(image, key):  # type: ignore[no-untyped-def]
    image[:] = np.random.randint(0, 255)  # noqa: NPY002  # a Generator cannot be made in compiled code


def one_argument(image):  # type: ignore[no-untyped-def]
    image[:] = 0


def test_it_is_called_for_each_image_with_its_key() -> None:
    images, keys = photos(), keys_of(10)
    expected = [image + np.uint8(10 * uniform(key, 0)) for image, key in zip(images, keys)]
    assert np.array_equal(applied(Custom(add_noise), images, keys), np.stack(expected))


def test_it_is_pickled_by_its_functions_name() -> None:
    made = Custom(add_noise, p=0.25)
    assert pickle.loads(pickle.dumps(made)) == made and made.p == 0.25 and Custom(add_noise).p == 1.0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            no_such_thing,
            "Custom.function = no_such_thing cannot be compiled by numba: Unknown attribute 'whatever'",
        ),
        (one_argument, "Custom.function = one_argument cannot be compiled by numba: "),
        (
            beyond_the_image,
            "Custom.function = beyond_the_image fails on a (3, 24, 24) uint8 image: IndexError",
        ),
        (raises, "Custom.function = raises fails on a (3, 24, 24) uint8 image: ValueError: not today"),
        (
            draws_by_itself,
            "Custom.function = draws_by_itself makes two different images of one image and key",
        ),
        (None, "Custom.function = None cannot be called, expected a function of (image, key)"),
    ],
)
def test_a_function_that_does_not_work_is_refused_when_it_is_made(
    function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        Custom(function)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
