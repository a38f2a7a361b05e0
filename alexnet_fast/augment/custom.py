"""Custom: a user's own operation, a function that numba compiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from ..common.untrusted import printable
from ..errors import UserError
from .augmentation import Augmentation

TRIED_PX = 24


@dataclass(frozen=True)
class Custom(Augmentation):
    """Calls ``function(image, key)`` for each image, in compiled code, in the decoding threads.

    ``image`` is (3, height, width) uint8, to be changed in place.  ``key`` is a uint64: ``alexnet_fast.augment.uniform(key, k)``, for
    k from 0 on, are the image's random numbers in [0, 1); any others would give other pixels on every run.

    The function is compiled and tried here, on two small images with bounds checks, so that its mistakes are found before the first batch.
    It is not kept on disk: each process compiles it again.

    Args:
        function: of a module, so that a Loader can be pickled.
        p: probability that an image is changed; by name only.

    Raises:
        UserError: numba cannot compile the function, it fails on an image, or one key gives it two results.
    """

    function: Callable[[np.ndarray, np.uint64], None]
    p: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise UserError(
                f"Custom.function = {printable(repr(self.function))} cannot be called, expected a function of (image, key)"
            )
        _try_out(self.function)

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        _compiled(self.function)(images, chosen, keys)


@lru_cache(256)
def _compiled(function: Callable[..., Any], boundscheck: bool = False) -> Any:
    """A kernel that calls the function for images[chosen]."""
    plain = getattr(function, "py_func", function)  # one that the user has compiled already
    own = numba.njit(nogil=True, error_model="numpy", boundscheck=boundscheck)(plain)

    @numba.njit(nogil=True, error_model="numpy", boundscheck=boundscheck)
    def run(images, chosen, keys):  # type: ignore[no-untyped-def]
        for k in range(len(chosen)):
            own(images[chosen[k]], keys[k])

    return run


@lru_cache(256)
def _try_out(function: Callable[..., Any]) -> None:
    name = printable(getattr(function, "__name__", "function"))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, TRIED_PX, TRIED_PX), np.uint8)
    places, keys = np.arange(2), np.array([1, 2], np.uint64)
    made = []
    for _ in range(2):
        made.append(images.copy())
        try:
            _compiled(function, boundscheck=True)(made[-1], places, keys)
        except numba.core.errors.NumbaError as error:
            raise UserError(
                f"Custom.function = {name} cannot be compiled by numba: {_reason(error)}; it gets (image, key), "
                "a (3, height, width) uint8 array to change in place and a uint64"
            ) from error
        except Exception as error:
            raise UserError(
                f"Custom.function = {name} fails on a ({3}, {TRIED_PX}, {TRIED_PX}) uint8 image: "
                f"{type(error).__name__}: {printable(str(error))}"
            ) from error
    if not np.array_equal(made[0], made[1]):
        raise UserError(
            f"Custom.function = {name} makes two different images of one image and key; draw with "
            "alexnet_fast.augment.uniform(key, k), so that its pixels are the same in every run"
        )
    empty = np.empty(0, np.int64)
    _compiled(function)(images, empty, keys[:0])  # as the threads call it, so that they find it compiled


def _reason(error: Exception) -> str:
    """The line of numba's report that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [
        line
        for line in lines
        if line and not line.startswith(("Failed in", "During:", "File ", "<source", "^", "-", ">>>"))
    ]
    return printable(said[0]) if said else type(error).__name__
