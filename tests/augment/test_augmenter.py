"""Which image gets which augmentation: drawn by (seed, epoch, index, occurrence) and the place in the list, and by nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_fast.augment.augmentation import Augmentation
from alexnet_fast.augment.augmenter import Augmenter
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.decode.counter_rng import sample_key, uniform
from alexnet_fast.decode.crop import draw_flip
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.decode.status import DECODER

COUNT = 2000
GOLDEN_CHOICE = [1, 11, 12, 20, 21, 22, 34, 48, 49, 53, 57]
GOLDEN_DRAWS = [102, 177, 111, 170, 214, 220, 8, 75]


def samples_of(count: int = COUNT, occurrence: int = 0) -> np.ndarray:
    samples = np.zeros(count, SAMPLE_DTYPE)
    samples["index"], samples["occurrence"] = np.arange(count), occurrence
    return samples


@dataclass(frozen=True)
class Marks(Augmentation):
    """Adds to each image's first pixel, and keeps the first random number of each; the augmentation of these tests."""

    amount: int = 1

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        images[chosen, 0, 0, 0] += np.uint8(self.amount)
        draws = [np.floor(256 * uniform(key, 0)) for key in keys]
        images[chosen, 1, 0, 0] = np.array(draws, np.uint8)


def applied(
    augmentations: list[Augmentation],
    samples: np.ndarray,
    *,
    seed: int = 5,
    epoch: int = 2,
    statuses: np.ndarray | None = None,
) -> np.ndarray:
    """What becomes of black images. (n, 3, 1, 1) uint8"""
    images = np.zeros((len(samples), 3, 1, 1), np.uint8)
    statuses = np.zeros(len(samples), np.uint8) if statuses is None else statuses
    Augmenter(augmentations, seed).apply(samples, epoch, images, statuses, np.arange(len(samples)))
    return images


def chosen(
    augmentations: list[Augmentation], samples: np.ndarray | None = None, **options: Any
) -> np.ndarray:
    """For each image, the sum of the amounts of the Marks that it got. (n,)"""
    return applied(augmentations, samples_of() if samples is None else samples, **options)[:, 0, 0, 0]


def test_without_augmentations_nothing_is_touched() -> None:
    assert not applied([], samples_of(10)).any()


def test_p_is_the_share_of_images_that_are_changed() -> None:
    assert chosen([Marks(p=0)]).sum() == 0
    assert chosen([Marks(p=1)]).sum() == COUNT
    for p in (0.1, 0.5, 0.8):
        spread = (p * (1 - p) / COUNT) ** 0.5
        assert abs(chosen([Marks(p=p)]).mean() - p) < 4 * spread


def test_a_broken_sample_is_not_touched() -> None:
    statuses = np.zeros(COUNT, np.uint8)
    statuses[::3] = DECODER
    images = applied([Marks(p=1), Solarize(0, p=1)], samples_of(), statuses=statuses)
    assert not images[::3].any() and images[statuses == 0].any(axis=(1, 2, 3)).all()


def test_they_are_applied_in_the_order_of_the_list() -> None:
    first = applied([Solarize(0, p=1), Marks(3, p=1)], samples_of(4))
    second = applied([Marks(3, p=1), Solarize(0, p=1)], samples_of(4))
    assert (first[:, 0, 0, 0] == 2).all() and (second[:, 0, 0, 0] == 252).all()


def test_neither_the_chunk_nor_its_order_changes_what_a_sample_gets() -> None:
    samples, augmentations = samples_of(), [Marks(1), Marks(2), Solarize(0, p=0.3)]
    together = applied(augmentations, samples)
    shuffled = np.random.default_rng(0).permutation(COUNT)
    for part in (shuffled[:1], shuffled[:7], shuffled[7:1000], np.arange(COUNT - 1)):
        assert np.array_equal(applied(augmentations, samples[part]), together[part])


def test_seed_epoch_index_occurrence_and_place_each_draw_anew() -> None:
    by_place = chosen([Marks(1), Marks(2)])
    draws = {
        "once": chosen([Marks()]),
        "seed": chosen([Marks()], seed=6),
        "epoch": chosen([Marks()], epoch=3),
        "occurrence": chosen([Marks()], samples_of(occurrence=1)),
        "place": by_place >> 1,
    }
    assert np.array_equal(by_place & 1, draws["once"]), "another one behind it changes nothing"
    names = list(draws)
    for k, name in enumerate(names):
        for other in names[k + 1 :]:  # as often alike as two coins are
            assert abs((draws[name] == draws[other]).mean() - 0.5) < 4 * 0.5 / COUNT**0.5, (name, other)
    runs = np.abs(np.diff(draws["once"].astype(int))).mean()  # neighbouring indices
    assert abs(runs - 0.5) < 4 * 0.5 / COUNT**0.5


def test_the_draws_are_not_those_of_the_crop() -> None:
    flips = [
        draw_flip(np.uint64(sample_key(np.uint64(5), np.uint64(2), index, 0)), 0.5) for index in range(COUNT)
    ]
    assert abs((chosen([Marks()]) == np.array(flips)).mean() - 0.5) < 4 * 0.5 / COUNT**0.5


def test_an_operations_random_numbers_do_not_depend_on_its_having_been_chosen() -> None:
    """A rare one would draw small numbers only, were its own first number the one that chose it."""
    images = applied([Marks(p=0.1)], samples_of(20_000))
    draws = images[images[:, 0, 0, 0] > 0, 1, 0, 0]
    histogram, _ = np.histogram(draws, 16, (0, 256))
    expected = len(draws) / 16
    assert (
        (histogram - expected) ** 2 / expected
    ).sum() < 37.7  # chi-squared of 15 degrees, one in a thousand


def test_the_draws_stay_what_they_are() -> None:
    """Changing them changes every training run that augments and breaks exact resumes: a change of major version, said in the changelog."""
    assert np.flatnonzero(chosen([Marks(p=0.2)], samples_of(60))).tolist() == GOLDEN_CHOICE
    assert (
        applied([Marks(p=1)], samples_of(8), seed=2**64 - 1, epoch=2**62)[:, 1, 0, 0].tolist() == GOLDEN_DRAWS
    )
