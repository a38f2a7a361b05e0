"""What an augmentation is: its parameters, checked once, and one call of a kernel for a chunk of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.arguments import check, instances, number, pair, probability, set_checked, whole

EXPECTED = "a list of the operations of alexnet_fast.augment, such as [Solarize(128, p=0.2)]"


@dataclass(frozen=True, kw_only=True)
class Augmentation(ABC):
    """Base of every operation: a frozen dataclass of its parameters, which it checks in ``__post_init__``.

    It has no state and draws nothing by itself: its random numbers are functions of the keys that it is given.  A base class
    and no Protocol, since transforms of torchvision and albumentations also have a ``p`` and an ``apply``, and mean something else.

    Args:
        p: probability that an image is changed.

    Raises:
        UserError: a parameter out of range or of a wrong type.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        set_checked(self, p=probability(f"{type(self).__name__}.p", self.p))

    def reference(self) -> tuple[str, dict[str, Any]] | None:
        """The same operation, applied always, in torchvision.transforms.v2: the name of its class and its arguments; None if it has none.

        What tests compare the pixels with, and benchmarks the time.
        """
        return None

    @abstractmethod
    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        """Change the chosen images in place, by one call of a kernel, so that the thread asks for the GIL once.

        Args:
            images: (n, 3, height, width) uint8, RGB, C-contiguous.
            chosen: (m,) int64, the places in ``images`` of those to change.  ``p`` is drawn already, and none of them is broken.
            keys: (m,) uint64, a key for each of them: ``counter_rng.uniform(key, k)``, for k from 0 on, are its random numbers.
        """


def augmentations_of(name: str, given: object) -> tuple[Augmentation, ...]:
    """A list of augmentations, as a tuple; UserError for anything else."""
    return instances(name, given, Augmentation, EXPECTED)  # type: ignore[type-abstract]


Colour = float | tuple[float, float, float]
"""One value for all channels, or one for each; 0 to 255."""


INTERPOLATIONS = ("nearest", "bilinear")


def is_smooth(of: Any) -> bool:
    """Whether an operation's parameter ``interpolation`` is bilinear."""
    return bool(of.interpolation == "bilinear")


def number_in(of: Augmentation, name: str, low: float, high: float) -> float:
    """One of an operation's parameters as a number from ``low`` to ``high``; UserError for anything else."""
    return number(
        f"{type(of).__name__}.{name}",
        getattr(of, name),
        f"{low:g} to {high:g}",
        lambda value: low <= value <= high,
    )


def whole_in(of: Augmentation, name: str, low: int, high: int) -> int:
    """One of an operation's parameters as a whole number from ``low`` to ``high``; UserError for anything else."""
    return whole(
        f"{type(of).__name__}.{name}",
        getattr(of, name),
        f"{low} to {high}",
        lambda value: low <= value <= high,
    )


def range_in(of: Augmentation, name: str, low: float, high: float) -> tuple[float, float]:
    """One of an operation's parameters as (least, most) from ``low`` to ``high``; UserError for anything else."""
    return pair(
        f"{type(of).__name__}.{name}",
        getattr(of, name),
        f"least and most, {low:g} <= least <= most <= {high:g}",
        lambda least, most: low <= least <= most <= high,
    )


def two_in(of: Augmentation, name: str, low: float, high: float) -> tuple[float, float]:
    """One of an operation's parameters as two numbers from ``low`` to ``high``; UserError for anything else."""
    return pair(
        f"{type(of).__name__}.{name}",
        getattr(of, name),
        f"two numbers, {low:g} to {high:g}",
        lambda first, second: low <= first <= high and low <= second <= high,
    )


def range_about(of: Augmentation, name: str, centre: float, low: float, high: float) -> tuple[float, float]:
    """The same for a parameter that may also be one number: how far from ``centre``, cut at ``low``, as torchvision takes it."""
    given = getattr(of, name)
    if isinstance(given, (tuple, list, np.ndarray)):
        return range_in(of, name, low, high)
    away = number_in(of, name, 0.0, high - centre)
    return max(centre - away, low), centre + away


def colour_of(of: Augmentation, name: str) -> Colour:
    """One of an operation's parameters as a Colour; UserError for anything else."""
    given = getattr(of, name)
    if not isinstance(given, (tuple, list, np.ndarray)):
        return number_in(of, name, 0, 255)
    title, expected = f"{type(of).__name__}.{name}", "0 to 255, or a triple of such numbers"
    check(title, given, expected, len(given) == 3)
    red, green, blue = (number(title, each, expected, lambda value: 0 <= value <= 255) for each in given)
    return red, green, blue


def colour_bytes(colour: Colour) -> np.ndarray:
    """(3,) uint8."""
    return np.broadcast_to(np.asarray(colour, np.float64), 3).astype(np.uint8)
