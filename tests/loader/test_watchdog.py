"""No wait is endless and no failure is silent: stalls, threads that exit, failures anywhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import betons
from alexnet_fast import Loader
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.loader import decode_workers, orders, planner
from alexnet_fast.loader.preload import WarmUp
from alexnet_fast.loader.watchdog import GIVE_UP, LoaderStalled, Watchdog

WAIT_S = 20.0


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    decode_workers.kernels.wait(give_up=lambda: False)  # or the first test would wait for them
    image = betons.jpeg(betons.picture(64, 48))
    return betons.write(tmp_path_factory.mktemp("stall") / "a.beton", [image] * 40)


class Gate:
    """Wraps Decoder.decode, and blocks each thread that works on a batch from sample ``first`` on until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int = 0) -> None:
        self._first, self._opened = first, threading.Event()
        self._arrivals = threading.Semaphore(0)
        decode = Decoder.decode

        def gated(decoder: Decoder, file: Any, samples: Any, *rest: Any) -> Any:
            if samples["index"][0] >= self._first:
                self.wait()
            return decode(decoder, file, samples, *rest)

        monkeypatch.setattr(Decoder, "decode", gated)

    def wait(self) -> None:
        """Arrive, and wait until it is opened."""
        self._arrivals.release()
        self._opened.wait(WAIT_S)

    def open(self) -> None:
        self._opened.set()

    def await_arrivals(self, count: int) -> None:
        """Wait until N threads are blocked."""
        for _ in range(count):
            assert self._arrivals.acquire(timeout=WAIT_S)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What was logged so far."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("alexnet_fast")
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


def test_a_stall_is_told_with_what_each_thread_is_doing_and_given_up_at_last(
    beton: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    gate = Gate(monkeypatch, first=8)
    with Loader(beton, 8, train=False, size=16, threads=2) as loader:
        batches = iter(loader)
        next(batches)
        gate.await_arrivals(2)
        loader._pipeline.workers._watchdog.stall_s = (
            0.1  # not before, since a busy machine may stall for as long
        )
        with pytest.raises(LoaderStalled) as caught:
            next(batches)
        for text in (warnings[0], str(caught.value)):
            assert "while waiting for epoch 0, step 1:" in text
            assert (
                "decode-0: decoding samples" in text and "decode-1: " in text and "of epoch 0, step 1" in text
            )
            assert "in gated" in text, "where in the code it is"
            assert "planner: " in text
        assert len(warnings) == 4 and "times out after" in warnings[0]
        gate.open()
        loader._pipeline.workers._watchdog.stall_s = WAIT_S
        loader.set_epoch(0, 1)
        assert sum(len(batch.labels) for batch in loader) == 32, "it can go on where the cause is gone"


def test_a_consumer_that_rests_is_no_stall(
    beton: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    gate = Gate(monkeypatch, first=8)
    monkeypatch.setattr(decode_workers, "POLL_S", 0.05)
    with Loader(beton, 8, train=False, size=16, stall_s=1) as loader:
        batches = iter(loader)
        held = [next(batches)]
        time.sleep(1.2)
        threading.Timer(0.2, gate.open).start()  # the wait starts here, not with the last progress
        held.extend(batches)
    assert len(held) == 5 and not warnings


def test_kernels_that_are_being_compiled_are_no_stall(
    beton: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(decode_workers, "kernels", WarmUp(lambda: time.sleep(1.2), "load"))
    with Loader(beton, 8, train=False, size=16, stall_s=1) as loader:
        assert len(list(loader)) == 5
    assert not warnings


def test_a_thread_that_does_not_end_is_told_when_the_loader_is_closed(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    loader = Loader(beton, 8, train=False, size=16, threads=1, stall_s=0.1)
    iter(loader)
    loader._pipeline.workers.seek((0, 0))
    gate.await_arrivals(1)
    with pytest.raises(LoaderStalled, match="while waiting for the end of its thread decode-0"):
        loader.close()
    gate.open()
    loader._pipeline.workers._watchdog.stall_s = WAIT_S
    loader.close()


def test_what_was_given_up_once_is_not_waited_for_as_long_again(
    beton: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """Neither as the loader is closed nor at the interpreter's end, which closes it again: the thread of either kind may be stuck."""
    gate = Gate(monkeypatch)
    monkeypatch.setattr(decode_workers, "POLL_S", 0.05)
    loader = Loader(beton, 8, train=False, size=16, threads=2)
    monkeypatch.setattr(
        planner, "advise_willneed", lambda file, samples, *_: samples["index"][0] and gate.wait()
    )

    def tire() -> None:
        gate.await_arrivals(3)
        loader._pipeline.workers._watchdog.stall_s = 0.1

    threading.Thread(target=tire).start()
    with pytest.raises(LoaderStalled, match="while waiting for epoch 0, step 0"):
        next(iter(loader))
    assert len(warnings) == GIVE_UP - 1
    for close in (loader._pipeline.workers.close, loader._pipeline.planner.close, loader.close):
        with pytest.raises(LoaderStalled, match="while waiting for the end of its thread "):
            close()
    assert len(warnings) == GIVE_UP - 1, "it timed out at the first check"
    gate.open()
    loader._pipeline.workers._watchdog.stall_s = WAIT_S
    loader.close()


def test_a_new_wait_has_its_full_time() -> None:
    watchdog = Watchdog(0.001)
    long_ago_s = time.perf_counter() - 1
    for _ in range(2):
        for _ in range(GIVE_UP - 1):
            watchdog.check(long_ago_s, "it", str)
        with pytest.raises(LoaderStalled):
            watchdog.check(long_ago_s, "it", str)
        watchdog.begin()


@pytest.mark.parametrize("failure", [SystemExit(3), MemoryError("none"), KeyboardInterrupt()])
def test_whatever_ends_a_decoding_thread_reaches_the_consumer(
    beton: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*arguments: Any) -> Any:
        raise failure

    monkeypatch.setattr(Decoder, "decode", fail)
    with Loader(beton, 8, train=False, size=16, threads=2) as loader:
        with pytest.raises(RuntimeError, match="a decoding thread failed") as caught:
            list(loader)
        assert caught.value.__cause__ is failure


def test_a_thread_that_ends_without_a_word_is_named(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_workers.DecodeWorkers, "_work", lambda self, stats, wake: None)
    with (
        Loader(beton, 8, train=False, size=16, threads=1) as loader,
        pytest.raises(RuntimeError, match="the decoding thread decode-0 exited unexpectedly"),
    ):
        list(loader)


def test_a_failure_to_plan_reaches_the_consumer(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("no room for an order")

    monkeypatch.setattr(orders, "epoch_permutation", fail)
    with Loader(beton, 8, train=True, size=16) as loader, pytest.raises(RuntimeError) as caught:
        list(loader)
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_thread_that_cannot_be_started_leaves_none_behind(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "decode-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Loader(beton, 8, train=False, size=16, threads=4)


def test_the_others_decode_while_one_thread_plans(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order of a million samples takes its time; what is planned is decoded and handed out meanwhile."""
    handed_out, order = threading.Event(), orders.epoch_permutation

    def slow(count: int, seed: int, epoch: int) -> Any:
        assert epoch != 1 or handed_out.wait(WAIT_S)
        return order(count, seed, epoch)

    monkeypatch.setattr(orders, "epoch_permutation", slow)
    with Loader(beton, 40, train=True, size=16, threads=2, read_ahead_bytes=0) as loader:
        assert len(next(iter(loader)).labels) == 40
        handed_out.set()
        assert len(next(iter(loader)).labels) == 40


def test_each_chunk_and_each_wait_is_given_to_the_watch(beton: Path) -> None:
    told: list[tuple[str, str, float, float, tuple[int, int]]] = []
    with Loader(beton, 8, train=True, size=16, threads=2) as loader:
        list(loader)
        loader.watch = lambda *event: told.append(event)
        list(loader)
        loader.watch = None
        list(loader)
        assert {name for name, *_ in told} <= {each.name for each in loader.thread_stats}
        assert {kind for _, kind, *_ in told} <= {"decode", "wait"}
        assert all(begin_s <= end_s for _, _, begin_s, end_s, _ in told)
        steps = {step for _, kind, _, _, (epoch, step) in told if kind == "decode" and epoch == 1}
        assert {4} <= steps <= set(range(5)), "the first of them were decoded before"
        for each in loader.thread_stats:
            assert min(each.cpu_s, each.busy_s, each.faults) >= 0
        assert sum(each.busy_s for each in loader.thread_stats) > 0
