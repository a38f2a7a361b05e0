"""The decoding threads while their kernels are being loaded."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import betons
from alexnet_fast import Loader
from alexnet_fast.pipeline import crew
from alexnet_fast.pipeline.warmup import WarmUp

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
    monkeypatch.setattr(crew, "kernels", compiling)
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

    monkeypatch.setattr(crew, "kernels", WarmUp(fail, "load"))
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
