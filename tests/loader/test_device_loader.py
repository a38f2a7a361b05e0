"""A Loader's batches on a device, on a CPU; what is copied ahead to an accelerator: tests/accelerator_cases.py."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from alexnet_fast import ImageNet, Loader, UserError
from betons import jpeg, picture, write

COUNT = 20


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(
        tmp_path_factory.mktemp("device") / "a.beton", [jpeg(picture(60, 50, k)) for k in range(COUNT)]
    )


def opened(beton: Path, **options: Any) -> Loader:
    return Loader(beton, 4, **{"train": True, "size": 24, "seed": 3, "threads": 1, **options})


def test_a_script_that_prefetches_sees_the_loaders_batches(beton: Path) -> None:
    with opened(beton) as plain, opened(beton).prefetch_to("cpu") as loader:
        for _ in range(2):
            for batch, expected in zip(loader, plain, strict=True):
                images, labels = batch
                assert images.dtype is torch.uint8 and images.is_contiguous(memory_format=torch.channels_last)
                assert torch.equal(images, expected.images) and torch.equal(labels, expected.labels)
                assert torch.equal(batch.indices, expected.indices)


def test_images_are_normalized_there(beton: Path) -> None:
    options: dict[str, Any] = {
        "normalize": ImageNet,
        "dtype": torch.bfloat16,
        "memory_format": torch.contiguous_format,
    }
    with (
        opened(beton, **options) as plain,
        opened(beton, **options).prefetch_to(torch.device("cpu")) as loader,
    ):
        for batch, expected in zip(loader, plain, strict=True):
            assert batch.images.dtype is torch.bfloat16 and batch.images.is_contiguous()
            assert torch.equal(batch.images, expected.images)


def test_all_else_is_the_loaders(beton: Path) -> None:
    with opened(beton) as plain:
        loader = plain.prefetch_to("cpu")
        assert (len(loader), loader.batch_size, len(loader.dataset), loader.device.type) == (
            5,
            4,
            COUNT,
            "cpu",
        )
        assert torch.equal(loader[3][0], plain[3][0])
        loader.set_epoch(4)
        assert plain.epoch == loader.epoch == 4
        loader.size = 32
        assert plain.size == 32 and next(iter(loader)).images.shape == (4, 3, 32, 32)
        with pytest.raises(AttributeError, match="there is no such attribute; did you mean size"):
            loader.sise = 32
        with pytest.raises(AttributeError, match="sise"):
            _ = loader.sise


def test_its_state_is_the_loaders_and_resumes(beton: Path) -> None:
    with opened(beton) as plain, opened(beton) as inner:
        loader = inner.prefetch_to("cpu")
        labels = [batch.labels.tolist() for batch in plain]
        assert [batch.labels.tolist() for _, batch in zip(range(3), loader)] == labels[:3]
        assert loader.state_dict() == inner.state_dict() and loader.state_dict()["samples"] == 12
        loader.load_state_dict(loader.state_dict())
        assert [batch.labels.tolist() for batch in loader] == labels[3:]
        assert [batch.labels.tolist() for batch in loader] == [batch.labels.tolist() for batch in plain]


def test_a_dataloader_over_its_dataset_and_batch_sampler_hands_out_its_batches(beton: Path) -> None:
    """As Accelerate makes one in order to skip batches."""
    with (
        opened(beton, normalize=ImageNet) as plain,
        opened(beton, normalize=ImageNet).prefetch_to("cpu") as loader,
    ):
        names = ("batch_sampler", "collate_fn", "num_workers", "pin_memory", "prefetch_factor")
        wrapped: Any = DataLoader(loader.dataset, **{name: getattr(loader, name) for name in names})  # type: ignore[arg-type]
        for batch, expected in zip(wrapped, plain, strict=True):
            assert torch.equal(batch.images, expected.images) and torch.equal(batch.indices, expected.indices)
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert loader.epoch == 1


def test_it_is_pickled_with_its_loader(beton: Path) -> None:
    with opened(beton, normalize=ImageNet).prefetch_to("cpu") as loader:
        next(iter(loader))
        with pickle.loads(pickle.dumps(loader)) as other:
            assert other.epoch == 1 and torch.equal(next(iter(other)).images, next(iter(loader)).images)


@pytest.mark.parametrize("wrong", ["gpu", "meta", 0, None, torch.device("meta"), "cuda:x"])
def test_a_device_that_is_none_is_refused_in_words(beton: Path, wrong: Any) -> None:
    with opened(beton) as loader:
        with pytest.raises(UserError, match="^device = ") as caught:
            loader.prefetch_to(wrong)
        assert "run.device" not in str(caught.value)


@pytest.mark.parametrize("wrong", [0, "2", 1.0])
def test_a_depth_that_is_none_is_refused(beton: Path, wrong: Any) -> None:
    with opened(beton) as loader, pytest.raises(UserError, match="^depth = "):
        loader.prefetch_to("cpu", depth=wrong)
