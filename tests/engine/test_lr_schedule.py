"""Learning rates against torch's schedulers and by hand."""

from __future__ import annotations

import pytest
import torch

from alexnet_fast.engine.lr_schedule import Schedule


def test_per_epoch_it_is_the_references_cosine() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.04)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    schedule = Schedule(0.04, "cosine", "epoch", epochs=90, steps_per_epoch=5)
    for epoch in range(90):
        rates = {schedule(epoch * 5 + step) for step in range(5)}
        assert len(rates) == 1
        assert rates.pop() == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        reference.step()


def test_per_step_it_warms_up_linearly_and_then_falls_to_nearly_nothing() -> None:
    schedule = Schedule(1.0, "cosine", "step", epochs=10, steps_per_epoch=10, warmup_epochs=2)
    rates = [schedule(step) for step in range(100)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert rates[20] == 1.0 and rates[60] == pytest.approx(0.5)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[99] < 0.001 and schedule(100) == 0


def test_constant_stays_after_its_warm_up() -> None:
    schedule = Schedule(0.1, "constant", "step", epochs=3, steps_per_epoch=4, warmup_epochs=0.5)
    assert [schedule(step) for step in range(12)] == pytest.approx([0.05, *[0.1] * 11])


def test_a_warm_up_as_long_as_the_run_is_all_warm_up() -> None:
    schedule = Schedule(1.0, "cosine", "step", epochs=2, steps_per_epoch=2, warmup_epochs=2)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
