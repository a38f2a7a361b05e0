"""A Loader that mixes its batches: pixels, soft labels, and what does not change them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import Loader
from alexnet_fast.augment import Invert, Mix
from alexnet_fast.errors import UserError
from betons import Entry, jpeg, picture, write

COUNT, CLASSES = 46, 5


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of five classes, of which class 4 is the last one's alone."""
    entries = [jpeg(picture(90 + k % 3 * 20, 80, k)) for k in range(COUNT)]
    labels = [k % (CLASSES - 1) for k in range(COUNT - 1)] + [CLASSES - 1]
    return write(tmp_path_factory.mktemp("mixed") / "a.beton", entries, labels=labels)


def batches(path: Path, batch_size: int = 10, *, step: int = 0, **options: Any) -> list[tuple[Any, ...]]:
    """Images, labels and indices of an epoch's batches."""
    given: dict[str, Any] = {"train": True, "drop_last": False, "seed": 3, "size": 40, **options}
    with Loader(path, batch_size, **given) as loader:
        loader.set_epoch(1, step)
        return [(b.images.numpy().copy(), b.labels.clone(), b.indices.tolist()) for b in loader]


def same(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, x) and torch.equal(b, y) and c == z for (a, b, c), (x, y, z) in zip(one, other)
    )


@pytest.mark.parametrize("mix", [Mix(), Mix(0.2, 0), Mix(0, 1.0, prob=0.5)], ids=repr)
def test_a_mixed_epoch_is_the_same_on_any_threads_and_after_a_resume(beton: Path, mix: Mix) -> None:
    expected = batches(beton, threads=1, mix=mix)
    assert not same(expected, batches(beton, threads=1))
    for threads in (2, 5, 16):  # so many that some find nothing left to decode
        assert same(batches(beton, threads=threads, mix=mix, batches_ahead=threads), expected)
    assert same(batches(beton, step=2, mix=mix), expected[2:])
    ranks = [batches(beton, rank=rank, world_size=2, mix=mix, threads=rank + 1) for rank in range(2)]
    again = [batches(beton, rank=rank, world_size=2, mix=mix, threads=3) for rank in range(2)]
    assert all(same(*pair) for pair in zip(ranks, again))


def test_labels_are_soft_by_the_share_that_the_pixels_are_mixed_by(beton: Path) -> None:
    plain, mixed = batches(beton), batches(beton, mix=Mix(mixup=1.0, cutmix=0))
    for (images, labels, indices), (out, soft, same_indices) in zip(plain, mixed):
        assert indices == same_indices and soft.dtype == torch.float32
        assert tuple(soft.shape) == (len(labels), CLASSES)
        assert torch.allclose(soft.sum(1), torch.ones(len(labels)))
        one_hot = torch.nn.functional.one_hot(labels, CLASSES).float()
        before = one_hot.roll(1, 0)
        differ = (one_hot != before).any(1)
        share = float(soft[differ][0] @ one_hot[differ][0])
        assert torch.allclose(soft, share * one_hot + (1 - share) * before, atol=1e-6)
        blended = share * images.astype(float) + (1 - share) * np.roll(images, 1, 0)
        assert np.abs(out - blended).max() <= 0.51


def test_a_batch_that_is_not_mixed_has_labels_of_one_class(beton: Path) -> None:
    for (images, labels, _), (out, soft, _) in zip(batches(beton), batches(beton, mix=Mix(prob=0))):
        assert np.array_equal(out, images)
        assert torch.equal(soft, torch.nn.functional.one_hot(labels, CLASSES).float())


def test_images_are_augmented_before_they_are_mixed(beton: Path) -> None:
    mix = Mix(mixup=1.0, cutmix=0)
    plain, inverted = batches(beton, mix=mix), batches(beton, mix=mix, augmentations=[Invert(p=1)])
    for (images, _, _), (out, _, _) in zip(plain, inverted):
        assert np.abs(out.astype(int) - (255 - images.astype(int))).max() <= 1


def test_skipped_samples_are_no_partners_and_labels_stay_with_their_images(tmp_path: Path) -> None:
    entries: list[Entry | bytes] = [jpeg(picture(64, 64, k)) for k in range(12)]
    entries[3] = entries[7] = Entry(b"no image", 64, 64)
    path = write(tmp_path / "a.beton", entries)
    options: dict[str, Any] = {"on_error": "skip", "threads": 3}
    ((images, labels, indices),) = batches(path, 12, **options)
    ((out, soft, same_indices),) = batches(path, 12, mix=Mix(mixup=1.0, cutmix=0), **options)
    assert indices == same_indices and len(labels) == 10
    share = float(soft[0, labels[0]])
    one_hot = torch.nn.functional.one_hot(labels, 12).float()
    assert torch.allclose(soft, share * one_hot + (1 - share) * one_hot.roll(1, 0), atol=1e-6)
    blended = share * images.astype(float) + (1 - share) * np.roll(images, 1, 0)
    assert np.abs(out - blended).max() <= 0.51


def test_numbers_of_a_float_field_are_blended(tmp_path: Path) -> None:
    entries = [jpeg(picture(64, 64, k)) for k in range(8)]
    path = write(tmp_path / "a.beton", entries, more=[("age", [1.5 * k for k in range(8)])])
    options: dict[str, Any] = {"label_field": "age"}
    ((_, labels, _),) = batches(path, 8, **options)
    ((_, soft, _),) = batches(path, 8, mix=Mix(mixup=1.0, cutmix=0), **options)
    assert soft.dtype == torch.float32 and soft.shape == labels.shape
    share = float((soft[0] - labels[-1]) / (labels[0] - labels[-1]))
    assert 0 < share < 1 and torch.allclose(soft, share * labels + (1 - share) * labels.roll(1), atol=1e-5)


def test_a_model_may_have_more_classes_than_the_file_but_not_fewer(beton: Path) -> None:
    assert all(soft.shape[1] == 9 for _, soft, _ in batches(beton, mix=Mix(num_classes=9)))
    with pytest.raises(
        UserError, match=r"Mix.num_classes = 3 is too small: .* has the label 4; expected at least 5"
    ):
        Loader(beton, 10, train=True, mix=Mix(num_classes=3))


def test_a_loader_that_mixes_is_pickled(beton: Path) -> None:
    with Loader(beton, 10, train=True, size=40, mix=Mix(0.3)) as loader:
        again = pickle.loads(pickle.dumps(loader))
        with again:
            assert again.options.mix == Mix(0.3)
            assert torch.equal(next(iter(again)).labels, next(iter(loader)).labels)
