"""Whose turn it is, and which rank's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_fast.decode.counter_rng import occurrences
from alexnet_fast.loader.sampler import DistributedBatchSampler, epoch_permutation


@given(count=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(epoch_permutation(count, seed, epoch)), np.arange(count))


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {
        (seed, epoch): tuple(epoch_permutation(100, seed, epoch)) for seed in range(10) for epoch in range(10)
    }
    assert len(set(orders.values())) == 100
    assert tuple(epoch_permutation(100, 3, 4)) == orders[3, 4]


def test_the_order_of_seed_0_stays_what_it_is() -> None:
    """Changing it changes every training run and breaks exact resumes: a change of major version, said in the changelog."""
    assert epoch_permutation(10, 0, 0).tolist() == [6, 5, 0, 2, 8, 9, 4, 7, 1, 3]
    assert epoch_permutation(10, 0, 1).tolist() == [5, 7, 0, 6, 8, 3, 4, 2, 9, 1]
    assert epoch_permutation(10, 1, 0).tolist() == [0, 5, 3, 7, 4, 2, 9, 8, 1, 6]


@given(indices=st.lists(st.integers(0, 9), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_copies_of_a_sample_are_counted_from_the_front_of_the_list(indices: list[int]) -> None:
    expected = [indices[:place].count(index) for place, index in enumerate(indices)]
    for dtype in (np.int64, np.uint64):  # FFCV's are unsigned
        assert occurrences(np.array(indices, dtype)).tolist() == expected


def test_every_sample_comes_equally_often_at_every_place() -> None:
    counts = np.zeros((16, 16))
    for epoch in range(1600):
        counts[np.arange(16), epoch_permutation(16, 7, epoch)] += 1
    chi_squared = ((counts - 100) ** 2 / 100).sum()
    assert chi_squared < 296  # 225 degrees of freedom, one in a thousand


def taken(
    count: int, batch_size: int, world_size: int, drop_last: bool
) -> tuple[list[int], list[DistributedBatchSampler]]:
    """All positions that all ranks take, step by step, and the ranks' shares."""
    shares = [
        DistributedBatchSampler(count, batch_size, rank, world_size, drop_last) for rank in range(world_size)
    ]
    return [
        at for share in shares for step in range(share.steps) for at in range(*share.positions(step))
    ], shares


shapes = {"count": st.integers(1, 700), "batch_size": st.integers(1, 40), "world_size": st.integers(1, 9)}


@given(**shapes)
@settings(max_examples=400, deadline=None)
def test_ranks_take_every_sample_exactly_once(count: int, batch_size: int, world_size: int) -> None:
    positions, shares = taken(count, batch_size, world_size, drop_last=False)
    assert sorted(positions) == list(range(count))
    assert all(share.dropped == 0 for share in shares)


@given(**shapes)
@settings(max_examples=400, deadline=None)
def test_without_the_rest_ranks_have_equal_full_batches_and_say_what_is_dropped(
    count: int, batch_size: int, world_size: int
) -> None:
    positions, shares = taken(count, batch_size, world_size, drop_last=True)
    assert len({share.steps for share in shares}) == 1
    assert all(
        end - begin == batch_size
        for share in shares
        for step in range(share.steps)
        for begin, end in [share.positions(step)]
    )
    assert sorted(positions) == list(range(count - shares[0].dropped))
    assert shares[0].dropped < batch_size * world_size


@given(**shapes)
@settings(max_examples=400, deadline=None)
def test_the_rest_is_dealt_out_evenly_and_no_batch_is_empty(
    count: int, batch_size: int, world_size: int
) -> None:
    _, shares = taken(count, batch_size, world_size, drop_last=False)
    sizes = [[end - begin for begin, end in map(share.positions, range(share.steps))] for share in shares]
    assert all(1 <= size <= batch_size for of_rank in sizes for size in of_rank)
    assert all(size == batch_size for of_rank in sizes for size in of_rank[:-1])
    totals = [sum(of_rank) for of_rank in sizes]
    assert max(totals) - min(totals) <= 1


def test_ranks_split_each_global_batch_so_that_their_number_does_not_change_it() -> None:
    """Step s of 4 ranks of 8 trains on the same samples as step s of 2 ranks of 16 and of 1 rank of 32."""
    for step in range(3):
        global_batches = set()
        for world_size in (1, 2, 4):
            shares = [
                DistributedBatchSampler(100, 32 // world_size, rank, world_size, True)
                for rank in range(world_size)
            ]
            global_batches.add(tuple(at for share in shares for at in range(*share.positions(step))))
        assert len(global_batches) == 1


@pytest.mark.parametrize(
    ("count", "steps"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (13, [2, 1, 1]), (12, [1, 1, 1])]
)
def test_a_rank_without_a_share_of_the_last_step_has_one_step_less(count: int, steps: list[int]) -> None:
    assert [DistributedBatchSampler(count, 4, rank, 3, False).steps for rank in range(3)] == steps
