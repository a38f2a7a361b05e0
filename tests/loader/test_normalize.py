"""Images as a network takes them: normalized, in a dtype and a memory format."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast import ImageNet, Loader, UserError
from betons import jpeg, picture, write

COUNT = 20
LABELS = [k % 3 for k in range(COUNT)]


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [jpeg(picture(60 + k, 50, k)) for k in range(COUNT)]
    return write(tmp_path_factory.mktemp("normalize") / "a.beton", entries, LABELS)


def opened(beton: Path, batch_size: int = 4, **options: Any) -> Loader:
    return Loader(beton, batch_size, **{"train": True, "size": 24, "seed": 3, "threads": 1, **options})


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
