"""Figures and their spread."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from alexnet_fast.distributed.world import World
from alexnet_fast.loader.thread_stats import ThreadStats
from alexnet_fast.profile import stats as rate
from alexnet_fast.profile.decoding import Scaling, alone
from alexnet_fast.profile.stats import Stat, stored, throughput, windows


def test_a_figure_is_the_median_with_the_minimum_and_the_maximum() -> None:
    assert Stat.of([3.0, 1.0, 2.0]) == Stat(median=2.0, min=1.0, max=3.0, n=3)


def test_json_holds_a_figure_under_the_keys_of_version_0_1() -> None:
    point = Scaling(2, Stat.of([3.0, 1.0, 2.0]))
    assert stored(point) == {"threads": 2, "img_per_s": {"median": 2.0, "least": 1.0, "most": 3.0, "n": 3}}


def test_windows_hold_all_that_was_done_and_none_is_empty() -> None:
    at = [(0, 0.0)] + [(10 * k, float(k)) for k in range(1, 51)]
    assert windows(at) == pytest.approx([10.0] * 5)
    uneven = [(0, 0.0), (1, 9.0), (2, 9.1), (3, 9.2), (4, 9.3), (5, 10.0)]
    rates = windows(uneven)
    assert len(rates) == 5 and all(rate > 0 for rate in rates)
    assert rates[0] == pytest.approx(1 / 9)


def test_throughput_counts_units_but_not_those_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def work() -> int:
        clock.now_s += 1 if clock.now_s < 2 else 0.5
        return 1 if clock.now_s <= 2 else 7

    assert throughput(work, 10, World()) == Stat(14, 14, 14, 5)
    assert clock.now_s == 10


def test_decoding_counts_what_threads_decode_and_not_batches_that_are_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A consumer that has paused finds batches ready, and takes them in no time."""
    clock, thread = Clock(monkeypatch), ThreadStats("decode-0")

    class Loader:
        thread_stats = (thread,)

        def __iter__(self) -> Iterator[SimpleNamespace]:
            for k in range(1000):
                paused = k % 4 == 0
                clock.now_s += 0.97 if paused else 0.01
                thread.samples += 97 if paused else 1
                yield SimpleNamespace(labels=range(25))

    figure = alone(Loader(), 10, World())  # type: ignore[arg-type]
    assert (figure.min, figure.max) == pytest.approx((100, 100))


class Clock:
    """The clock of callers that profile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(rate, "time", SimpleNamespace(perf_counter=lambda: self.now_s))
