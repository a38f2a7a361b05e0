"""Promise 2: a batch keeps its pixels for as long as any part of it is kept."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from alexnet_fast import Loader
from alexnet_fast.augment.solarize import Solarize
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import picture, write
from standin import cases


@pytest.mark.parametrize("augmentations", [[], [Solarize(128, p=0.5)]], ids=["plain", "augmented"])
def test_a_kept_batch_or_a_piece_of_one_keeps_its_pixels(
    tmp_path: Path, augmentations: list[Solarize]
) -> None:
    path = write(tmp_path / "a.beton", [encode_jpeg(picture(80, 60, k), Encoding()) for k in range(24)])
    with Loader(path, 4, train=True, size=64, threads=2, augmentations=augmentations) as loader:
        batches = [(batch, *(each.clone() for each in (*batch, batch.indices))) for batch in loader]
        pieces = [(batch.images[1, :, 3:9], batch.images[1, :, 3:9].clone()) for batch in loader]
        arrays = [(batch.images.numpy()[2, 0], batch.images[2, 0].clone()) for batch in loader]
        for _ in range(6):
            for _ in loader:
                pass
    del loader
    gc.collect()
    assert all(
        torch.equal(batch.images, images)
        and torch.equal(batch.labels, labels)
        and torch.equal(batch.indices, indices)
        for batch, images, labels, indices in batches
    )
    assert all(torch.equal(piece, copy) for piece, copy in pieces)
    assert all(torch.equal(torch.from_numpy(array), copy) for array, copy in arrays)


def test_without_kept_batches_the_same_few_buffers_are_used_for_ever(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [encode_jpeg(picture(80, 60), Encoding())] * 24)
    with Loader(path, 4, train=True, size=64, threads=2, batches_ahead=2) as loader:
        assert len({batch.images.data_ptr() for _ in range(8) for batch in loader}) <= 5


LATE_COPIES = (
    "test_late_copies_read_the_right_batch",
    "test_the_loaders_pixels_survive_late_copies_while_its_threads_refill_the_pool",
    "test_without_any_one_of_the_three_waits_pixels_are_lost",
    "test_leaving_early_waits_for_the_copies_in_progress",
)


@pytest.mark.parametrize("case", LATE_COPIES)
def test_a_copy_that_is_late_owns_its_buffer_too(case: str) -> None:
    """On the stand-in NPU, whose copies read a buffer when their stream reaches them."""
    cases.check("accelerator_cases.py", case, LATE_COPIES)
