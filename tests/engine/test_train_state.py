"""The training step: plain torch's, its parts in order, and every tensor where it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_fast.devices.device_timer import DeviceTimer
from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.sgd import fused_or_foreach
from alexnet_fast.engine.tasks import Classification
from alexnet_fast.engine.train_state import PARTS, TrainState
from alexnet_fast.run import checkpoint
from alexnet_fast.run.checkpoint import ResumeState
from small_network import small_batch, small_net

CPU = resolve("cpu")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4)


def make(level: Any = "O0", make_optimizer: Any = None, **options: Any) -> TrainState:
    make_optimizer = make_optimizer or fused_or_foreach(SGD, CPU)
    precision = Precision(small_net(), make_optimizer, level=level, device=CPU, **options)
    return TrainState(precision, Meter(CPU.torch_device, task=Classification(label_smoothing=0.1)))


def step(state: TrainState, factor: float = 1.0) -> None:
    images, labels = small_batch()
    state.train_step((images * factor).to(state.precision.dtype), labels)


def test_steps_are_plain_torchs_to_the_bit_with_a_learning_rate_of_each_ones_own() -> None:
    model = small_net().to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), fused=True)
    state, (images, labels) = make(), small_batch()
    for k in range(6):
        rate = 0.1 / (k + 1)  # numbers that are none in float32
        optimizer.param_groups[0]["lr"] = rate
        loss = functional.cross_entropy(model(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        state.lr = rate
        state.train_step(images, labels)
        assert state.meter.read().last_loss == loss.item()
    mine = state.precision.state_dict()
    assert all(torch.equal(mine[key], tensor) for key, tensor in model.state_dict().items())
    read = state.meter.read()
    assert read.samples == 6 * 16 and read.loss > 0


def test_a_rate_of_zero_leaves_the_weights_as_they_are_while_momenta_move() -> None:
    state = make()
    before = {name: param.detach().clone() for name, param in state.precision.model.named_parameters()}
    state.lr = 0.0
    step(state)
    assert all(torch.equal(param, before[name]) for name, param in state.precision.model.named_parameters())
    assert any(momenta["momentum_buffer"].any() for momenta in state.precision.optimizer.state.values())


def tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """All that a step reads and writes."""
    precision, meter = state.precision, state.meter
    yield from ((f"weight {name}", tensor) for name, tensor in precision.model.state_dict().items())
    for number, (master, momenta) in enumerate(precision.optimizer.state.items()):
        yield from ((f"master {number}", master), (f"momentum {number}", momenta["momentum_buffer"]))
    yield from (
        (f"lr {number}", group["lr"]) for number, group in enumerate(precision.optimizer.param_groups)
    )
    yield "skipped", precision.skipped
    yield from ((f"meter.{name}", value) for name, value in vars(meter).items() if isinstance(value, Tensor))
    scaler = precision.scaler
    if scaler.is_enabled():
        assert isinstance(scaler._scale, Tensor) and isinstance(scaler._growth_tracker, Tensor)
        yield from (("scale", scaler._scale), ("growth", scaler._growth_tracker))


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
@pytest.mark.parametrize("loss_scale", ["dynamic", 128.0, "none"])
def test_all_that_a_step_changes_is_written_in_place_so_that_a_graph_can_be_captured(
    level: str, loss_scale: Any
) -> None:
    state = make(level, loss_scale=loss_scale)
    state.precision.model.train()
    before = {name: tensor.data_ptr() for name, tensor in tensors(state)}
    assert {"lr 0", "meter._last_loss", "meter._loss", "meter._counts", "meter._nonfinite"} <= set(before)
    assert level == "O0" or loss_scale == "none" or {"scale", "growth"} <= set(before)
    step(state)
    state.lr = 0.01
    step(state)
    scaled = state.precision.scaler.is_enabled()
    if scaled:
        step(state, torch.inf)
    read, figures = state.meter.read(), state.precision.figures()
    assert (read.nonfinite_steps, figures["skipped_steps"]) == ((1, 1) if scaled else (0, 0))
    state.meter.clear()
    step(state)
    assert {name: tensor.data_ptr() for name, tensor in tensors(state)} == before
    (rate,) = {float(group["lr"]) for group in state.precision.optimizer.param_groups}
    assert rate == state.lr == 0.01


def test_an_optimizer_without_a_fused_step_has_its_rate_on_the_host_and_steps_alike() -> None:
    foreach, fused = make(make_optimizer=partial(SGD, foreach=True)), make()
    for state in (foreach, fused):
        for rate in (0.1, 0.03):
            state.lr = rate
            step(state)
    assert foreach.precision.optimizer.param_groups[0]["lr"] == 0.03 == foreach.lr
    theirs = fused.precision.state_dict()
    for key, tensor in foreach.precision.state_dict().items():
        assert torch.allclose(tensor, theirs[key], atol=1e-6), key


def test_a_device_whose_fused_step_takes_no_tensor_gets_its_rate_from_the_host() -> None:
    def sgd(params: Any, **options: Any) -> torch.optim.Optimizer:
        if isinstance(options.get("lr"), Tensor):
            raise NotImplementedError("no kernel for _fused_sgd_.tensor_lr")
        return SGD(params, **options)

    optimizer = fused_or_foreach(sgd, CPU)([nn.Parameter(torch.zeros(2))])
    assert optimizer.defaults["fused"] and optimizer.param_groups[0]["lr"] == 0.05


def test_a_checkpoint_holds_the_rate_as_a_number_and_a_resume_has_it() -> None:
    state = make("O2")
    state.lr = 0.013
    step(state)
    cursor: Any = {"epoch": 0, "step": 1}
    saved = checkpoint.snapshot(
        state.precision, ResumeState(cursor, [state.meter.state_dict()], None), {}, World()
    )
    assert saved is not None
    assert [type(group["lr"]) for group in saved["optimizer"]["param_groups"]] == [float]
    again = make("O2")
    where = again.precision.optimizer.param_groups[0]["lr"].data_ptr()
    checkpoint.restore(saved, again.precision, CPU)
    assert again.lr == 0.013 == float(again.precision.optimizer.param_groups[0]["lr"])
    assert again.precision.optimizer.param_groups[0]["lr"].data_ptr() == where


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_a_resume_writes_all_that_a_step_changes_in_place_so_that_a_captured_step_resumes_too(
    level: str,
) -> None:
    state, other = make(level, loss_scale="dynamic"), make(level, loss_scale="dynamic")
    for each in (state, state, other):
        step(each)
    cursor: Any = {"epoch": 0, "step": 2}
    saved = checkpoint.snapshot(state.precision, ResumeState(cursor, [state.meter.state_dict()], None), {})
    assert saved is not None
    where = {name: tensor.data_ptr() for name, tensor in other.tensors().items()}
    progress = checkpoint.restore(saved, other.precision, CPU)
    other.meter.load_state_dict(*progress.meters)
    assert {name: tensor.data_ptr() for name, tensor in other.tensors().items()} == where
    for name, tensor in state.tensors().items():
        assert name in ("last loss", "overflow") or torch.equal(tensor, other.tensors()[name]), name


def test_the_parts_of_a_step_are_spans_while_a_timer_is_set() -> None:
    state = make()
    timer = state.timer = DeviceTimer(CPU)
    step(state)
    spans = timer.read()
    assert tuple(span.name for span in spans) == PARTS
    assert all(one.end_s <= other.begin_s for one, other in pairwise(spans))
    state.timer = None
    step(state)
    assert timer.read() == []


def parted(level: Any, accumulate: int, **options: Any) -> TrainState:
    """Of a network without batch norm, whose parts then make the whole's step."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)
    )
    precision = Precision(net, fused_or_foreach(SGD, CPU), level=level, device=CPU, **options)
    return TrainState(precision, Meter(CPU.torch_device, task=Classification(0.1)), accumulate)


@pytest.mark.parametrize("accumulate", [2, 3, 16, 40])
@pytest.mark.parametrize(("level", "rounding"), [("O0", 1e-6), ("O2", 2e-3)])
def test_a_batch_in_parts_makes_the_step_of_the_whole(level: str, rounding: float, accumulate: int) -> None:
    whole, parts = parted(level, 1), parted(level, accumulate)
    for _ in range(3):
        step(whole)
        step(parts)
    for one, other in zip(whole.precision._masters, parts.precision._masters, strict=True):
        assert torch.allclose(one, other, atol=rounding)
    one_read, other_read = whole.meter.read(), parts.meter.read()
    assert other_read.loss == pytest.approx(one_read.loss, abs=10 * rounding)
    assert one_read.samples == other_read.samples == 3 * 16
    assert [len(part) for part in parts.parts_of(torch.zeros(16))] == {2: [8, 8], 3: [6, 6, 4]}.get(
        accumulate, [1] * 16
    )


def test_parts_of_mixed_targets_and_an_overflow_in_one_part() -> None:
    images, labels = small_batch()
    soft = functional.one_hot(labels, 10).float()
    whole, parts = parted("O0", 1), parted("O0", 3)
    for state in (whole, parts):
        state.train_step(images, soft)
    assert parts.meter.read().loss == pytest.approx(whole.meter.read().loss, abs=1e-6)
    state = parted("O2", 4, loss_scale="dynamic")
    before = [each.detach().clone() for each in state.precision._masters]
    images[5] = torch.inf
    state.train_step(images.to(state.precision.dtype), labels)
    assert int(state.precision.skipped) == 1
    assert all(map(torch.equal, before, state.precision._masters))
