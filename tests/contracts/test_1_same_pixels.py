"""Promise 1: the pixels of sample i in epoch e depend only on (seed, e, i) and, for repeats, on the occurrence; the order only on (seed, e)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Loader
from alexnet_fast.augment import Custom, uniform
from alexnet_fast.augment.operations import of_recipes
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, difference, drawn_crop, jpeg, picture, train_reference, write

COUNT = 230
Epoch = tuple[list[int], dict[int, np.ndarray]]


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs with and without markers, grey ones and raw ones, of several sizes; a sample's label is its index."""
    entries: list[Entry | bytes] = []
    for k in range(COUNT):
        image = picture(100 + k % 7 * 40, 90 + k % 5 * 40, k % 9)
        plain = jpeg(image.convert("L") if k % 4 == 1 else image)
        entries.append(
            Entry.raw(image) if k % 10 == 3 else plain if k % 4 else encode_jpeg(image, Encoding())
        )
    return write(tmp_path_factory.mktemp("same") / "a.beton", entries)


def epoch_of(path: Path, batch_size: int, *, epoch: int = 2, step: int = 0, **options: object) -> Epoch:
    """The labels of an epoch in order, and pixels by label, those of all its views."""
    options = {"train": True, "drop_last": False, "seed": 11, **options}
    labels: list[int] = []
    pixels = {}
    with Loader(path, batch_size, **options) as loader:  # type: ignore[arg-type]
        loader.set_epoch(epoch, step)
        for batch in loader:
            labels += batch.labels.tolist()
            views = batch.images if isinstance(batch.images, tuple) else (batch.images,)
            for *images, label in zip(*views, batch.labels):
                every = [image.numpy().copy() for image in images]
                pixels[int(label)] = every[0] if len(every) == 1 else np.stack(every)
    return labels, pixels


@pytest.fixture(scope="module")
def expected(beton: Path) -> Epoch:
    labels, pixels = epoch_of(beton, 64, threads=1)
    assert sorted(labels) == list(range(COUNT))
    return labels, pixels


def same(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> bool:
    return all(np.array_equal(image, expected[label]) for label, image in found.items())


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("batch_size", [64, 100])
def test_neither_threads_nor_batch_size_change_them(
    beton: Path, expected: Epoch, threads: int, batch_size: int
) -> None:
    labels, pixels = epoch_of(beton, batch_size, threads=threads, batches_ahead=threads)
    assert labels == expected[0] and same(pixels, expected[1])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_do_not_change_them(beton: Path, expected: Epoch, world_size: int) -> None:
    parts = [epoch_of(beton, 10, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(label for labels, _ in parts for label in labels) == list(range(COUNT))
    assert all(same(pixels, expected[1]) for _, pixels in parts)


def test_a_resume_does_not_change_them(beton: Path, expected: Epoch) -> None:
    labels, pixels = epoch_of(beton, 50, step=3)
    assert labels == expected[0][150:] and same(pixels, expected[1])


def test_the_epochs_before_do_not_change_them(beton: Path, expected: Epoch) -> None:
    with Loader(beton, 64, train=True, drop_last=False, seed=11) as loader:
        for _ in range(2):
            next(iter(loader))
        assert same(
            {int(label): image.numpy().copy() for batch in loader for image, label in zip(*batch)},
            expected[1],
        )


def test_seed_epoch_and_index_each_change_them(beton: Path, expected: Epoch) -> None:
    for change in ({"seed": 12}, {"epoch": 3}):
        labels, pixels = epoch_of(beton, 64, **change)  # type: ignore[arg-type]
        assert labels != expected[0]
        assert sum(np.array_equal(pixels[label], expected[1][label]) for label in range(COUNT)) < 3
    alike = [Entry.raw(picture(300, 200))] * 20
    _, pixels = epoch_of(write(beton.with_name("alike.beton"), alike), 20)
    assert len({image.tobytes() for image in pixels.values()}) == 20


# -- with augmentations

AUGMENTATIONS = [Solarize(90, p=0.5), Solarize(200, p=0.3)]


def inverted(image: np.ndarray, threshold: int) -> np.ndarray:
    return np.where(image >= threshold, 255 - image, image)


@pytest.fixture(scope="module")
def augmented(beton: Path, expected: Epoch) -> Epoch:
    """Each image as it is without them, but for some whose pixels are inverted in one of three ways."""
    labels, pixels = epoch_of(beton, 64, threads=1, augmentations=AUGMENTATIONS)
    assert labels == expected[0]
    kinds = [0, 0, 0, 0]
    for label, image in pixels.items():
        plain = expected[1][label]
        first = inverted(plain, 90)
        ways = [plain, first, inverted(plain, 200), inverted(first, 200)]
        kinds[next(k for k, way in enumerate(ways) if np.array_equal(image, way))] += 1
    assert min(kinds[0], kinds[1]) > 40 and sum(kinds) == COUNT
    return labels, pixels


@pytest.mark.parametrize(("threads", "batch_size"), [(2, 64), (4, 100), (3, 7)])
def test_neither_threads_nor_batch_size_change_what_augmentations_do(
    beton: Path, augmented: Epoch, threads: int, batch_size: int
) -> None:
    labels, pixels = epoch_of(beton, batch_size, threads=threads, augmentations=AUGMENTATIONS)
    assert labels == augmented[0] and same(pixels, augmented[1])


def test_ranks_do_not_change_what_augmentations_do(beton: Path, augmented: Epoch) -> None:
    for rank in range(3):
        _, pixels = epoch_of(beton, 10, rank=rank, world_size=3, augmentations=AUGMENTATIONS)
        assert same(pixels, augmented[1])


def test_a_resume_does_not_change_what_augmentations_do(beton: Path, augmented: Epoch) -> None:
    labels, pixels = epoch_of(beton, 50, step=3, augmentations=AUGMENTATIONS)
    assert labels == augmented[0][150:] and same(pixels, augmented[1])


def test_seed_and_epoch_change_what_augmentations_do(beton: Path) -> None:
    """Without crops and flips, so that nothing else differs."""
    options = {"train": False, "augmentations": AUGMENTATIONS}
    _, pixels = epoch_of(beton, 64, **options)  # type: ignore[arg-type]
    for change in ({"seed": 12}, {"epoch": 3}):
        _, others = epoch_of(beton, 64, **options, **change)  # type: ignore[arg-type]
        assert 60 < sum(np.array_equal(pixels[label], others[label]) for label in range(COUNT)) < COUNT - 60


def one_dot(image, key):  # type: ignore[no-untyped-def]
    """A user's own operation."""
    image[:, int(uniform(key, 0) * image.shape[1]), int(uniform(key, 1) * image.shape[2])] = 255


EVERY: dict[str, dict[str, Any]] = {
    name: {"augmentations": [kind(p=0.7)]} for name, kind in of_recipes().items()
}
EVERY["Custom"] = {"augmentations": [Custom(one_dot)]}
ALL_OF_THEM = [each for made in EVERY.values() for each in made["augmentations"]]
EVERY["all of them"] = {"augmentations": ALL_OF_THEM}
EVERY["size=(40, 64)"] = {"size": (40, 64)}
EVERY["bicubic"] = {"interpolation": "bicubic"}
EVERY["views=3"] = {"views": 3}
EVERY["views of all of them"] = {
    "views": 2, "size": (40, 64), "interpolation": "bicubic", "augmentations": ALL_OF_THEM
}  # fmt: skip


@pytest.mark.parametrize("given", EVERY.values(), ids=EVERY)
def test_nothing_that_is_done_to_images_depends_on_threads_batches_ranks_or_a_resume(
    beton: Path, given: dict[str, Any]
) -> None:
    options = {"size": 48, **given}
    labels, pixels = epoch_of(beton, 100, threads=1, **options)
    _, plain = epoch_of(beton, 100, size=48)
    changed = sum(not np.array_equal(image, plain[label]) for label, image in pixels.items())
    assert changed > 0.4 * COUNT
    for threads, batch_size in ((1, 7), (2, 7), (5, 7), (2, 100), (5, 100)):
        assert_same(epoch_of(beton, batch_size, threads=threads, **options), (labels, pixels))
    for rank in range(3):
        _, found = epoch_of(beton, 7, threads=2, rank=rank, world_size=3, **options)
        assert same(found, pixels)
    for batch_size, step in ((7, 5), (100, 1)):
        begin = batch_size * step
        assert_same(
            epoch_of(beton, batch_size, step=step, **options),
            (labels[begin:], {label: pixels[label] for label in labels[begin:]}),
        )


def assert_same(found: Epoch, expected: Epoch) -> None:
    """The same labels in the same order, with the same pixels."""
    assert found[0] == expected[0] and found[1].keys() == expected[1].keys()
    assert same(found[1], expected[1])


# -- samples that occur several times

REPEATED = [*range(60), *range(0, 60, 3), 5, *[7] * 12, *range(30, 60), 5]
"""30 samples once, others two to fourteen times, with copies next to each other and far apart."""


def batches_of(path: Path, batch_size: int, *, step: int = 0, **options: object) -> list[tuple[int, bytes]]:
    """Labels and pixels of an epoch, in order."""
    options = {"train": True, "drop_last": False, "seed": 11, "indices": REPEATED, **options}
    with Loader(path, batch_size, **options) as loader:  # type: ignore[arg-type]
        loader.set_epoch(2, step)
        return [(int(label), image.numpy().tobytes()) for batch in loader for image, label in zip(*batch)]


@pytest.fixture(scope="module")
def repeated(beton: Path) -> list[tuple[int, bytes]]:
    made = batches_of(beton, 16, threads=1)
    assert sorted(label for label, _ in made) == sorted(REPEATED)
    return made


def test_each_copy_of_a_sample_has_its_own_crop_and_flip(tmp_path: Path) -> None:
    photo = picture(300, 200)
    path = write(tmp_path / "a.beton", [Entry.raw(photo)] * 6)
    with Loader(path, 8, train=True, shuffle=False, seed=11, size=64, indices=[5] * 8) as loader:
        loader.set_epoch(2)
        images = next(iter(loader)).images.numpy()
    flips = []
    for copy, image in enumerate(images):
        box, mirrored = drawn_crop(*photo.size, 5, seed=11, epoch=2, occurrence=copy)
        assert difference(image, train_reference(photo, box, mirrored, 64)) < 1
        flips.append(mirrored)
    assert len({image.tobytes() for image in images}) == 8 and set(flips) == {True, False}


def test_the_first_copy_is_the_sample_without_repeats(beton: Path, repeated: list[tuple[int, bytes]]) -> None:
    """And the k-th in the list is the k-th in any longer list: added repeats change nothing else."""
    _, once = epoch_of(beton, 64)
    by_label: dict[int, set[bytes]] = {}
    for label, image in repeated:
        by_label.setdefault(label, set()).add(image)
    for label, images in by_label.items():
        assert len(images) == REPEATED.count(label) and once[label].tobytes() in images
    in_order = batches_of(beton, 16, shuffle=False)
    assert sorted(in_order) == sorted(repeated)
    assert in_order[:60] == [(label, once[label].tobytes()) for label in range(60)]
    assert batches_of(beton, 16, shuffle=False, indices=[*REPEATED, 5, 7])[: len(REPEATED)] == in_order


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("batch_size", [5, 100])
def test_neither_threads_nor_batch_size_change_the_copies(
    beton: Path, repeated: list[tuple[int, bytes]], threads: int, batch_size: int
) -> None:
    assert batches_of(beton, batch_size, threads=threads, batches_ahead=threads) == repeated


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_do_not_change_the_copies(
    beton: Path, repeated: list[tuple[int, bytes]], world_size: int
) -> None:
    parts = [batches_of(beton, 5, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(each for part in parts for each in part) == sorted(repeated)


def test_a_resume_does_not_change_the_copies(beton: Path, repeated: list[tuple[int, bytes]]) -> None:
    assert batches_of(beton, 16, step=3) == repeated[48:]


def test_each_copy_of_a_sample_is_augmented_by_draws_of_its_own(beton: Path) -> None:
    options = {"augmentations": [Solarize(0, p=0.5)], "indices": [5] * 40, "flip": 0.0, "scale": (1.0, 1.0)}
    made = batches_of(beton, 16, train=False, **options)
    assert len({image for _, image in made}) == 2
    assert batches_of(beton, 7, train=False, threads=3, **options) == made


def test_an_evaluation_gives_all_copies_the_same_pixels(beton: Path) -> None:
    made = batches_of(beton, 16, train=False, indices=[5, 9, 5])
    assert made[0] == made[2] != made[1]
