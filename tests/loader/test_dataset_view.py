"""What code that knows torch's DataLoader finds at a Loader: dataset, samplers, random access."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Subset, _utils

from alexnet_fast import ImageNet, Loader, UserError
from alexnet_fast.beton.errors import FieldError
from alexnet_fast.decode.status import BrokenSample
from alexnet_fast.pack import main as pack
from betons import Entry, jpeg, picture, write
from folders import fill

COUNT = 20
LABELS = [k % 3 for k in range(COUNT)]


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [jpeg(picture(60 + k, 50, k)) for k in range(COUNT)]
    return write(tmp_path_factory.mktemp("view") / "a.beton", entries, LABELS)


def opened(beton: Path, batch_size: int = 4, **options: Any) -> Loader:
    return Loader(beton, batch_size, **{"train": True, "size": 24, "seed": 3, "threads": 1, **options})


# -- the dataset


def test_a_dataset_is_the_samples_one_by_one(beton: Path) -> None:
    with opened(beton, train=False) as loader:
        dataset = loader.dataset
        batches = [(image, int(label)) for batch in loader for image, label in zip(*batch)]
        assert len(dataset) == COUNT and dataset.targets == LABELS
        for (image, label), (expected, number) in zip(dataset, batches, strict=True):
            assert torch.equal(image, expected) and label == number and type(label) is int
        assert torch.equal(dataset[-1][0], batches[-1][0])


def test_a_dataset_of_some_samples_counts_among_them(beton: Path) -> None:
    with opened(beton, 2, indices=[5, 3, 5]) as loader, opened(beton) as whole:
        dataset = loader.dataset
        assert len(dataset) == 3 and dataset.targets == [LABELS[5], LABELS[3], LABELS[5]]
        assert torch.equal(dataset[1][0], whole[3][0]) and torch.equal(dataset[0][0], dataset[2][0])
        assert [label for _, label in Subset(dataset, [2, 1])] == [LABELS[5], LABELS[3]]  # type: ignore[arg-type]


def test_classes_have_their_names_where_the_file_has_them(tmp_path: Path, beton: Path) -> None:
    fill(tmp_path / "data/train", {"ant": 2, "bee": 2})
    assert pack(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "packed"), "--workers", "1"]) == 0
    with opened(tmp_path / "packed/train.beton", 2) as loader:
        assert loader.dataset.classes == ["ant", "bee"]
        assert loader.dataset.class_to_idx == {"ant": 0, "bee": 1}
    with opened(beton) as loader:
        assert loader.dataset.classes == ["0", "1", "2"] and len(loader.dataset.class_to_idx) == 3


def test_a_float_label_has_no_classes_but_targets(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(60, 50))] * 2, [0.5, 1.5])
    with opened(path, 2) as loader:
        assert loader.dataset.targets == [0.5, 1.5] and loader.dataset[1][1] == 1.5
        with pytest.raises(FieldError):
            _ = loader.dataset.classes


@pytest.mark.parametrize("wrong", ["0", 1.0, True, -21])
def test_a_place_of_a_wrong_type_is_refused(beton: Path, wrong: Any) -> None:
    with opened(beton) as loader:
        with pytest.raises(UserError, match="^place = "):
            loader.dataset[wrong]
        with pytest.raises(IndexError, match="samples 0 to 19, and no 20"):
            loader.dataset[20]


# -- random access


def test_any_samples_are_those_that_an_epoch_hands_out(beton: Path) -> None:
    with opened(beton) as loader:
        loader.set_epoch(5)
        for batch in loader:
            again = loader.get(batch.indices, epoch=5)
            assert all(
                torch.equal(*pair)
                for pair in zip((*again, again.indices), (*batch, batch.indices), strict=True)
            )
        assert not torch.equal(loader.get([2], epoch=4).images, loader.get([2], epoch=5).images)
        assert torch.equal(loader[2][0], loader.get([2]).images[0]) and int(loader[2][1]) == LABELS[2]


def test_copies_are_those_of_the_same_number_in_an_epoch(beton: Path) -> None:
    with opened(beton, indices=[7, 7, 7], shuffle=False, drop_last=False) as loader:
        (batch,) = loader
        assert torch.equal(loader.get([7, 7, 7]).images, batch.images)
        assert len({image.numpy().tobytes() for image in batch.images}) == 3


def test_samples_got_while_an_epoch_runs_disturb_nothing(beton: Path) -> None:
    with opened(beton) as loader, opened(beton) as other:
        for batch, expected in zip(loader, other, strict=True):
            kept = loader.get([1, 2, 3]).images
            assert torch.equal(batch.images, expected.images) and torch.equal(
                kept, loader.get([1, 2, 3]).images
            )
        loader.size = 40
        assert loader[0][0].shape == (3, 40, 40)


def test_a_broken_sample_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(60, 50)), Entry(b"no image", 60, 50)])
    with (
        opened(path, 1, on_error="skip") as loader,
        pytest.raises(BrokenSample, match="sample 1 of .* cannot be decoded"),
    ):
        loader.get([0, 1])


@pytest.mark.parametrize("wrong", [[], [20], [-1], ["0"], [[0]], 0.5, np.array([True])])
def test_places_that_are_none_are_refused(beton: Path, wrong: Any) -> None:
    with opened(beton) as loader:
        with pytest.raises(UserError, match="^indices "):
            loader.get(wrong)
        with pytest.raises(UserError, match="^epoch = -1"):
            loader.get([0], epoch=-1)
        with pytest.raises(UserError, match="^index = 20 is out of range"):
            loader[20]


# -- samplers and attributes


def test_samplers_have_the_places_of_the_next_epoch(beton: Path) -> None:
    with opened(beton, rank=1, world_size=2, drop_last=False, indices=range(COUNT - 1, 0, -1)) as loader:
        loader.sampler.set_epoch(2)
        loader.set_epoch(2, 1)
        batches = list(loader.batch_sampler)
        places = list(loader.sampler)
        handed_out = [batch.indices.tolist() for batch in loader]
    assert [[COUNT - 1 - place for place in batch] for batch in batches] == handed_out
    assert places == [place for batch in batches for place in batch]
    assert (len(loader.sampler), len(loader.batch_sampler)) == (9, 3)


def test_it_has_the_attributes_of_a_dataloader(beton: Path) -> None:
    with opened(beton) as loader:
        assert (loader.num_workers, loader.pin_memory, loader.drop_last, loader.batch_size) == (
            0,
            False,
            True,
            4,
        )
        assert not isinstance(loader.sampler, BatchSampler)
    with opened(beton, train=False) as loader:
        assert loader.drop_last is False


# -- inside torch's DataLoader


def equal(batches: Any, expected: Any) -> bool:
    return all(
        torch.equal(images, pixels) and torch.equal(labels, numbers)
        for (images, labels), (pixels, numbers) in zip(batches, expected, strict=True)
    )


def test_a_dataloader_over_a_loader_hands_out_its_batches(beton: Path) -> None:
    with opened(beton) as loader, opened(beton) as other:
        wrapped: Any = DataLoader(loader, batch_size=None)  # type: ignore[arg-type]
        assert len(wrapped) == 5 and equal(list(wrapped), list(other))


def test_a_dataloader_over_its_dataset_and_batch_sampler_hands_out_its_batches(beton: Path) -> None:
    with opened(beton) as loader, opened(beton) as other:
        wrapped: Any = DataLoader(
            loader.dataset,  # type: ignore[arg-type]
            batch_sampler=loader.batch_sampler,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
        )
        for _ in range(2):
            assert equal(list(wrapped), list(other))
        assert loader.epoch == 2 and loader.wait_s > 0  # decoded ahead, not one by one
        assert all(batch.indices.tolist() for batch in wrapped)


def test_a_dataloader_over_its_dataset_makes_batches_of_its_own(beton: Path) -> None:
    with opened(beton, train=False) as loader:
        expected = [(batch.images.clone(), batch.labels.clone()) for batch in loader]
        for collate_fn in (None, loader.collate_fn):
            wrapped: Any = DataLoader(loader.dataset, batch_size=4, collate_fn=collate_fn)  # type: ignore[arg-type]
            assert equal(list(wrapped), expected)
        wrapped = DataLoader(loader.dataset, batch_sampler=loader.batch_sampler)  # type: ignore[arg-type]
        assert equal(list(wrapped), expected)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("what", ["loader", "dataset"])
def test_worker_processes_are_told_what_to_do_instead(
    beton: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_utils.signal_handling, "_SIGCHLD_handler_set", True)  # it would stay
    with opened(beton) as loader:
        wrapped: Any = DataLoader(
            loader if what == "loader" else loader.dataset, batch_size=None, num_workers=1
        )  # type: ignore[arg-type]
        with pytest.raises(
            UserError, match="iterate over the Loader itself, or give the DataLoader num_workers=0"
        ):
            list(wrapped)


# -- images as a network takes them


def test_images_are_normalized_as_torchvision_does_it(beton: Path) -> None:
    with opened(beton) as loader:
        plain = [batch.images.clone() for batch in loader]
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ImageNet)
    for dtype, tolerance in ((None, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)):
        with opened(beton, normalize=ImageNet, dtype=dtype) as loader:
            for batch, images in zip(loader, plain, strict=True):
                expected = (images.float() / 255 - mean) / std
                assert batch.images.dtype is (dtype or torch.float32) and batch.images.is_contiguous()
                assert torch.allclose(batch.images.float(), expected, atol=tolerance, rtol=tolerance)
                assert len(batch.indices) == 4
            assert loader[0][0].dtype is (dtype or torch.float32)
    with opened(beton, dtype=torch.float32) as loader:
        assert torch.allclose(next(iter(loader)).images, plain[0] / 255)


def test_images_come_in_the_memory_format_that_is_asked_for(beton: Path) -> None:
    with opened(beton) as loader:
        expected = [batch.images.clone() for batch in loader]
    with opened(beton, memory_format=torch.channels_last) as loader:
        for batch, images in zip(loader, expected, strict=True):
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.images.dtype is torch.uint8 and torch.equal(batch.images, images)
        with pickle.loads(pickle.dumps(loader)) as other:
            assert next(iter(other)).images.is_contiguous(memory_format=torch.channels_last)


def test_bytes_cannot_be_normalized(beton: Path) -> None:
    with pytest.raises(UserError, match="dtype = torch.uint8 cannot hold normalized images"):
        opened(beton, normalize=ImageNet, dtype=torch.uint8)
