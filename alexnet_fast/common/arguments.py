"""Checks of the public constructors' arguments: each returns the value as it is used, or raises one sentence.

Numpy's numbers and bools are accepted like Python's, and a list like a tuple. A bool is not accepted as a number, since
``flip=True`` would flip every image; a str is not accepted as a bool, since ``"False"`` is true.

Each function takes the argument's name, the value given, the expectation in words, and ``good``, which tests a value. It
returns the value in the type that is used, or raises UserError, which says what was given and what was expected.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import UserError
from .untrusted import printable

T = TypeVar("T")


def whole(name: str, given: object, expected: str, good: Callable[[int], bool]) -> int:
    """A whole number."""
    if isinstance(given, (bool, np.bool_)) or not hasattr(given, "__index__"):
        raise _of_wrong_type(name, given, f"a whole number, {expected}")
    try:
        value = operator.index(given)
    except TypeError:  # an array of several
        raise _of_wrong_type(name, given, f"a whole number, {expected}") from None
    check(name, given, expected, good(value))
    return value


def number(name: str, given: object, expected: str, good: Callable[[float], bool]) -> float:
    """A number. NaN is never accepted."""
    if not _is_number(given):
        raise _of_wrong_type(name, given, f"a number, {expected}")
    value = _float(given)
    check(name, given, expected, good(value))
    return value


def pair(
    name: str, given: object, expected: str, good: Callable[[float, float], bool]
) -> tuple[float, float]:
    """Two numbers: a tuple, a list or an array."""
    is_list = isinstance(given, (tuple, list)) or (isinstance(given, np.ndarray) and given.ndim == 1)
    both = list(given) if is_list else []  # type: ignore[call-overload]
    if len(both) != 2 or not all(map(_is_number, both)):
        raise UserError(f"{_shown(name, given)} is not a pair of numbers, expected {expected}")
    first, second = map(_float, both)
    check(name, given, expected, good(first, second))
    return first, second


def flag(name: str, given: object) -> bool:
    """True or False; 1 and 0 are accepted too, since many scripts pass those."""
    if not isinstance(given, (bool, np.bool_, int, np.integer)):
        raise _of_wrong_type(name, given, "True or False")
    check(name, given, "True or False", given in (0, 1))
    return bool(given)


def choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    """One of some words."""
    check(
        name, given, " or ".join(f'"{word}"' for word in choices), isinstance(given, str) and given in choices
    )


def seed_of(name: str, given: object) -> int:
    """A seed of the package's random numbers, a uint64."""
    return whole(name, given, "0 to 2^64 - 1", lambda n: 0 <= n < 1 << 64)


def image_size(name: str, given: object) -> int | tuple[int, int]:
    """The size of images in pixels: one number for squares, or (height, width); two equal ones are one number."""
    expected = "1 to 4096 pixels"
    is_list = isinstance(given, (tuple, list)) or (isinstance(given, np.ndarray) and given.ndim > 0)
    if not is_list:
        return whole(name, given, f"{expected}, or a pair (height, width)", lambda px: 1 <= px <= 4096)
    both: list[object] = list(given)  # type: ignore[call-overload]
    check(name, given, f"(height, width), {expected} each", len(both) == 2)
    height, width = (whole(name, each, f"{expected} each", lambda px: 1 <= px <= 4096) for each in both)
    return height if height == width else (height, width)


def probability(name: str, given: object) -> float:
    return number(name, given, "a probability, 0 to 1", lambda p: 0 <= p <= 1)


def crop_scale(name: str, given: object) -> tuple[float, float]:
    """The minimum and maximum share of an image's area that a random crop takes."""
    return pair(name, given, "0 < least <= most <= 1", lambda least, most: 0 < least <= most <= 1)


def crop_ratio(name: str, given: object) -> tuple[float, float]:
    """The minimum and maximum width / height of a random crop."""
    return pair(name, given, "0 < least <= most", lambda least, most: 0 < least <= most < math.inf)


def path_of(name: str, given: object) -> Path:
    """A path: a str, or an object that os.fspath converts to one."""
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise _of_wrong_type(name, given, "a path, as a str or an os.PathLike")
    check(name, given, "the path of a file", text != "")
    return Path(given) if isinstance(given, Path) else Path(text)


def field_of(name: str, given: object) -> str | None:
    """The name of a beton's field; None if only one field is possible."""
    if given is not None and not isinstance(given, str):
        raise _of_wrong_type(name, given, "the name of a field, as a str, or None")
    return given


def instance(name: str, given: object, kind: type[T], expected: str) -> T:
    """An object of one kind."""
    if not isinstance(given, kind):
        raise _of_wrong_type(name, given, expected)
    return given


def instances(name: str, given: object, kind: type[T], expected: str) -> tuple[T, ...]:
    """Objects of one kind: a list or a tuple of them."""
    if not isinstance(given, (tuple, list)):
        raise _of_wrong_type(name, given, expected)
    for each in given:
        if not isinstance(each, kind):
            what = f"the class {each.__name__}" if isinstance(each, type) else f"a {type(each).__name__}"
            raise UserError(f"{_shown(name, given)} holds {what}, expected {expected}")
    return tuple(given)


def set_checked(instance: object, **fields: object) -> None:
    """Set fields of a frozen dataclass to the values that its ``__post_init__`` found good."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


def check(name: str, given: object, expected: str, good: bool) -> None:
    """Raise UserError unless ``given`` is good."""
    if not good:
        raise UserError(f"{_shown(name, given)} is out of range, expected {expected}")


def _of_wrong_type(name: str, given: object, expected: str) -> UserError:
    return UserError(f"{_shown(name, given)} is of type {type(given).__name__}, expected {expected}")


def _shown(name: str, given: object) -> str:
    return f"{name} = {printable(' '.join(repr(given).split()))}"


def _is_number(given: object) -> bool:
    return isinstance(given, Real) and not isinstance(given, bool)


def _float(given: object) -> float:
    try:
        return float(given)  # type: ignore[arg-type]
    except OverflowError:  # an int that no float holds
        return math.inf
