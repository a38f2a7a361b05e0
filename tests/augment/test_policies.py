"""The policies: their tables are torchvision's, each step does what its step of that name does, and all choices are as likely."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.augment.policies import (
    IDENTITY,
    IMAGENET,
    INVERT,
    NAMES,
    SIGNED,
    AutoAugment,
    Policy,
    RandAugment,
    TrivialAugmentWide,
    draw_steps,
)
from alexnet_fast.errors import UserError
from beside_torchvision import applied, difference, keys_of, photos, transforms

GEOMETRY = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}


def drawn(policy: Policy, key: np.uint64, sides: tuple[int, int] = (224, 224)) -> list[tuple[str, float]]:
    codes, magnitudes = np.zeros(40, np.int64), np.zeros(40)
    count = draw_steps(key, policy.rounds, policy.table(sides), codes, magnitudes)
    return [(NAMES[code], float(magnitude)) for code, magnitude in zip(codes[:count], magnitudes)]


def by_torchvision(image: np.ndarray, steps: list[tuple[str, float]]) -> np.ndarray:
    """The steps done by torchvision's own policy."""
    theirs, out = transforms().RandAugment(fill=None), torch.from_numpy(image.copy())
    for name, magnitude in steps:
        out = theirs._apply_image_or_video_transform(
            out, name, magnitude, interpolation=theirs.interpolation, fill=theirs._fill
        )
    return out.numpy()


@pytest.mark.parametrize("sides", [(224, 224), (160, 160), (37, 37), (160, 224), (70, 33)])
def test_the_tables_are_torchvisions(sides: tuple[int, int]) -> None:
    v2 = transforms()
    for policy, theirs, bins in (
        (RandAugment(magnitude=9), v2.RandAugment, 31),
        (RandAugment(magnitude=4, num_magnitude_bins=11), v2.RandAugment, 11),
        (TrivialAugmentWide(), v2.TrivialAugmentWide, 31),
    ):
        expected: dict[str, Any] = {}
        for name, (magnitudes, signed) in theirs._AUGMENTATION_SPACE.items():
            found = magnitudes(bins, *sides)
            expected[name] = ([0.0] if found is None else found.tolist(), signed)
        table = policy.table(sides)
        assert {NAMES[code] for code in table["code"].reshape(-1)} == set(expected)
        for name, (magnitudes, signed) in expected.items():
            rows = table[table["code"] == NAMES.index(name)]
            assert (
                (rows["signed"] == signed).all()
                and (rows["chance"] == 1).all()
                and signed == (name in SIGNED)
            )
            if isinstance(policy, RandAugment):
                assert rows["magnitude"].tolist() == [magnitudes[min(policy.magnitude, len(magnitudes) - 1)]]
            else:
                assert rows["magnitude"].tolist() == (
                    magnitudes if len(magnitudes) > 1 else magnitudes * bins
                )


def test_autoaugments_table_is_torchvisions_for_imagenet() -> None:
    theirs = transforms().AutoAugment()
    assert list(IMAGENET) == theirs._get_policies(theirs.policy)
    table = AutoAugment().table((224, 224))
    for row, pair in zip(table, IMAGENET, strict=True):
        for step, (name, chance, place) in zip(row, pair, strict=True):
            magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
            found = magnitudes(10, 224, 224)
            expected = 0.0 if found is None else found.tolist()[place]
            assert step.tolist() == (NAMES.index(name), expected, signed, chance)


@pytest.mark.parametrize("sides", [(224, 224), (150, 224)])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "Identity"])
def test_a_step_does_what_torchvisions_does(name: str, sides: tuple[int, int]) -> None:
    class One(RandAugment):
        def table(self, sides: tuple[int, int]) -> np.ndarray:
            wide = TrivialAugmentWide().table(sides)
            own = wide[wide["code"] == NAMES.index(name)]
            return own[:, None] if len(own) else np.array([[(INVERT, 0.0, 0, 1.0)]], wide.dtype)

    policy, images = One(1), np.concatenate([photos(sides, 20)] * 2)
    keys = keys_of(40)
    steps = [drawn(policy, key, sides) for key in keys]
    assert {each for step in steps for each, _ in step} == {name}
    expected = np.stack([by_torchvision(image, step) for image, step in zip(images, steps)])
    found = difference(applied(policy, images, keys), expected)
    if name in GEOMETRY:
        assert found.share < 1e-3  # whole rows lie exactly between two pixels at some strengths
    else:
        assert found.most <= 1


@pytest.mark.parametrize(
    "policy", [RandAugment(), RandAugment(4, 15), TrivialAugmentWide(), AutoAugment()], ids=repr
)
def test_the_steps_are_done_one_after_the_other(policy: Policy) -> None:
    images, keys = np.concatenate([photos(count=20)] * 3), keys_of(60)
    expected = np.stack([by_torchvision(image, drawn(policy, key)) for image, key in zip(images, keys)])
    found = difference(applied(policy, images, keys), expected)
    # Equalizing and solarizing make much of a level: the threshold lies between two.
    assert found.mean < 0.5 and difference(images, expected).mean > 10


def test_every_choice_is_as_likely_and_half_of_the_signs_are_turned() -> None:
    steps = [step for key in keys_of(7000) for step in drawn(RandAugment(), key)]
    assert len(steps) == 14_000
    for name in NAMES[IDENTITY:INVERT]:
        own = [magnitude for each, magnitude in steps if each == name]
        assert abs(len(own) - 1000) < 5 * 1000**0.5
        negative = sum(magnitude < 0 for magnitude in own)
        assert abs(negative - len(own) / 2) < 5 * len(own) ** 0.5 if name in SIGNED else negative == 0
    pairs = [tuple(name for name, _ in drawn(RandAugment(), key)) for key in keys_of(7000)]
    assert len(set(pairs)) == 14 * 14


def test_autoaugments_steps_have_their_own_chances() -> None:
    made = [tuple(name for name, _ in drawn(AutoAugment(), key)) for key in keys_of(20_000)]
    expected = np.mean([chance for pair in IMAGENET for _, chance, _ in pair]) * 2
    assert abs(np.mean([len(each) for each in made]) - expected) < 0.03
    assert {len(each) for each in made} == {0, 1, 2}


def test_bilinear_pixels_are_torchvisions_too() -> None:
    images, keys = np.concatenate([photos(count=20)] * 3), keys_of(60)
    policy = RandAugment(1, interpolation="bilinear")
    theirs, expected, names = transforms().RandAugment(interpolation="bilinear", fill=None), [], set()
    for image, key in zip(images, keys):
        ((name, magnitude),) = drawn(policy, key)
        given = torch.from_numpy(image.copy())
        made = theirs._apply_image_or_video_transform(
            given, name, magnitude, interpolation=theirs.interpolation, fill=theirs._fill
        )
        expected.append(made.numpy())
        names.add(name)
    assert names >= GEOMETRY
    assert difference(applied(policy, images, keys), np.stack(expected)).most <= 2


def test_without_operations_nothing_is_changed() -> None:
    assert np.array_equal(applied(RandAugment(0), photos()), photos())


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: RandAugment(-1), "RandAugment.num_ops = -1 is out of range, expected 0 to 20"),
        (lambda: RandAugment(magnitude=31), "RandAugment.magnitude = 31 is out of range, expected 0 to 30"),
        (lambda: RandAugment(num_magnitude_bins=1), "RandAugment.num_magnitude_bins = 1 is out of range"),
        (lambda: TrivialAugmentWide(fill="red"), "TrivialAugmentWide.fill = 'red' is of type str"),
        (
            lambda: AutoAugment("cifar10"),
            "AutoAugment.policy = 'cifar10' is out of range, expected \"imagenet\"",
        ),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(made: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        made()
    assert str(caught.value).startswith(said)
