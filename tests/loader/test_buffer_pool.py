"""Who owns a buffer: its memory is used again when nothing refers to it any more, and not before."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_map

from alexnet_fast import Loader
from alexnet_fast.loader.buffer_pool import Batch, BufferPool
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import picture, write


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [encode_jpeg(picture(80, 60, k % 10), Encoding()) for k in range(40)]
    return write(tmp_path_factory.mktemp("pool") / "a.beton", entries)


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(4, 32, max_free=2, pin_memory=False)


def addresses(loader: Loader, epochs: int) -> set[int]:
    return {batch.images.data_ptr() for _ in range(epochs) for batch in loader}


def test_a_buffer_comes_back_when_the_batch_is_gone(pool: BufferPool) -> None:
    buffer = pool.take()
    batch = pool.lend(buffer, 4)
    assert pool.take() is not buffer
    del batch
    assert pool.take() is buffer


KEPT: dict[str, Callable[[Batch], Any]] = {
    "the batch": lambda batch: batch,
    "the images": lambda batch: batch.images,
    "the labels": lambda batch: batch.labels,
    "the indices": lambda batch: batch.indices,
    "one image": lambda batch: batch.images[2],
    "one row's view": lambda batch: batch.images[1:3, 0, 5].view(2, 4, 8),
    "a numpy array": lambda batch: batch.images.numpy(),
    "a slice of a numpy array": lambda batch: batch.images.numpy()[3, :, ::2],
    "a tensor over a numpy array": lambda batch: torch.from_numpy(batch.images.numpy()[1:]),
    "a memoryview": lambda batch: memoryview(batch.labels.numpy()),
    "its storage": lambda batch: batch.images.untyped_storage(),
    "a detached alias": lambda batch: batch.images.detach(),
    "a dlpack capsule": lambda batch: torch.utils.dlpack.to_dlpack(batch.images),
}


@pytest.mark.parametrize("what", KEPT)
def test_whatever_refers_to_its_memory_keeps_a_buffer(pool: BufferPool, what: str) -> None:
    buffer = pool.take()
    kept = KEPT[what](pool.lend(buffer, 4))
    gc.collect()
    assert pool.take() is not buffer
    del kept
    gc.collect()
    assert buffer in (pool.take(), pool.take())


def test_a_short_batch_is_a_view_of_its_buffer(pool: BufferPool) -> None:
    buffer = pool.take()
    buffer.images[:], buffer.labels[:], buffer.indices[:] = 7, 9, 11
    batch = pool.lend(buffer, 3)
    assert batch.images.shape == (3, 3, 32, 32) and batch.labels.tolist() == [9, 9, 9]
    assert batch.indices.tolist() == [11, 11, 11] and batch.indices.dtype == torch.int64
    assert (batch.images == 7).all() and batch.images.data_ptr() == buffer.images.ctypes.data


def test_a_batch_is_a_pair_with_its_indices_beside_it(pool: BufferPool) -> None:
    buffer = pool.take()
    buffer.images[:], buffer.labels[:], buffer.indices[:] = 7, 9, [3, 1, 4, 1]
    batch = pool.lend(buffer, 4)
    images, labels = batch
    assert len(batch) == 2 and images is batch.images and labels is batch.labels
    for again in (pickle.loads(pickle.dumps(batch)), copy.copy(batch), copy.deepcopy(batch)):
        assert type(again) is Batch and torch.equal(again.images, images)
        assert again.labels.tolist() == [9] * 4 and again.indices.tolist() == [3, 1, 4, 1]


def test_a_batch_that_a_library_makes_of_a_pair_has_no_indices_rather_than_wrong_ones(
    pool: BufferPool,
) -> None:
    batch = pool.lend(pool.take(), 4)
    moved = type(batch)(
        *(each.clone() for each in batch)
    )  # torch, Lightning and accelerate move a named tuple so
    for pair in (
        moved,
        batch._replace(images=batch.images[:2], labels=batch.labels[:2]),
        tree_map(torch.clone, batch),
    ):
        assert isinstance(pair, Batch) and torch.equal(pair.labels, batch.labels[: len(pair.labels)])
        with pytest.raises(AttributeError, match="take those of the Loader's own batch"):
            _ = pair.indices


def test_no_more_free_buffers_are_kept_than_asked(pool: BufferPool) -> None:
    batches = [pool.lend(pool.take(), 4) for _ in range(6)]
    kept = {batch.images.data_ptr() for batch in batches}
    del batches
    again = [pool.take() for _ in range(2)]
    assert {buffer.images.ctypes.data for buffer in again} <= kept
    assert len(pool._free) == 0


def test_memory_is_used_again_when_batches_are_let_go(beton: Path) -> None:
    with Loader(beton, 4, train=True, size=64, batches_ahead=2) as loader:
        assert len(addresses(loader, 10)) <= 5


def test_batches_that_are_held_keep_their_pixels_while_epochs_pass(beton: Path) -> None:
    with Loader(beton, 4, train=True, size=64, threads=2) as loader:
        held = [(batch, batch.images.clone(), batch.labels.clone()) for batch in loader]
        for _ in range(5):
            for _ in loader:
                pass
        assert len({batch.images.data_ptr() for batch, _, _ in held}) == 10
        for batch, images, labels in held:
            assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)


def test_pieces_of_batches_keep_their_pixels_while_epochs_pass(beton: Path) -> None:
    with Loader(beton, 4, train=True, size=64, threads=2) as loader:
        pieces = [(array := batch.images.numpy()[k % 4, 1], array.copy()) for k, batch in enumerate(loader)]
        labels = [(batch.labels[1:], batch.labels[1:].clone()) for batch in loader]
        for _ in range(5):
            for _ in loader:
                pass
    assert all(np.array_equal(piece, copy) for piece, copy in pieces)
    assert all(torch.equal(piece, copy) for piece, copy in labels)


def test_a_batch_outlives_its_loader(beton: Path) -> None:
    loader = Loader(beton, 4, train=True, size=64)
    batch = next(iter(loader))
    copy = batch.images.clone()
    loader.close()
    del loader
    gc.collect()
    assert torch.equal(batch.images, copy)


def test_writing_into_a_batch_changes_no_later_one(beton: Path) -> None:
    with Loader(beton, 4, train=True, size=64) as clean, Loader(beton, 4, train=True, size=64) as scribbled:
        for expected, found in zip(
            (b for _ in range(3) for b in clean), (b for _ in range(3) for b in scribbled)
        ):
            assert torch.equal(expected.images, found.images) and torch.equal(expected.labels, found.labels)
            found.images.fill_(0)
            found.labels.fill_(-1)


def test_batches_may_be_let_go_in_another_thread(beton: Path) -> None:
    with Loader(beton, 4, train=True, size=64) as loader:
        expected = {tuple(batch.labels.tolist()): batch.images.clone() for batch in loader}
        held: list[Batch] = []
        stop, right = threading.Event(), []

        def drop() -> None:
            while not stop.is_set() or held:
                if held:
                    batch = held.pop()
                    right.append(torch.equal(batch.images, expected[tuple(batch.labels.tolist())]))
                    del batch

        dropper = threading.Thread(target=drop)
        dropper.start()
        try:
            for _ in range(5):
                loader.set_epoch(0)
                held.extend(loader)
        finally:
            stop.set()
            dropper.join()
        assert len(right) == 5 * len(expected) and all(right)


def test_a_plan_that_is_dropped_half_way_writes_into_no_batch_of_the_next(beton: Path) -> None:
    with Loader(beton, 10, train=True, size=64, threads=3) as loader:
        loader.set_epoch(7)
        expected = [(batch.images.clone(), batch.labels.clone()) for batch in loader]
        for epoch in range(30):
            loader.set_epoch(epoch, epoch % 4)
            next(iter(loader))
            loader.set_epoch(7)
            held = list(loader)
            assert all(torch.equal(batch.images, images) for batch, (images, _) in zip(held, expected))
