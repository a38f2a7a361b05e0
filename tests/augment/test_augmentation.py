"""What holds for every operation of alexnet_fast.augment: a new one is found here by its file."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import zlib

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import beside_torchvision
from alexnet_fast import augment
from alexnet_fast.augment.augmentation import Augmentation
from alexnet_fast.augment.augmenter import Augmenter
from alexnet_fast.augment.operations import described, made, of_recipes, operations
from alexnet_fast.common.sizes import Size, sides
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.errors import UserError

OPERATIONS = pytest.mark.parametrize("kind", of_recipes().values(), ids=of_recipes())
KEYS = np.array([3, 141, 59, 26, 535], np.uint64)


def pictures(size: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(30, 200, (5, 3, size, size), np.uint8)


def applied(made: Augmentation, images: np.ndarray, chosen: list[int]) -> np.ndarray:
    out, places = images.copy(), np.array(chosen, np.int64)
    made.apply(out, places, KEYS[places])
    return out


def test_every_operation_that_is_promised_is_there_and_is_imported_by_its_name() -> None:
    promised = {
        "RandomErasing", "ColorJitter", "Grayscale", "GaussianBlur", "Solarize", "Posterize", "AutoContrast", "Equalize",
        "Invert", "Sharpness", "Affine", "RandAugment", "TrivialAugmentWide", "AutoAugment",
    }  # fmt: skip
    assert promised <= set(of_recipes()) and set(operations()) - set(of_recipes()) == {"Custom"}
    for name, kind in operations().items():
        assert getattr(augment, name) is kind and kind.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = augment.Nothing


@OPERATIONS
def test_its_docstring_names_its_reference_and_every_parameter(kind: type[Augmentation]) -> None:
    doc, reference = inspect.getdoc(kind) or "", kind().reference()
    assert reference is not None and f"torchvision.transforms.v2.{reference[0]}" in doc
    for parameter in dataclasses.fields(kind):
        assert parameter.name in doc.partition("Args:")[2], parameter.name
    assert described(kind).startswith(f"{kind.__name__}(") and "p=" in described(kind)


@OPERATIONS
def test_its_reference_is_a_transform_of_torchvision(kind: type[Augmentation]) -> None:
    name, arguments = kind().reference() or ("", {})
    getattr(beside_torchvision.transforms(), name)(**arguments)


def test_an_operation_is_made_of_a_name_and_parameters() -> None:
    assert made("Solarize", {"threshold": 3, "p": 0.25}) == augment.Solarize(3, p=0.25)
    for name, parameters, said in (
        ("Solarise", {}, "there is no operation Solarise: did you mean Solarize?"),
        ("Nothing", {}, "there is no operation Nothing: the operations are Affine, AutoContrast"),
        ("Custom", {}, "there is no operation Custom"),
        ("Solarize", {"treshold": 3}, "Solarize has no parameter treshold: did you mean threshold?"),
        ("Invert", {"amount": 3}, "Invert has no parameter amount: it has p"),
        ("Solarize", {"threshold": 300}, "Solarize.threshold = 300 is out of range, expected 0 to 255"),
    ):
        with pytest.raises(UserError) as caught:
            made(name, parameters)
        assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


GOLDEN_PIXELS = {
    "Affine": 2134890408,
    "AutoContrast": 2769777926,
    "ColorJitter": 1208129165,
    "Equalize": 1364990277,
    "GaussianBlur": 445768109,
    "Grayscale": 2093658917,
    "Invert": 759724306,
    "RandAugment": 1249654380,
    "TrivialAugmentWide": 3190122107,
    "AutoAugment": 45898160,
    "Posterize": 1770110344,
    "RandomErasing": 236318110,
    "Sharpness": 2792055481,
    "Solarize": 4139430560,
}


def slopes(size: int = 61) -> np.ndarray:
    """Pictures with slopes and edges. (5, 3, size, size) uint8"""
    y, x = np.mgrid[:size, :size]
    return np.stack(
        [
            np.stack([(c * 40 + k * 25 + x * (k + 1) + y * (3 - c) + (x * y >> 4)) % 230 for c in range(3)])
            for k in range(5)
        ]
    ).astype(np.uint8)


@OPERATIONS
def test_the_pixels_stay_what_they_are(kind: type[Augmentation]) -> None:
    """Changing them changes every training run that uses the operation: a change of major version, said in the changelog."""
    assert zlib.crc32(applied(kind(), slopes(), [0, 1, 2, 3, 4])) == GOLDEN_PIXELS[kind.__name__]


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


@OPERATIONS
@pytest.mark.parametrize("size", [1, 2, 3, 31, 33, 70, (1, 40), (33, 2), (20, 70)])
def test_images_of_any_size_are_changed_inside_their_own_memory(kind: type[Augmentation], size: Size) -> None:
    around = np.random.default_rng(1).integers(0, 256, (5, 3, *sides(size)), np.uint8)
    out = applied(kind(), around, [1, 3])
    assert np.array_equal(out[[0, 2, 4]], around[[0, 2, 4]])
