"""The decoding threads while their kernels are being loaded."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import betons
from alexnet_fast import Loader
from alexnet_fast.loader import decode_workers
from alexnet_fast.loader.preload import WarmUp

WAIT_S = 20.0


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    return betons.write(tmp_path / "one.beton", [betons.jpeg(betons.picture(64, 48))])


def test_many_wait_for_one_loading_of_the_kernels() -> None:
    gate, runs = threading.Event(), []

    def load() -> None:
        gate.wait(WAIT_S)
        runs.append(threading.current_thread().name)

    warm_up, found = WarmUp(load, "load"), []
    waiting = [
        threading.Thread(target=lambda: found.append(warm_up.wait(give_up=lambda: False))) for _ in range(4)
    ]
    for thread in waiting:
        thread.start()
    gate.set()
    for thread in waiting:
        thread.join(WAIT_S)
    assert (runs, found) == (["load"], [True] * 4)


def test_a_loader_can_be_closed_while_the_kernels_are_compiled(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()

    def compile_() -> None:
        gate.wait(WAIT_S)

    compiling = WarmUp(compile_, "load")
    monkeypatch.setattr(decode_workers, "kernels", compiling)
    loader = Loader(beton, 1, train=False, threads=2)
    loader.close()
    assert not gate.is_set(), "the loader was closed before the kernels were there"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode-")]
    gate.set()
    assert compiling.wait(give_up=lambda: False)


def test_a_failure_to_load_the_kernels_reaches_the_consumer(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MemoryError("no room for machine code")

    monkeypatch.setattr(decode_workers, "kernels", WarmUp(fail, "load"))
    with (
        Loader(beton, 1, train=False) as loader,
        pytest.raises(RuntimeError, match="no room for machine code"),
    ):
        next(iter(loader))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_loads_the_kernels_for_itself() -> None:
    warm_up = WarmUp(lambda: None, "load")
    assert warm_up.wait(give_up=lambda: False)
    child = os.fork()
    if child == 0:
        started = warm_up._thread is None and warm_up.wait(give_up=lambda: False)
        os._exit(0 if started else 1)
    assert os.waitpid(child, 0)[1] == 0


@contextmanager
def interrupted_at(line: int) -> Iterator[None]:
    """Ctrl-C as the body's calls are about to run the ``line``-th line of ours or of Python's own library."""
    lines = count()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and next(lines) == line:
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("end", ["stop", "close"])
def test_ctrl_c_at_any_line_of_what_ends_the_threads_leaves_none_that_waits_for_ever(
    beton: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector stops a dropped loader's threads in the main thread, where the interruption is reported to nobody."""
    monkeypatch.setattr(decode_workers, "POLL_S", 0.01)
    decode_workers.kernels.wait(give_up=lambda: False)
    for line in count():
        loader = Loader(beton, 1, train=True, threads=2)
        next(iter(loader))
        try:
            with interrupted_at(line):
                getattr(loader._pipeline.workers, end)()
            whole = True
        except KeyboardInterrupt:
            whole = False
        closing = threading.Thread(target=loader.close, daemon=True)
        closing.start()
        closing.join(WAIT_S)
        assert not closing.is_alive(), f"interrupted at line {line}"
        if whole:
            break
    assert line > 3


def test_threads_that_wait_are_woken_by_the_garbage_collector(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each loader that is dropped would hold its threads, and its memory, until their next poll."""
    monkeypatch.setattr(decode_workers, "POLL_S", 10 * WAIT_S)
    loader = Loader(beton, 1, train=True, threads=2)
    next(iter(loader))
    threads = loader._pipeline.workers._threads
    deadline = time.monotonic() + WAIT_S
    while len(loader._pipeline.workers._idle) < len(threads):
        assert time.monotonic() < deadline, [each.doing for each in loader.thread_stats]
        time.sleep(0.001)
    with loader._pipeline.workers._lock:  # as where the collector runs in a thread that holds it
        del loader
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)
