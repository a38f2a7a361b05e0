"""The loss scale: GradScaler's numbers and saved state, without its waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alexnet_fast.engine.loss_scale import LARGEST_SCALE, LossScale

CPU = torch.device("cpu")


def step(scale: LossScale, overflows: bool) -> list[torch.Tensor]:
    gradients = [
        scale.scaled(torch.tensor([2.0, 3.0])),
        scale.scaled(torch.tensor([float("nan") if overflows else 1.0])),
    ]
    scale.unscale(gradients)
    scale.update()
    return gradients


def gradscaler(interval: int) -> Any:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=interval)
    scaler.scale(torch.ones(()))
    return scaler


def test_it_moves_as_gradscaler_does_over_any_overflows_but_stays_below_its_bound() -> None:
    ours, theirs = LossScale("dynamic", CPU), gradscaler(3)
    ours._interval = 3
    overflows = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.2
    for overflowed in overflows.tolist():
        step(ours, overflowed)
        theirs._found_inf_per_device = lambda _, found=overflowed: {CPU: torch.tensor(float(found))}
        theirs._per_optimizer_states[0]["found_inf_per_device"] = {CPU: torch.tensor(float(overflowed))}
        theirs.update()
        if theirs.get_scale() > LARGEST_SCALE:
            theirs.update(LARGEST_SCALE)
        assert (ours.get_scale(), int(ours._growth_tracker)) == (
            theirs.get_scale(),
            theirs._get_growth_tracker(),
        )
    assert int(ours.skipped) == int(overflows.sum()) > 20


def test_gradients_are_unscaled_in_place_and_an_overflow_is_found_on_the_device() -> None:
    scale = LossScale("dynamic", CPU)
    gradients = step(scale, False)
    assert torch.equal(gradients[0], torch.tensor([2.0, 3.0])) and float(scale.found_inf) == 0
    step(scale, True)
    assert float(scale.found_inf) == 1 and scale.get_scale() == 2.0**15 and int(scale.skipped) == 1


def test_its_saved_state_is_gradscalers_in_both_directions() -> None:
    ours, theirs = LossScale("dynamic", CPU), gradscaler(2000)
    for overflowed in (True, False, False):
        step(ours, overflowed)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    assert theirs.get_scale() == 2.0**15 and theirs._get_growth_tracker() == 2
    other = LossScale("dynamic", CPU)
    other.resume(theirs.state_dict())
    assert other.state_dict() == ours.state_dict()
    assert (
        LossScale("none", CPU).state_dict() == {} == torch.amp.GradScaler("cpu", enabled=False).state_dict()
    )


def test_a_number_and_none_resume_as_the_recipe_says_whatever_was_saved() -> None:
    saved = LossScale("dynamic", CPU).state_dict()
    fixed, none = LossScale(128.0, CPU), LossScale("none", CPU)
    for scale in (fixed, none):
        scale.resume(saved)
    assert (fixed.get_scale(), none.get_scale()) == (128, 1)
    step(fixed, True)
    step(none, True)
    assert fixed.get_scale() == 128 and (int(fixed.skipped), int(none.skipped)) == (1, 0)


def test_ranks_that_do_not_see_each_others_overflows_are_asked() -> None:
    asked: list[float] = []

    def another_overflowed(found_inf: torch.Tensor) -> None:
        asked.append(float(found_inf))
        found_inf += 1

    scale = LossScale("dynamic", CPU, another_overflowed)
    step(scale, False)
    assert asked == [0.0] and int(scale.skipped) == 1 and scale.get_scale() == 2.0**15


@pytest.mark.parametrize("choice", ["dynamic", 64.0, "none"])
def test_nothing_it_has_moves_in_memory(choice: Any) -> None:
    scale = LossScale(choice, CPU)
    before = [tensor.data_ptr() for tensor in scale.tensors()]
    for overflowed in (False, True, False):
        step(scale, overflowed)
    scale.resume(LossScale("dynamic", CPU).state_dict())
    assert [tensor.data_ptr() for tensor in scale.tensors()] == before
