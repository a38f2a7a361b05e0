"""Several views of each sample, of one decoding: each with draws of its own, together as a tuple of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from alexnet_fast import ImageNet, Loader, UserError
from alexnet_fast.augment.mix import Mix
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, difference, drawn_crop, jpeg, picture, pixels, train_reference, write

COUNT = 20
SIZES = [(300 - 9 * k, 120 + 11 * k) for k in range(COUNT)]
OPTIONS: dict[str, Any] = {"train": True, "seed": 3, "threads": 1, "size": 48, "drop_last": False}


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs with and without tiles, and raw pixels."""
    entries: list[Any] = []
    for k, size in enumerate(SIZES):
        image = picture(*size, k)
        entries.append([encode_jpeg(image, Encoding(restart_mcus=1)), jpeg(image), Entry.raw(image)][k % 3])
    return write(tmp_path_factory.mktemp("views") / "a.beton", entries)


def views_of(path: Path, batch_size: int = 7, **options: Any) -> list[dict[int, np.ndarray]]:
    """Of each view of an epoch, pixels by label."""
    with Loader(path, batch_size, **{**OPTIONS, **options}) as loader:
        found: list[dict[int, np.ndarray]] = []
        for batch in loader:
            images = batch.images if isinstance(batch.images, tuple) else (batch.images,)
            found = found or [{} for _ in images]
            for each, view in zip(found, images, strict=True):
                each |= {int(label): image.numpy().copy() for label, image in zip(batch.labels, view)}
    return found


def alike(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> int:
    assert one.keys() == other.keys()
    return sum(np.array_equal(one[label], other[label]) for label in one)


def test_each_view_is_cropped_and_mirrored_by_draws_of_its_own(beton: Path) -> None:
    found = views_of(beton, views=3, size=64)
    assert len(found) == 3
    flips = set()
    for view, images in enumerate(found):
        for k, size in enumerate(SIZES):
            image = picture(*size, k)
            stored = [encode_jpeg(image, Encoding(restart_mcus=1)), jpeg(image)]
            decoded = image if k % 3 == 2 else Image.fromarray(pixels(stored[k % 3]))
            crop = drawn_crop(*size, k, seed=3, view=view)
            assert difference(images[k], train_reference(decoded, *crop, 64)) < 4
            flips.add((view, crop[1]))
    assert len(flips) == 6
    assert not any(alike(found[a], found[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": (40, 56)},
        {"interpolation": "bicubic"},
        {"augmentations": [Solarize(100, p=0.5), Solarize(20, p=0.5)]},
        {"decoder": "libjpeg"},
        {"normalize": ImageNet, "dtype": torch.float32},
        {"memory_format": torch.channels_last},
    ],
    ids=str,
)
def test_a_view_is_the_same_however_many_there_are(beton: Path, options: dict[str, Any]) -> None:
    (one,), two, three = (views_of(beton, views=views, **options) for views in (1, 2, 3))
    assert alike(one, two[0]) == alike(one, three[0]) == alike(two[1], three[1]) == COUNT
    assert alike(two[0], two[1]) == 0


def test_each_view_has_augmentations_of_its_own(beton: Path) -> None:
    """Without crops and flips, so that nothing else differs."""
    first, second = views_of(beton, train=False, views=2, augmentations=[Solarize(0, p=0.5)])
    assert 0 < alike(first, second) < COUNT
    first, second = views_of(beton, train=False, views=2)
    assert alike(first, second) == COUNT


def test_a_batch_is_a_tuple_of_views_in_one_piece_of_memory(beton: Path) -> None:
    with Loader(beton, 8, **OPTIONS, views=2) as loader:
        batches = list(loader)
        for images, labels in batches:
            first, second = images
            assert isinstance(images, tuple) and first.shape == second.shape == (len(labels), 3, 48, 48)
            assert first.is_contiguous() and second.is_contiguous()
        assert [len(batch.labels) for batch in batches] == [8, 8, 4]
        kept = [[view.clone() for view in batch.images] for batch in batches]
        for _ in range(2):
            list(loader)
        assert all(
            torch.equal(view, copy)
            for batch, copies in zip(batches, kept)
            for view, copy in zip(batch.images, copies)
        )


def test_one_sample_is_a_tuple_of_views_too(beton: Path) -> None:
    with Loader(beton, 8, **OPTIONS, views=2) as loader:
        loader.set_epoch(4)
        for batch in loader:
            again = loader.get(batch.indices, epoch=4)
            assert all(map(torch.equal, again.images, batch.images)) and len(again.images) == 2
        image, label = loader[5]
        assert int(label) == 5 and len(image) == 2 and not torch.equal(*image)
        assert all(map(torch.equal, loader.dataset[5][0], image))
        assert all(map(torch.equal, image, (view[0] for view in loader.get([5]).images)))


def test_a_data_loader_over_the_dataset_hands_the_views_out(beton: Path) -> None:
    with Loader(beton, 5, **OPTIONS, views=2) as loader, Loader(beton, 5, **OPTIONS, views=2) as other:
        over = DataLoader(
            loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn, num_workers=0
        )
        for batch, expected in zip(over, other, strict=True):
            assert all(map(torch.equal, batch[0], expected.images)) and torch.equal(batch[1], expected.labels)
        plain = next(iter(DataLoader(loader.dataset, batch_size=3)))
        assert [view.shape for view in plain[0]] == [(3, 3, 48, 48)] * 2


def test_views_on_a_device_are_the_loaders(beton: Path) -> None:
    options: dict[str, Any] = {**OPTIONS, "views": 2, "normalize": ImageNet}
    with Loader(beton, 6, **options) as plain, Loader(beton, 6, **options).prefetch_to("cpu") as loader:
        for batch, expected in zip(loader, plain, strict=True):
            assert len(batch.images) == 2 and all(map(torch.equal, batch.images, expected.images))
            assert torch.equal(batch.labels, expected.labels)


def test_views_of_a_batch_are_mixed_alike(beton: Path) -> None:
    """One share and one rectangle, so that one label is right for all views: in an evaluation they are the same image."""
    options: dict[str, Any] = {**OPTIONS, "train": False, "views": 2, "mix": Mix(1.0, 1.0, num_classes=COUNT)}
    with Loader(beton, 10, **options) as loader, Loader(beton, 10, **{**options, "views": 1}) as one:
        for batch, expected in zip(loader, one, strict=True):
            assert torch.equal(batch.images[0], batch.images[1])
            assert torch.equal(batch.images[0], expected.images) and torch.equal(
                batch.labels, expected.labels
            )
            assert 0 < batch.labels.max() < 1


def test_a_broken_sample_is_skipped_in_all_views(tmp_path: Path) -> None:
    entries = [Entry(b"no image", 60, 50) if k == 3 else jpeg(picture(60, 50, k)) for k in range(8)]
    path = write(tmp_path / "a.beton", entries)
    found = views_of(path, 8, views=2, on_error="skip")
    expected = views_of(path, 8, on_error="skip")
    assert sorted(found[1]) == [0, 1, 2, 4, 5, 6, 7] and alike(found[0], expected[0]) == 7


@pytest.mark.parametrize("wrong", [0, 65, -1, 1.5, "2", None])
def test_a_number_of_views_that_cannot_be_is_refused(beton: Path, wrong: Any) -> None:
    with pytest.raises(UserError, match="^views = "):
        Loader(beton, 4, **OPTIONS, views=wrong)
