"""Read-ahead: what is asked of the kernel, how far ahead, and that nothing depends on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast import Beton, Loader
from alexnet_fast.decode.kernel import SAMPLE_DTYPE, sample_table
from alexnet_fast.loader import planner, read_ahead
from alexnet_fast.loader.read_ahead import PAGE, WILLNEED, ReadAhead, advise_willneed
from bench import cold_cache
from bench.large_files import write_repeated
from betons import jpeg, loaded, picture, write

P = int(PAGE)


def samples_of(*spans: tuple[int, int]) -> np.ndarray:
    """Samples of these (ptr, size)."""
    samples = np.zeros(len(spans), SAMPLE_DTYPE)
    for index, (sample, (ptr, size)) in enumerate(zip(samples, spans)):
        sample["ptr"], sample["size"], sample["index"] = ptr, size, index
    return samples


class Recorder:
    """Stands in for the kernel call: the indices of the samples that were asked for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        monkeypatch.setattr(read_ahead, "advise_willneed", self)

    def __call__(self, file: np.ndarray, samples: np.ndarray, page: int, advice: int) -> None:
        self.asked += samples["index"].tolist()


def batches(count: int, each: int, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for k in range(count):
        samples = samples_of(*[((k * each + i) * size, size) for i in range(each)])
        samples["index"] += k * each
        yield k, samples


def settle(ahead: ReadAhead) -> None:
    """Wait until the thread has done all that it was given."""
    done = threading.Event()
    ahead.do(done.set)
    assert done.wait(10)


# -- the request


@pytest.mark.parametrize(
    ("spans", "requests"),
    [
        ([], 0),
        ([(100, 50)], 1),
        ([(0, P), (P, P), (2 * P, 10)], 1),  # neighbours
        ([(10, P), (P + 10, P), (2 * P + 10, P)], 1),  # neighbours that share pages
        ([(0, P), (10 * P, P), (20 * P, P)], 3),
        ([(10 * P, P), (9 * P, P)], 2),  # backwards
        ([(0, 10 * P), (P, P)], 1),  # one inside the other
    ],
)
def test_neighbours_are_asked_for_in_one_request(spans: list[tuple[int, int]], requests: int) -> None:
    memory = np.zeros(
        40 * P, np.uint8
    )  # advice on memory that is no file's, at an address that begins no page
    assert advise_willneed(memory[5:], samples_of(*spans), PAGE, WILLNEED) == requests


def test_it_brings_the_bytes_that_are_asked_for_into_the_page_cache_and_no_others(tmp_path: Path) -> None:
    small = write(tmp_path / "a.beton", [jpeg(picture(400, 300, seed)) for seed in range(10)])
    path = write_repeated(small, tmp_path / "b.beton", 40)
    cold_cache.drop(path)
    if cold_cache.cached_pages(path).mean() > 0.02:
        pytest.skip("this file system keeps a dropped file in memory (tmpfs)")
    with Beton(path) as beton:
        beton.expect_random_access()
        before = cold_cache.cached_pages(path)
        wanted = np.zeros(len(before), bool)
        for sample in (samples := sample_table(beton)[::50]):
            wanted[sample["ptr"] // P : -(-(sample["ptr"] + sample["size"]) // P)] = True
        assert (wanted & ~before).any()
        advise_willneed(beton.map, samples, PAGE, WILLNEED)
        deadline = time.monotonic() + 60
        while not (after := cold_cache.cached_pages(path))[wanted].all():
            assert time.monotonic() < deadline, "what was asked for did not come"
        assert not (after & ~before & ~wanted).any()


# -- how far


@pytest.mark.parametrize("max_bytes", [1, 999, 1000, 1001, 3500, 10_000, 10**9])
def test_what_follows_a_batch_has_been_asked_for_up_to_the_bound(
    max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    ahead = ReadAhead(np.zeros(1, np.uint8), max_bytes)
    ahead.start()
    given = list(batches(20, 10, 100))  # 1,000 bytes a batch
    handed_out = 0
    for (key, samples), (expected_key, expected) in zip(ahead.ahead_of(iter(given)), given):
        assert key == expected_key and samples is expected
        handed_out += len(samples)
        settle(ahead)
        beyond = min(max_bytes // 1000 * 1000, (200 - handed_out) * 100)
        assert recorder.asked == list(range(handed_out + beyond // 100))
    assert handed_out == 200
    ahead.close()


def test_none_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    ahead = ReadAhead(np.zeros(1, np.uint8), 0)
    ahead.start()
    assert [key for key, _ in ahead.ahead_of(batches(20, 10, 100))] == list(range(20))
    settle(ahead)
    assert recorder.asked == []
    ahead.close()


def test_after_a_long_rest_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    ahead = ReadAhead(np.zeros(1, np.uint8), 2000)
    ahead.start()
    iterator = ahead.ahead_of(batches(20, 1, 1000))
    next(iterator)
    monkeypatch.setattr(read_ahead, "PAUSE_S", -1.0)
    next(iterator)
    settle(ahead)
    assert recorder.asked == [0, 1, 2, 1, 2, 3]
    ahead.close()


def test_no_further_than_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48, seed)) for seed in range(12)])
    with Loader(path, 4, train=True, size=32, batches_ahead=1) as loader:
        next(iter(loader))
        settle(loader._read_ahead)
        assert 12 <= len(recorder.asked) <= 12 + 3 * 4  # an epoch beyond the batches that were handed out


# -- its end, and that nothing depends on it


def test_what_it_has_not_begun_is_left_undone_when_it_is_closed() -> None:
    ahead = ReadAhead(np.zeros(1, np.uint8), 1000)
    ahead.start()
    begun, go_on, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        go_on.wait(10)

    ahead.do(first)
    ahead.do(lambda: done.append(1))
    assert begun.wait(10)
    ahead.stop()
    ahead.do(lambda: done.append(2))
    go_on.set()
    ahead.close()
    ahead.close()
    assert done == []


def test_a_dropped_loader_ends_its_thread(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))] * 8)
    loader = Loader(path, 4, train=True, size=32)
    thread = loader._read_ahead._thread
    next(iter(loader))
    del loader
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("read_ahead_bytes", [0, 1 << 20])
def test_what_fails_in_it_reaches_the_consumer_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_ahead_bytes: int
) -> None:
    def broken(*arguments: object) -> None:
        raise MemoryError("no room for an order")

    monkeypatch.setattr(read_ahead, "advise_willneed", broken)
    monkeypatch.setattr(
        planner, "epoch_permutation", broken if not read_ahead_bytes else planner.epoch_permutation
    )
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48, seed)) for seed in range(12)])
    with (
        Loader(path, 4, train=True, size=32, read_ahead_bytes=read_ahead_bytes) as loader,
        pytest.raises(RuntimeError, match="no room for an order") as caught,
    ):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # nobody waits for the thread that reads ahead
            list(loader)
    causes = [caught.value.__cause__, caught.value.__cause__ and caught.value.__cause__.__cause__]
    assert any(isinstance(cause, MemoryError) for cause in causes)


def test_the_pixels_and_the_order_are_the_same_without_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(80, 60, seed)) for seed in range(20)])
    for epoch in (0, 3):
        with_it = loaded(path, 4, train=True, size=32, epoch=epoch)
        without = loaded(path, 4, train=True, size=32, epoch=epoch, read_ahead_bytes=0)
        assert list(with_it) == list(without)
        assert all(np.array_equal(with_it[label], without[label]) for label in without)
