"""Samples by their places in the file: what an epoch hands out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import Loader, UserError
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.decode.status import BrokenSample
from betons import Entry, jpeg, picture, write

COUNT = 20
LABELS = [k % 3 for k in range(COUNT)]


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [jpeg(picture(60 + k, 50, k)) for k in range(COUNT)]
    return write(tmp_path_factory.mktemp("access") / "a.beton", entries, LABELS)


def opened(beton: Path, batch_size: int = 4, **options: Any) -> Loader:
    return Loader(beton, batch_size, **{"train": True, "size": 24, "seed": 3, "threads": 1, **options})


@pytest.mark.parametrize("options", [{}, {"augmentations": [Solarize(100, p=0.5)]}, {"train": False}])
def test_any_samples_are_those_that_an_epoch_hands_out(beton: Path, options: dict[str, Any]) -> None:
    with opened(beton, **options) as loader:
        loader.set_epoch(5)
        for batch in loader:
            again = loader.get(batch.indices, epoch=5)
            assert all(
                torch.equal(*pair)
                for pair in zip((*again, again.indices), (*batch, batch.indices), strict=True)
            )
        others = torch.equal(loader.get([2], epoch=4).images, loader.get([2], epoch=5).images)
        assert others is ("train" in options)
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
