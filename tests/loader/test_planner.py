"""The planner: what is read ahead and how far, what it does while others decode, and that nothing depends on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Beton, Loader
from alexnet_fast.decode.crop import CropOptions
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.loader import orders, planner
from alexnet_fast.loader.planner import BatchPlan, Key, Planner
from alexnet_fast.loader.sampler import DistributedBatchSampler, epoch_permutation
from alexnet_fast.loader.watchdog import Watchdog
from betons import jpeg, loaded, picture, write

COUNT, BATCH = 80, 4
STEPS = COUNT // BATCH
WAIT_S = 20.0
CROPS = CropOptions(False, 32, 32, np.uint64(0), (1.0, 1.0), (1.0, 1.0), 0.0)


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    """80 samples with as many bytes each, in 20 batches of 4."""
    return Beton(write(tmp_path_factory.mktemp("planner") / "a.beton", [jpeg(picture(64, 48))] * COUNT))


@pytest.fixture
def batch_bytes(beton: Beton) -> int:
    return BATCH * int(beton.sizes[0])


class Recorder:
    """Stands in for the kernel call: the indices of the samples that were asked for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        monkeypatch.setattr(planner, "advise_willneed", self)

    def __call__(self, file: np.ndarray, samples: np.ndarray, page: int, advice: int) -> None:
        self.asked += samples["index"].tolist()


class Planning:
    """A planner of a beton, and a wait until it has planned as many batches ahead as it will."""

    def __init__(self, beton: Beton, max_bytes: int, shuffle: bool = False) -> None:
        sampler = DistributedBatchSampler(COUNT, BATCH, 0, 1, drop_last=True)
        self.planned: SimpleQueue[None] = SimpleQueue()
        samples, watchdog = sample_table(beton), Watchdog(WAIT_S)
        order = orders.Shuffled(COUNT, 0) if shuffle else orders.InOrder(COUNT)
        self.planner = Planner(beton, samples, order, sampler, CROPS, max_bytes, watchdog)
        self.planner.start(lambda: self.planned.put(None))

    def settle(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while not self.planner._stats.doing.startswith("waiting: enough") or not self.planner._wake.empty():
            assert time.monotonic() < deadline, self.planner.report()
            time.sleep(0.001)

    def take(self) -> BatchPlan:
        while (plan := self.planner.take()) is None:
            self.planned.get(timeout=WAIT_S)
        return plan


@pytest.fixture
def planning(beton: Beton) -> Iterator[Any]:
    """Makes planners, and closes them."""
    made: list[Planning] = []

    def make(*arguments: Any, **options: Any) -> Planning:
        made.append(Planning(beton, *arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.planner.close()


# -- how far


@pytest.mark.parametrize("batches", [1, 3, 3.5, 10, 1000])
def test_the_plan_is_read_ahead_up_to_the_bound_and_again_when_half_of_it_is_taken(
    batches: float, planning: Any, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    ours = planning(int(batches * batch_bytes))
    ours.planner.seek((0, 0))
    for step in range(2 * STEPS):
        plan = ours.take()
        assert plan.key == (step // STEPS, step % STEPS)
        assert plan.samples["index"].tolist() == list(
            range(step % STEPS * BATCH, step % STEPS * BATCH + BATCH)
        )
        ours.settle()
        ahead = len(recorder.asked) / BATCH - (step + 1)
        assert (batches - 1) / 2 <= ahead <= int(batches)
    assert recorder.asked[: 2 * COUNT] == [*range(COUNT), *range(COUNT)]


def test_none_asks_for_nothing_and_plans_one_batch_ahead(
    planning: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    ours = planning(0)
    ours.planner.seek((0, 0))
    for step in range(STEPS):
        ours.settle()
        assert len(ours.planner._sequence.plans) == 1
        assert ours.take().key == (0, step)
    assert recorder.asked == []


def test_after_a_long_rest_it_asks_again(
    planning: Any, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    ours = planning(2 * batch_bytes)
    ours.planner.seek((0, 0))
    ours.settle()
    monkeypatch.setattr(planner, "PAUSE_S", -1.0)
    ours.take()
    ours.settle()
    assert [index // BATCH for index in recorder.asked[::BATCH]] == [0, 1, 1, 2]


def test_no_further_than_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48, seed)) for seed in range(12)])
    with Loader(path, 4, train=True, size=32, batches_ahead=1) as loader:
        next(iter(loader))
        deadline = time.monotonic() + WAIT_S
        while not loader._pipeline.planner._stats.doing.startswith("waiting: enough"):
            assert time.monotonic() < deadline, loader._pipeline.planner.report()
            time.sleep(0.001)
        assert 12 <= len(recorder.asked) <= 12 + 3 * 4  # an epoch beyond the batches that were handed out


# -- what it does while others decode


def test_a_request_that_blocks_holds_up_no_batch_that_is_planned_already(
    planning: Any, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk's queue is full: madvise returns when there is room in it, be it in minutes."""
    room_in_the_queue, blocked = threading.Event(), threading.Event()

    def advise(file: np.ndarray, samples: np.ndarray, page: int, advice: int) -> None:
        if samples["index"][0] >= 5 * BATCH:
            blocked.set()
            assert room_in_the_queue.wait(WAIT_S)

    monkeypatch.setattr(planner, "advise_willneed", advise)
    ours = planning(8 * batch_bytes)
    ours.planner.seek((0, 0))
    assert blocked.wait(WAIT_S)
    assert [ours.planner.take().key for _ in range(5)] == [(0, step) for step in range(5)]
    assert ours.planner.take() is None, "the sixth is not planned before it was asked for"
    room_in_the_queue.set()
    assert ours.take().key == (0, 5)


def test_a_loader_hands_out_what_is_planned_while_a_request_blocks(
    beton: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_in_the_queue = threading.Event()

    def advise(file: np.ndarray, samples: np.ndarray, page: int, advice: int) -> None:
        assert samples["index"][0] < 5 * BATCH or room_in_the_queue.wait(WAIT_S)

    monkeypatch.setattr(planner, "advise_willneed", advise)
    with Loader(beton.path, BATCH, train=False, size=32, threads=2) as loader:
        batches = iter(loader)
        held = [next(batches) for _ in range(5)]
        assert not room_in_the_queue.is_set()
        room_in_the_queue.set()
        held.extend(batches)
    assert len(held) == STEPS


def test_the_next_epochs_order_is_sorted_while_this_epoch_is_planned(
    planning: Any, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.15 s at 1.28 million samples: more than a fast host takes for all that is read ahead."""
    sorting, planned = threading.Event(), threading.Event()

    def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
        if epoch == 1:
            sorting.set()
            assert planned.wait(WAIT_S)
        return epoch_permutation(count, seed, epoch)

    monkeypatch.setattr(orders, "epoch_permutation", permutation)
    ours = planning(2 * batch_bytes, shuffle=True)
    ours.planner.seek((0, 0))
    assert sorting.wait(WAIT_S), "it starts with this epoch, of which no more than two batches can be planned"
    first = [ours.take() for _ in range(STEPS)]
    assert ours.planner.take() is None
    planned.set()
    second = [ours.take() for _ in range(STEPS)]
    for epoch, plans in enumerate((first, second)):
        assert [plan.key for plan in plans] == [(epoch, step) for step in range(STEPS)]
        order = np.concatenate([plan.samples["index"] for plan in plans])
        assert np.array_equal(order, epoch_permutation(COUNT, 0, epoch))


def test_a_seek_drops_what_was_planned(planning: Any, beton: Beton, batch_bytes: int) -> None:
    ours = planning(4 * batch_bytes, shuffle=True)
    keys: tuple[Key, ...] = ((0, 0), (7, 3), (7, 3), (1, STEPS - 1), (3, STEPS))
    for key in keys:
        ours.planner.seek(key)
        for k in range(STEPS + 1):
            epoch, step = divmod(key[0] * STEPS + key[1] + k, STEPS)
            plan = ours.take()
            assert plan.key == (epoch, step)
            expected = epoch_permutation(COUNT, 0, epoch)[step * BATCH : (step + 1) * BATCH]
            assert np.array_equal(plan.samples["index"], expected)
            assert np.array_equal(plan.labels, beton.labels[expected])


# -- its end, and that nothing depends on it


def test_it_ends_while_it_waits_for_room_and_takes_its_sorting_thread_along(
    planning: Any, batch_bytes: int
) -> None:
    ours = planning(batch_bytes, shuffle=True)
    ours.planner.seek((0, 0))
    ours.settle()
    ours.planner.close()
    ours.planner.close()
    assert not ours.planner._thread.is_alive() and not ours.planner._next_order.is_alive()


def test_a_dropped_loader_ends_its_thread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 8)
    loader = Loader(path, 4, train=True, size=32)
    thread = loader._pipeline.planner._thread
    next(iter(loader))
    del loader
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize(("module", "what"), [(planner, "advise_willneed"), (orders, "epoch_permutation")])
def test_what_fails_in_it_reaches_the_consumer_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, what: str
) -> None:
    works, calls = getattr(module, what), iter(range(1000))

    def broken(*arguments: Any) -> Any:
        if next(calls) >= 1:
            raise MemoryError("no room for an order")
        return works(*arguments)

    monkeypatch.setattr(module, what, broken)
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48, seed)) for seed in range(12)])
    with (
        Loader(path, 4, train=True, size=32) as loader,
        pytest.raises(RuntimeError, match="no room for an order") as caught,
    ):
        for _ in range(10):
            list(loader)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_the_pixels_and_the_order_are_the_same_without_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(80, 60, seed)) for seed in range(20)])
    for epoch in (0, 3):
        with_it = loaded(path, 4, train=True, size=32, epoch=epoch)
        without = loaded(path, 4, train=True, size=32, epoch=epoch, read_ahead_bytes=0)
        assert list(with_it) == list(without)
        assert all(np.array_equal(with_it[label], without[label]) for label in without)
