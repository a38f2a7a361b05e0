"""Sums on the device, seconds on the host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine import meter as meter_module
from alexnet_fast.engine.meter import Meter, ThroughputMeter

CPU = resolve("cpu")


def test_a_meter_averages_losses_over_steps_and_hits_over_samples() -> None:
    meter = Meter(torch.device("cpu"))
    logits = torch.eye(6)[[0, 1, 2]]
    meter.add(torch.tensor(1.0), logits, torch.tensor([0, 1, 2]))
    meter.add(torch.tensor(2.0), logits[:1], torch.tensor([5]))
    read = meter.read()
    assert (read.loss, read.last_loss, read.metrics) == (1.5, 2.0, {"acc1": 75.0, "acc5": 75.0})
    other = Meter(torch.device("cpu"))
    other.load_state_dict(meter.state_dict())
    assert (other.read().loss, other.read().metrics["acc1"]) == (1.5, 75.0)
    meter.clear()
    assert meter.read().loss == 0 and meter.read().metrics["acc1"] == 0


class Hands:
    """A clock's hands, moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(meter_module, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def move(self, seconds: float) -> None:
        self.now += seconds


def test_the_first_steps_and_what_is_no_training_are_not_in_the_img_per_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hands, clock = Hands(monkeypatch), ThroughputMeter(CPU, warmup_steps=2)
    for _ in range(2):
        with clock.training():
            for step in range(3):
                hands.move(9.0 if clock.run.steps == 0 and step < 2 else 0.5)
                clock.step(10, 0.1)
                if step == 1:
                    with clock.paused():
                        hands.move(1000)
        hands.move(1000)  # evaluation, checkpoint
    assert (clock.run.steps, clock.run.samples) == (4, 40)
    assert clock.run.seconds == pytest.approx(2.0) and clock.run.img_per_s == pytest.approx(20)
    assert clock.run.data_wait_share == pytest.approx(0.2)
    assert clock.epoch.steps == 3 and clock.epoch.step_s == pytest.approx(0.5)


def test_a_run_no_longer_than_its_warm_up_counts_all_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    hands, clock = Hands(monkeypatch), ThroughputMeter(CPU, warmup_steps=10)
    with clock.training():
        for _ in range(4):
            hands.move(0.5)
            clock.step(8, 0.0)
    assert clock.run.steps == 4 and clock.run.img_per_s == pytest.approx(16)


def test_each_line_covers_the_steps_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    hands, clock = Hands(monkeypatch), ThroughputMeter(CPU, warmup_steps=0)
    with clock.training():
        for seconds in (1.0, 1.0, 3.0):
            hands.move(seconds)
            clock.step(6, seconds / 2)
            if seconds == 1.0:
                line = clock.line()
                assert (line.steps, line.step_s, line.step_wait_s) == (1, 1.0, 0.5)
        assert clock.line().img_per_s == pytest.approx(2)
        assert clock.epoch.steps == 3
