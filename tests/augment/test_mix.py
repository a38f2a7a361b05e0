"""Mix: pixels next to torchvision's MixUp and CutMix with the same share and rectangle, and what is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.augment import Mix
from alexnet_fast.augment.mix import CUTMIX, MIXUP, NOTHING, WHOLE, draw_beta, draw_mix, mix_batch
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.decode.status import DECODER
from alexnet_fast.errors import UserError
from beside_torchvision import difference, keys_of, photos, transforms


def samples_of(count: int, first: int = 0) -> np.ndarray:
    samples = np.zeros(count, SAMPLE_DTYPE)
    samples["index"] = np.arange(first, first + count)
    return samples


def mixed(
    made: Mix, images: np.ndarray, first: int, statuses: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    out = images.copy()
    statuses = np.zeros(len(images), np.uint8) if statuses is None else statuses
    return out, made.apply(samples_of(len(images), first), 3, 1, out, statuses)


def test_mixup_is_torchvisions_with_the_same_share_to_one_level() -> None:
    v2, images = transforms(), photos(65)
    shares = []
    for first in range(12):
        out, share = mixed(Mix(mixup=1.0, cutmix=0), images, first)
        theirs = v2.MixUp(num_classes=2)
        given = torch.from_numpy(images.astype(np.float32))  # it takes no bytes
        expected = theirs.transform(given, {"labels": None, "lam": share, "batch_size": len(images)})
        assert difference(out, expected.round().numpy()).most <= 1
        shares.append(share)
    assert len(set(shares)) > 9 and min(shares) < 0.4 and max(shares) > 0.6


def test_cutmix_puts_one_rectangle_of_the_image_before_into_each_image() -> None:
    images = photos(64)
    for first in range(12):
        out, share = mixed(Mix(mixup=0, cutmix=1.0), images, first)
        before = np.roll(images, 1, 0)
        of_other = (out != images).any(axis=(0, 1))
        rows, columns = np.flatnonzero(of_other.any(1)), np.flatnonzero(of_other.any(0))
        if not len(rows):
            assert share == 1 and np.array_equal(out, images)
            continue
        box = np.s_[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        expected = images.copy()
        expected[box] = before[box]
        assert np.array_equal(out, expected)
        assert share == pytest.approx(1 - expected[box][0, 0].size / 64**2, abs=0.03)


@pytest.mark.parametrize("sides", [(224, 224), (96, 224)])
def test_cutmixs_rectangle_is_torchvisions(sides: tuple[int, int]) -> None:
    """The same distribution: means and spreads of its edges."""
    torch.manual_seed(0)
    theirs = transforms().CutMix(num_classes=2)
    drawn = [theirs.make_params([torch.zeros(1, 3, *sides)])["box"] for _ in range(4000)]
    expected = np.array([(top, left, bottom, right) for left, top, right, bottom in drawn])
    made = [draw_mix(key, sides, (1.0, 0.0, 1.0)) for key in keys_of(4000)]
    assert {kind for kind, _, _ in made} == {CUTMIX}
    ours = np.array([box for _, _, box in made])
    spread = expected.std(0) / 4000**0.5
    assert (np.abs(ours.mean(0) - expected.mean(0)) < 6 * spread).all()
    assert (np.abs(ours.std(0) / expected.std(0) - 1) < 0.08).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.8, 1.0, 2.0, 10.0])
def test_shares_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    drawn = np.array([draw_beta(key, alpha) for key in keys_of(8000)])
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert abs(drawn.mean() - 0.5) < 0.02
    assert drawn.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))  # central moment
    assert ((drawn - 0.5) ** 4).mean() == pytest.approx(fourth, rel=0.12)


def test_batches_are_mixed_as_often_as_is_asked_and_each_way_as_often() -> None:
    kinds = [draw_mix(key, (32, 32), (0.4, 0.2, 1.0))[0] for key in keys_of(5000)]
    for kind, share in ((NOTHING, 0.6), (MIXUP, 0.2), (CUTMIX, 0.2)):
        assert abs(kinds.count(kind) / 5000 - share) < 0.03
    images = photos(32)
    out, share = mixed(Mix(prob=0), images, 0)
    assert share == 1 and np.array_equal(out, images)


def test_seed_epoch_and_first_sample_each_draw_anew() -> None:
    images = photos(16)
    made, statuses = Mix(mixup=1.0, cutmix=0), np.zeros(10, np.uint8)
    shares = {
        made.apply(samples_of(10, first), seed, epoch, images.copy(), statuses)
        for seed, epoch, first in ((3, 1, 0), (4, 1, 0), (3, 2, 0), (3, 1, 1))
    }
    assert len(shares) == 4


def test_a_broken_image_is_neither_read_nor_written() -> None:
    images = photos(32)
    statuses = np.zeros(10, np.uint8)
    statuses[[0, 4, 9]] = DECODER
    good = statuses == 0
    for made in (Mix(mixup=1.0, cutmix=0), Mix(mixup=0, cutmix=1.0)):
        out, share = mixed(made, images, 5, statuses)
        kept = images[good]
        alone = kept.copy()
        assert made.apply(samples_of(10, 5), 3, 1, alone, np.zeros(7, np.uint8)) == share < 1
        assert np.array_equal(out[~good], images[~good]) and np.array_equal(out[good], alone)
    statuses[1:] = DECODER
    out, share = mixed(Mix(), images, 5, statuses)
    assert share == 1 and np.array_equal(out, images)


def test_its_kernel_is_loaded_before_the_first_batch() -> None:
    from alexnet_fast.augment.augmenter import Augmenter

    Augmenter([], 0, Mix()).load(SAMPLE_DTYPE)
    before = len(mix_batch.overloads)
    mixed(Mix(), photos(16), 0)
    assert len(mix_batch.overloads) == before > 0 and WHOLE == 256


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mixup": -1}, "Mix.mixup = -1 is out of range, expected 0 to 100"),
        ({"cutmix": "1"}, "Mix.cutmix = '1' is of type str, expected a number, 0 to 100"),
        ({"mixup": 0, "cutmix": 0}, "Mix(mixup=0, cutmix=0) would mix nothing: give one of them"),
        ({"prob": 2}, "Mix.prob = 2 is out of range, expected a probability, 0 to 1"),
        ({"num_classes": 0}, "Mix.num_classes = 0 is out of range, expected at least 1"),
    ],
)
def test_a_parameter_that_it_cannot_use_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Mix(**given)
    assert str(caught.value).startswith(said)
