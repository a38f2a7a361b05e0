"""Worker processes: results in order, ahead within bounds, and no death unreported."""

from __future__ import annotations

import array
import fcntl
import multiprocessing.spawn
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.errors import UserError
from alexnet_fast.packing import worker_pool
from alexnet_fast.packing.errors import WorkerDied
from alexnet_fast.packing.worker_pool import ordered_map


def doing(item: object) -> str:
    return f"doing {item}"


def children() -> set[int]:
    """Processes whose parent is this one, or that this one's forkserver started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"forkserver" in status.read_bytes() and os.getpgid(int(status.parent.name)) == os.getpgid(0):
                found.add(int(status.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_items_order(count: int) -> None:
    assert list(ordered_map(abs, range(-50, 0), count, doing=doing)) == list(range(50, 0, -1))
    assert list(ordered_map(abs, [], count, doing=doing)) == []


def test_a_slow_item_lets_others_be_done_ahead_up_to_a_bound() -> None:
    """Results wait for the first item, which is slow; no more of them than the bound."""
    items = [2.0] + [0.0] * 300
    results = ordered_map(time.sleep, items, 2, doing=doing)
    generator = results.gi_frame
    next(results)
    pool = generator.f_locals["pool"]
    assert worker_pool.AHEAD < pool._given <= 1 + 2 * worker_pool.AHEAD
    assert sum(1 for _ in results) == 300


def test_a_worker_that_is_killed_is_named_with_its_signal_and_its_item() -> None:
    """It kills itself at the third item, as the kernel does when memory runs out."""
    harmless = int(signal.SIGCHLD)
    items = [harmless] * 2 + [int(signal.SIGKILL)] + [harmless] * 40
    before = children()
    with pytest.raises(
        WorkerDied,
        match=r"^worker process \d+ was killed by SIGKILL \(9\) while doing 9; .*use fewer --workers$",
    ):
        list(ordered_map(signal.raise_signal, items, 2, doing=doing))
    assert len(children() - before) <= 1  # the server that forks them stays


def test_a_worker_that_is_killed_while_it_sends_a_result_is_named_too() -> None:
    """64 MiB do not fit into the pipe: it has sent the length of its result, and a part of it."""
    results = ordered_map(bytes, [1, 1 << 26], 2, doing=doing)
    assert next(results) == b"\0"
    (worker,) = results.gi_frame.f_locals["pool"]._workers
    there, patience = array.array("i", [0]), time.monotonic() + 120
    while there[0] < 1000:
        fcntl.ioctl(worker.pipe.fileno(), termios.FIONREAD, there)
        assert time.monotonic() < patience
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(
        WorkerDied, match=r"^worker process \d+ was killed by SIGKILL \(9\) while doing 67108864;"
    ):
        next(results)


def test_a_worker_that_ends_is_named_with_its_code() -> None:
    with pytest.raises(WorkerDied, match=r"^worker process \d+ ended with code 7 while doing 7"):
        list(ordered_map(os._exit, [7] * 20, 2, doing=doing))


def test_a_worker_without_memory_says_over_which_item() -> None:
    with pytest.raises(
        WorkerDied, match=r"^worker process \d+ ran out of memory while doing 4611686018427387904;"
    ):
        list(ordered_map(bytes, [1, 2, 1 << 62, 3], 2, doing=doing))
    with pytest.raises(WorkerDied, match="^memory ran out while doing 4611686018427387904; free some"):
        list(ordered_map(bytes, [1, 2, 1 << 62, 3], 1, doing=doing))


@pytest.mark.parametrize(
    ("work", "item", "expected"),
    [(int, "x", "a worker process failed: .*ValueError: invalid literal"), (len, 3, "TypeError")],
)
def test_what_a_worker_raises_is_raised_here_with_where_it_happened(
    work: Callable[[Any], Any], item: object, expected: str
) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){expected}"):
        list(ordered_map(work, [item] * 20, 2, doing=doing))


def test_leaving_early_leaves_no_worker() -> None:
    results = ordered_map(time.sleep, [0.0] + [60.0] * 50, 3, doing=doing)
    next(results)
    before = children()
    results.close()
    assert len(before - children()) == 3


def test_workers_do_not_import_the_program_that_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
    with worker_pool._light_main():
        prepared = multiprocessing.spawn.get_preparation_data("worker")
    named = {"init_main_from_name", "init_main_from_path"}
    assert not named & prepared.keys()
    assert named & multiprocessing.spawn.get_preparation_data("worker").keys()


def test_too_few_open_files_for_the_workers_are_one_sentence_and_start_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker whose start fails halfway would print a traceback."""
    monkeypatch.setattr(worker_pool.resource, "getrlimit", lambda _: (40, 4096))
    monkeypatch.setattr(worker_pool._Worker, "__init__", lambda *_: pytest.fail("one was started"))
    with pytest.raises(
        UserError, match=r"cannot start 20 worker processes: they need \d+ open files, and 40 are"
    ):
        next(ordered_map(str, range(1000), 20, doing=str))
