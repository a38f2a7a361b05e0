"""Figures and their spread."""

from __future__ import annotations

import pytest

from alexnet_fast.engine.ranks import World
from alexnet_fast.throughput.rate import Figure, throughput, windows


def test_a_figure_is_the_median_with_the_least_and_the_most() -> None:
    assert Figure.of([3.0, 1.0, 2.0]) == Figure(2.0, 1.0, 3.0, 3)


def test_windows_hold_all_that_was_done_and_none_is_empty() -> None:
    at = [(0, 0.0)] + [(10 * k, float(k)) for k in range(1, 51)]
    assert windows(at) == pytest.approx([10.0] * 5)
    uneven = [(0, 0.0), (1, 9.0), (2, 9.1), (3, 9.2), (4, 9.3), (5, 10.0)]
    rates = windows(uneven)
    assert len(rates) == 5 and all(rate > 0 for rate in rates)
    assert rates[0] == pytest.approx(1 / 9)


def test_throughput_counts_units_and_leaves_out_the_warm_up() -> None:
    calls = []

    def work() -> int:
        calls.append(1)
        return 7

    figure = throughput(work, 0.05, World())
    assert figure.n == 5 and 0 < figure.least <= figure.median <= figure.most
    assert len(calls) > 5
