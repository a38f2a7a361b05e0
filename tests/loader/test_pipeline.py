"""What is set between two epochs of a Loader: batch size, size of images, samples."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast import UserError
from handed_out import Samples, labels_and_pixels
from loader.conftest import FIFTY, opened

COUNT = FIFTY


@pytest.fixture
def beton(fifty: Path) -> Path:
    return fifty


def shapes(batches: Iterator[Any]) -> list[tuple[int, ...]]:
    return [tuple(batch.images.shape) for batch in batches]


def test_size_and_batch_size_are_set_for_the_next_epoch(beton: Path, epochs: list[Samples]) -> None:
    with opened(beton, size=16, drop_last=False) as loader:
        batches = iter(loader)
        first = next(batches)
        loader.size, loader.batch_size = 24, 30
        assert (loader.size, loader.batch_size, loader.options.size, len(loader)) == (24, 30, 24, 2)
        rest = shapes(batches)
        assert first.images.shape == (8, 3, 16, 16) and rest == [(8, 3, 16, 16)] * 5 + [(2, 3, 16, 16)]
        assert labels_and_pixels(iter(loader)) == epochs[1] and loader.decode_paths.own >= 100
        loader.size = 16
        assert shapes(iter(loader)) == [(30, 3, 16, 16), (20, 3, 16, 16)]


def test_the_samples_are_set_for_the_next_epoch(beton: Path) -> None:
    with opened(beton, shuffle=False) as loader:
        batches = iter(loader)
        next(batches)
        loader.indices = [7, 7, 9, 3, 2, 1, 0, 8, 5]
        assert [label for label, _ in labels_and_pixels(batches)] == list(range(8, 48))
        assert loader.state_dict()["of"] == COUNT  # of the epoch that was handed out
        assert [label for label, _ in labels_and_pixels(iter(loader))] == [7, 7, 9, 3, 2, 1, 0, 8]
        assert (loader.num_samples, len(loader.dataset), loader.state_dict()["of"]) == (9, 9, 9)
        with pytest.raises(UserError, match="indices holds 50"):
            loader.indices = [50]
        loader.indices = None
        assert loader.num_samples == COUNT and loader.indices is None
        next(iter(loader))
        loader.load_state_dict(loader.state_dict())
        loader.indices = range(16)  # the eight that were handed out were others
        assert len(labels_and_pixels(iter(loader))) == 16


def test_what_is_set_is_checked_and_pickled(beton: Path) -> None:
    with opened(beton) as loader:
        for name, wrong in {"size": 0, "batch_size": "8", "indices": []}.items():
            with pytest.raises(UserError, match=f"^{name} "):
                setattr(loader, name, wrong)
        loader.batch_size = 100
        with pytest.raises(UserError, match="has 50 samples, fewer than one batch of 100"):
            iter(loader)
        loader.batch_size, loader.size, loader.indices = 4, 40, [1, 2, 3, 4]
        with pickle.loads(pickle.dumps(loader)) as other:
            assert shapes(iter(other)) == [(4, 3, 40, 40)]


def test_a_change_leaves_no_threads_behind(beton: Path) -> None:
    import threading

    with opened(beton) as loader:
        for size in (16, 20, 24):
            loader.size = size
            next(iter(loader))
        assert sum(thread.name.startswith("decode-") for thread in threading.enumerate()) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode-", "planner"))]
