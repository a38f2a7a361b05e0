"""How long the device computes a step, and how long it is idle: figures of spans, and of work that is queued ahead."""

from __future__ import annotations

import pytest

from alexnet_fast.devices.device_timer import COPY, STEP, Span
from alexnet_fast.profile.end_to_end import idle_share
from alexnet_fast.profile.queueing import Queue
from alexnet_fast.profile.stats import Stat
from standin import cases

CASES = "profile/queueing_cases.py"


def spans(steps: int, computed_s: float, each_s: float) -> list[Span]:
    """Steps one after the other, of which each part lasts until the next begins, as events around late launches say."""
    found = [Span(COPY, COPY, 0.0, steps * each_s)]
    for step in range(steps):
        begin_s = step * each_s
        for part, share in (("normalize", 0.1), ("forward", 0.3), ("backward", 0.5), ("optimizer", 0.1)):
            found.append(Span(STEP, part, begin_s, begin_s + share * computed_s))
            begin_s += share * computed_s
    return found


def test_the_gaps_between_the_launches_of_a_step_count_as_idle() -> None:
    without_gaps = spans(20, computed_s=0.01, each_s=0.01)
    assert idle_share(without_gaps) == pytest.approx(0.0), "by its spans the device is busy all the time"
    assert idle_share(without_gaps, device_s=0.0039) == pytest.approx(0.61)


def test_a_step_may_be_one_span_as_a_captured_one_is() -> None:
    captured = [Span(STEP, "step", 0.01 * step, 0.01 * step + 0.008) for step in range(20)]
    assert idle_share(captured, device_s=0.004) == pytest.approx(1 - 20 * 0.004 / 0.198)


def test_the_device_is_never_busier_than_its_spans() -> None:
    apart = spans(20, computed_s=0.005, each_s=0.01)
    assert idle_share(apart, device_s=0.02) == idle_share(apart) == pytest.approx(0.487, abs=1e-3)


def test_a_later_measurement_counts_as_much_as_the_first() -> None:
    def queue(value: float, device_ms: float | None) -> Queue:
        of = [Stat(each, each, each, 5) for each in (value, 2 * value, 1e3 / value)]
        return Queue(of[0], of[1], None if device_ms is None else Stat(device_ms, 1, 9, 5), of[2])

    found = queue(4.0, 3.0).pooled(queue(6.0, 5.0))
    assert (found.alone_ms.median, found.beside_ms.median, found.beside_ms.n) == (5.0, 10.0, 10)
    assert found.device_ms is not None and found.device_ms.median == 4.0
    assert queue(4.0, 3.0).pooled(queue(6.0, None)).device_ms == queue(4.0, 3.0).device_ms


@pytest.mark.parametrize("name", cases.names(CASES))
def test_on_the_stand_in_npu(name: str) -> None:
    cases.check(CASES, name)
