"""What is requested before each batch: by the planner's own calls, without a disk."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.loader.block_order import Block
from alexnet_fast.loader.orders import BlockShuffled
from alexnet_fast.loader.sampler import DistributedBatchSampler
from alexnet_fast.loader.window_reads import WindowReads

COUNT, OF_A_PAGE, SIZE = 203, 10, 100


def samples_of_a_file() -> np.ndarray:
    samples = np.zeros(COUNT, SAMPLE_DTYPE)
    samples["index"] = np.arange(COUNT)
    samples["ptr"] = np.random.default_rng(0).permutation(COUNT) * SIZE
    samples["size"] = SIZE
    return samples


SAMPLES = samples_of_a_file()


def orders(window_pages: int) -> BlockShuffled:
    return BlockShuffled(SAMPLES["ptr"], OF_A_PAGE * SIZE, Block(window_pages), 1)


@pytest.mark.parametrize("first", [0, 77])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 25])
@pytest.mark.parametrize("window_pages", [1, 4, 100])
def test_each_batch_is_requested_before_it_is_needed_and_no_sample_twice_and_two_windows_at_most(
    window_pages: int, batch_size: int, ranks: int, first: int
) -> None:
    drawn = orders(window_pages)
    for rank in range(ranks):
        before: WindowReads | None = None
        carried: list[int] = []
        for epoch in range(3):
            order = drawn.draw(epoch)
            assert order.windows is not None
            sampler = DistributedBatchSampler(
                COUNT, batch_size, rank, ranks, drop_last=True, first=0 if epoch else first
            )
            asked = 0 if before is None else before.asked_of_next
            following = drawn.draw(epoch + 1)
            assert following.windows is not None
            begin = sampler.positions(0)[0]
            reads = WindowReads(SAMPLES, order, partial(drawn.draw, epoch + 1), begin, asked)
            requested, of_next = carried, set(following.places[: following.windows[1]].tolist())
            for step in range(sampler.steps):
                begin, end = sampler.positions(step)
                found = reads.before(end)
                assert np.all(np.diff(found["ptr"]) != 0)
                requested = requested + found["index"].tolist()
                assert set(order.places[begin:end].tolist()) <= set(requested)
                window = int(np.searchsorted(order.windows, end - 1, side="right")) - 1
                if window + 2 < len(order.windows):
                    assert set(requested) <= set(order.places[: order.windows[window + 2]].tolist())
            of_this = requested[: len(requested) - reads.asked_of_next]
            assert len(set(of_this)) == len(of_this)
            carried = requested[len(of_this) :]
            assert set(carried) <= of_next
            before = reads


def test_the_next_window_is_requested_evenly_and_in_the_files_order() -> None:
    order = orders(5).draw(0)
    assert order.windows is not None
    reads = WindowReads(SAMPLES, order, lambda: order)
    parts = [reads.before(end) for end in range(5, int(order.windows[1]) + 1, 5)]
    first = int(order.windows[1])
    assert len(parts[0]) >= first and max(map(len, parts[1:])) <= 6
    following = np.concatenate([parts[0][first:], *parts[1:]])
    assert np.all(np.diff(parts[0]["ptr"][:first]) > 0) and np.all(np.diff(following["ptr"]) > 0)


def test_it_requests_both_windows_again_after_a_pause() -> None:
    order = orders(5).draw(0)
    assert order.windows is not None
    reads = WindowReads(SAMPLES, order, lambda: order)
    first = reads.before(10)
    assert np.array_equal(reads.again(), first)
    after = reads.before(20)
    assert not set(after["index"].tolist()) & set(first["index"].tolist())
