"""Promise 3: an evaluation over any number of ranks counts exactly N samples; a training epoch is a permutation, except for the reported drop."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast import Loader
from betons import Entry, picture, write


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("once") / "a.beton", [Entry.raw(picture(20, 16))] * 103)


def counted(path: Path, batch_size: int, world_size: int, train: bool) -> tuple[list[int], int, set[int]]:
    """The labels of an epoch over all ranks, the number of samples that loaders report as dropped, and the ranks' numbers of batches."""
    labels: list[int] = []
    dropped, lengths = 0, set()
    for rank in range(world_size):
        with Loader(path, batch_size, train=train, size=8, rank=rank, world_size=world_size) as loader:
            batches = [batch.labels.tolist() for batch in loader]
            assert len(batches) == len(loader)
            labels += [label for batch in batches for label in batch]
            dropped = loader.dropped
            lengths.add(len(loader))
    return labels, dropped, lengths


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 10, 103, 200])
def test_an_evaluation_counts_every_sample_once_over_all_ranks(
    path: Path, batch_size: int, world_size: int
) -> None:
    labels, dropped, _ = counted(path, batch_size, world_size, train=False)
    assert sorted(labels) == list(range(103)) and dropped == 0


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_a_training_epoch_is_a_permutation_except_for_the_reported_drop(path: Path, world_size: int) -> None:
    labels, dropped, lengths = counted(path, 5, world_size, train=True)
    assert len(set(labels)) == len(labels) == 103 - dropped
    assert dropped == 103 % (5 * world_size)
    assert len(lengths) == 1, "every rank has the same number of steps"
