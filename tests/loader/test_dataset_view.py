"""What code that knows torch's DataLoader finds at a Loader: its dataset and its samplers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Subset, _utils

from alexnet_fast import Loader, UserError
from alexnet_fast.beton.errors import FieldError
from alexnet_fast.pack import main as pack
from betons import jpeg, picture, write
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
