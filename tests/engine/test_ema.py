"""The moving average of the weights: its formula, overflows, its evaluation and its resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine.ema import WeightAverage
from alexnet_fast.engine.precision import Precision
from alexnet_fast.errors import UserError
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import ResumeState
from small_network import small_batch, small_net

CPU = resolve("cpu")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)
PROGRESS = ResumeState({"epoch": 0, "step": 3}, [{}], None)


def make(level: Any = "O2", ema: float = 0.9, **options: Any) -> Precision:
    return Precision(small_net(), SGD, level=level, device=CPU, ema=ema, **options)


def average_of(precision: Precision) -> WeightAverage:
    assert precision.average is not None
    return precision.average


def step(precision: Precision, factor: float = 1.0) -> None:
    images, labels = small_batch()
    loss = functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels)
    precision.backward(loss * factor)
    precision.learning_rate = 0.05
    precision.step()


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_the_average_is_that_of_the_float32_weights_and_running_statistics(level: str) -> None:
    precision = make(level, ema=0.3)
    expected = {name: each.double() for name, each in precision.state_dict().items()}
    for n in range(1, 6):
        step(precision)
        decay = min(0.3, (1 + n) / (10 + n))
        for name, now in precision.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * now.double()
    found = average_of(precision).state_dict(precision.state_dict())
    assert found["steps"] == 5
    for name, value in found["state_dict"].items():
        if name != "1.num_batches_tracked":
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
            assert value.dtype is torch.float32
    assert found["state_dict"]["1.num_batches_tracked"] == 5


def test_a_run_with_an_average_takes_the_steps_of_one_without() -> None:
    one, other = make(ema=0.9), make(ema=0.0)
    for _ in range(3):
        step(one)
        step(other)
    assert other.average is None
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_a_step_that_overflows_leaves_the_average_as_it_is() -> None:
    precision = make(loss_scale="dynamic")
    step(precision)
    before = {name: each.clone() for name, each in average_of(precision).tensors().items()}
    step(precision, torch.inf)
    after = average_of(precision).tensors()
    assert int(precision.skipped) == 1 and all(torch.equal(before[name], after[name]) for name in after)
    step(precision)
    assert after["averaged steps"] == 2


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_in_use_the_model_computes_with_the_average_and_afterwards_is_what_it_was(level: str) -> None:
    precision, (images, _) = make(level), small_batch()
    for _ in range(4):
        step(precision)
    precision.model.eval()
    before = {name: each.clone() for name, each in precision.tensors().items()}
    plain = precision.forward(images.to(precision.dtype))
    with average_of(precision).in_use():
        averaged = precision.forward(images.to(precision.dtype))
    other = make(level)
    other.load_state_dict(average_of(precision).state_dict(precision.state_dict())["state_dict"])
    other.model.eval()
    assert torch.equal(averaged, other.forward(images.to(precision.dtype)))
    assert not torch.equal(averaged, plain)
    assert torch.equal(precision.forward(images.to(precision.dtype)), plain)
    assert all(torch.equal(before[name], each) for name, each in precision.tensors().items())
    with pytest.raises(KeyError), average_of(precision).in_use():
        raise KeyError
    assert all(torch.equal(before[name], each) for name, each in precision.tensors().items())


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_run_resumes_its_average_to_the_bit(level: str, tmp_path: Path) -> None:
    whole, first, second = make(level), make(level), make(level)
    for _ in range(3):
        step(whole)
        step(first)
    saved = checkpoint.snapshot(first, PROGRESS, {})
    assert saved is not None
    checkpoint.save(tmp_path / "last.pt", saved)
    step(second)
    checkpoint.restore(checkpoint.load(tmp_path / "last.pt"), second, CPU)
    for _ in range(3):
        step(whole)
        step(second)
    one, other = average_of(whole).tensors(), average_of(second).tensors()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_without_a_saved_average_it_begins_with_the_checkpoints_weights() -> None:
    plain, other = make(ema=0.0), make()
    for _ in range(3):
        step(plain)
        step(other)
    saved = checkpoint.snapshot(plain, PROGRESS, {})
    assert saved is not None and "ema" not in saved
    checkpoint.restore(saved, other, CPU)
    state = average_of(other).state_dict(other.state_dict())
    assert state["steps"] == 0
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in state["state_dict"].items())


def test_an_average_of_another_model_is_refused() -> None:
    precision = make()
    saved = checkpoint.snapshot(precision, PROGRESS, {})
    assert saved is not None
    saved["ema"]["state_dict"]["5.bias"] = torch.zeros(7)
    with pytest.raises(UserError, match=r"'5.bias' has shape \(7,\)"):
        checkpoint.restore(saved, make(), CPU)
    del saved["ema"]["state_dict"]["5.bias"]
    with pytest.raises(UserError, match="lack '5.bias'"):
        checkpoint.restore(saved, make(), CPU)
