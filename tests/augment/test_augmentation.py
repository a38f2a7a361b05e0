"""What holds for every operation of alexnet_fast.augment: a new one is found here by its file."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pickle
import pkgutil

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from alexnet_fast import augment
from alexnet_fast.augment.augmentation import Augmentation
from alexnet_fast.augment.augmenter import Augmenter
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.errors import UserError

MODULES = sorted(
    {found.name for found in pkgutil.iter_modules(augment.__path__)} - {"augmentation", "augmenter"}
)


def operation(module: str) -> type[Augmentation]:
    """The operation that a module is named for."""
    home = importlib.import_module(f"{augment.__name__}.{module}")
    own = [each for _, each in inspect.getmembers(home, inspect.isclass) if each.__module__ == home.__name__]
    (found,) = [each for each in own if issubclass(each, Augmentation)]
    return found


OPERATIONS = pytest.mark.parametrize("kind", [operation(module) for module in MODULES], ids=MODULES)
KEYS = np.array([3, 141, 59, 26, 535], np.uint64)


def pictures(size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 3, size, size), np.uint8)


def applied(made: Augmentation, images: np.ndarray, chosen: list[int]) -> np.ndarray:
    out, places = images.copy(), np.array(chosen, np.int64)
    made.apply(out, places, KEYS[places])
    return out


def test_there_is_an_operation_and_each_module_is_named_for_its_own() -> None:
    assert MODULES
    for module in MODULES:
        assert operation(module).__name__ == module.title().replace("_", "")


@OPERATIONS
def test_it_is_a_frozen_dataclass_that_can_be_made_of_its_defaults_and_pickled(
    kind: type[Augmentation],
) -> None:
    made = kind()
    assert pickle.loads(pickle.dumps(made)) == made == kind() and hash(made) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.p = 1.0  # type: ignore[misc]
    assert repr(kind(p=0.25)).startswith(f"{kind.__name__}(p=0.25")


@OPERATIONS
def test_it_refuses_what_is_no_probability(kind: type[Augmentation]) -> None:
    for wrong in (1.5, "0.5", None, True):
        with pytest.raises(UserError, match=f"^{kind.__name__}.p = "):
            kind(p=wrong)  # type: ignore[arg-type]


@OPERATIONS
def test_it_changes_the_chosen_images_and_no_others(kind: type[Augmentation]) -> None:
    images = pictures()
    out = applied(kind(), images, [0, 2, 3])
    assert [not np.array_equal(a, b) for a, b in zip(out, images)] == [True, False, True, True, False]
    assert np.array_equal(applied(kind(), images, []), images)


@OPERATIONS
def test_an_image_depends_on_its_own_pixels_and_key_alone(kind: type[Augmentation]) -> None:
    images = pictures()
    together = applied(kind(), images, [4, 0, 1, 3, 2])
    for place in range(len(images)):
        assert np.array_equal(applied(kind(), images, [place])[place], together[place])


@OPERATIONS
def test_its_kernels_are_loaded_before_the_first_image(kind: type[Augmentation]) -> None:
    Augmenter([kind()], seed=0).load(SAMPLE_DTYPE)
    own = [each for each in vars(inspect.getmodule(kind)).values() if isinstance(each, Dispatcher)]
    before = [len(each.overloads) for each in own]
    assert any(before)
    applied(kind(), pictures(), [0, 2])
    assert [len(each.overloads) for each in own] == before
