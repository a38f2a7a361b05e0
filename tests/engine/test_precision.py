"""Levels: what is half, what is float32, and what an overflow does."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine.loss_scale import LARGEST_SCALE
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.sgd import fused_or_foreach
from alexnet_fast.errors import UserError
from alexnet_fast.models.alexnet import AlexNet
from poison import poisoned_memory
from small_network import small_batch, small_net

CPU = resolve("cpu")
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4, fused=True)


def make(level: Any, **options: Any) -> Precision:
    return Precision(small_net(), SGD, level=level, device=CPU, **options)


def train(precision: Precision, steps: int, lr: float = 0.05) -> list[float]:
    images, labels = small_batch()
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels)
        precision.backward(loss)
        precision.learning_rate = lr
        precision.step()
        losses.append(loss.item())
    return losses


def overflow(precision: Precision) -> None:
    """One step whose gradients are not finite."""
    images, labels = small_batch()
    loss = functional.cross_entropy(precision.forward(images.to(precision.dtype)), labels)
    precision.backward(loss * torch.inf)
    precision.learning_rate = 0.05
    precision.step()


def test_o0_is_plain_torch_to_the_bit() -> None:
    net = small_net().to(memory_format=torch.channels_last)
    optimizer = SGD(net.parameters())
    images, labels = small_batch()
    expected = []
    for _ in range(5):
        loss = functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    precision = make("O0")
    assert train(precision, 5) == expected
    for key, tensor in net.state_dict().items():
        assert torch.equal(precision.state_dict()[key], tensor), key


def test_o2_halves_all_but_affine_batch_norms_and_steps_float32() -> None:
    precision = make("O2")
    kinds = {name: param.dtype for name, param in precision.model.named_parameters()}
    assert kinds == {
        "0.weight": torch.bfloat16, "0.bias": torch.bfloat16, "1.weight": torch.float32,
        "1.bias": torch.float32, "5.weight": torch.bfloat16, "5.bias": torch.bfloat16,
    }  # fmt: skip
    assert precision.model[1].running_mean.dtype is torch.float32
    assert {p.dtype for group in precision.optimizer.param_groups for p in group["params"]} == {torch.float32}
    images, _ = small_batch()
    assert precision.forward(images.to(precision.dtype)).dtype is torch.float32


def test_o2_keeps_what_is_too_small_for_half_weights() -> None:
    precision = make("O2")
    before = precision.state_dict()["5.weight"].clone()
    train(precision, 1, lr=1e-6)
    after = precision.state_dict()["5.weight"]
    assert (before.bfloat16() == after.bfloat16()).float().mean() > 0.95
    assert (before == after).float().mean() < 0.5


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("loss_scale", ["auto", "dynamic", 128.0])
def test_half_follows_the_float32_losses(level: str, loss_scale: str | float) -> None:
    losses, expected = train(make(level, loss_scale=loss_scale), 30), train(make("O0"), 30)
    assert losses == pytest.approx(expected, rel=0.02, abs=0.02)
    assert losses[-1] < 0.6 * losses[0]


def test_a_saved_state_is_float32_and_loads_to_the_same_weights() -> None:
    precision = make("O2")
    train(precision, 3)
    state = precision.state_dict()
    floating = [tensor for tensor in state.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float32} and all(
        t.is_contiguous() for t in floating
    )
    other = make("O2")
    other.load_state_dict(state)
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    for mine, loaded in zip(precision.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, loaded)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflow_halves_a_dynamic_scale_and_its_step_is_skipped_and_counted(level: str) -> None:
    precision = make(level, loss_scale="dynamic")
    train(precision, 1)
    before, scale = (
        {k: v.clone() for k, v in precision.state_dict().items() if "running" not in k},
        precision.scale,
    )
    overflow(precision)
    assert precision.scale == scale / 2 and precision.figures()["skipped_steps"] == 1
    after = precision.state_dict()
    for key in before:
        if key != "1.num_batches_tracked":
            assert torch.equal(before[key], after[key]), key
    train(precision, 1)
    assert not torch.equal(before["5.weight"], precision.state_dict()["5.weight"])


def momenta(precision: Precision) -> list[Tensor]:
    return [precision.optimizer.state[master]["momentum_buffer"] for master in precision._masters]


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("loss_scale", ["dynamic", 128.0])
@pytest.mark.parametrize(
    "how", [{"fused": True}, {"fused": True, "nesterov": True}, {"foreach": True}], ids=str
)
def test_where_the_first_steps_overflow_the_run_is_the_one_that_begins_behind_them(
    level: Any, loss_scale: Any, how: dict[str, Any]
) -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4, **how)
    one, other = (
        Precision(small_net(), sgd, level=level, device=CPU, loss_scale=loss_scale) for _ in range(2)
    )
    with poisoned_memory():
        for _ in range(2):
            overflow(one)
        assert int(one.skipped) == 2 and not any(momentum.any() for momentum in momenta(one))
        assert train(one, 3) == train(other, 3)
    assert all(map(torch.equal, momenta(one), momenta(other)))
    assert all(map(torch.equal, one._masters, other._masters))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}], ids=str)
def test_momenta_that_begin_as_zeros_take_the_steps_of_torchs_own_to_the_bit(
    nesterov: bool, how: dict[str, Any]
) -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=nesterov, **how)
    ours = Precision(small_net(), sgd, level="O0", device=CPU)
    net = small_net().to(memory_format=torch.channels_last)
    optimizer, (images, labels) = sgd(net.parameters()), small_batch()
    for _ in range(3):
        train(ours, 1)
        optimizer.zero_grad()
        functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        for mine, param, momentum in zip(ours._masters, net.parameters(), momenta(ours), strict=True):
            assert torch.equal(mine, param)
            assert torch.equal(momentum, optimizer.state[param]["momentum_buffer"])
            assert momentum.stride() == param.stride()


def test_without_momentum_there_are_no_momenta() -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, fused=True)
    precision = Precision(small_net(), sgd, level="O2", device=CPU)
    train(precision, 1)
    assert not precision.optimizer.state_dict()["state"]


def test_an_overflow_leaves_a_static_scale_as_it_is() -> None:
    precision = make("O2", loss_scale=512.0)
    overflow(precision)
    assert precision.scale == 512 and int(precision.skipped) == 1


def test_a_dynamic_scale_begins_at_2_to_the_16_and_doubles_after_2000_clean_steps_up_to_2_to_the_24() -> None:
    precision = make("O2", loss_scale="dynamic")
    train(precision, 1)
    assert precision.scale == 2**16
    for scale in (2.0**16, 2.0**23, LARGEST_SCALE):
        precision.scaler.load_state_dict(
            precision.scaler.state_dict() | {"scale": scale, "_growth_tracker": 1998}
        )
        train(precision, 1)
        assert precision.scale == scale
        train(precision, 1)
        assert precision.scale == min(2 * scale, LARGEST_SCALE)


def test_bfloat16_needs_no_scale_unless_asked() -> None:
    assert make("O2").scale == 1 and make("O1").scale == 1 and make("O0", loss_scale="dynamic").scale == 1


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_alexnet_learns_a_batch_at_every_level(level: Any) -> None:
    torch.manual_seed(0)
    precision = Precision(AlexNet(4, dropout=0.0), SGD, level=level, device=CPU)
    images, labels = torch.randn(4, 3, 64, 64).to(precision.dtype), torch.arange(4)
    images = images.contiguous(memory_format=torch.channels_last)
    losses = []
    for _ in range(6):
        loss = functional.cross_entropy(precision.forward(images), labels)
        precision.backward(loss)
        precision.learning_rate = 0.01
        precision.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_the_step_is_fused_where_the_device_has_it_and_foreach_elsewhere() -> None:
    params = [nn.Parameter(torch.zeros(2))]
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    assert fused_or_foreach(sgd, CPU)(params).defaults["fused"] is True
    lacking = replace(CPU, torch_device=torch.device("meta"))
    optimizer = fused_or_foreach(sgd, lacking)(params)
    assert (optimizer.defaults["fused"], optimizer.defaults["foreach"]) == (None, True)


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflow_is_skipped_and_counted_by_a_foreach_step_too(level: Any) -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, foreach=True)
    precision = Precision(small_net(), sgd, level=level, device=CPU, loss_scale="dynamic")
    before, scale = precision.state_dict()["5.weight"].clone(), precision.scale
    overflow(precision)
    assert torch.equal(precision.state_dict()["5.weight"], before)
    assert precision.scale == scale / 2 and int(precision.skipped) == 1


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_a_parameter_that_no_loss_reaches_is_left_where_it_is(level: Any) -> None:
    net = small_net()
    net.add_module("6", nn.Identity())
    net[6].register_parameter("unused", nn.Parameter(torch.ones(3)))
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)
    precision = Precision(net, sgd, level=level, device=CPU)
    precision.keeps_gradients = True
    train(precision, 2)
    assert torch.equal(precision.state_dict()["6.unused"], torch.ones(3))
    assert len(precision.gradients()) == 7 and not precision.gradients()[-1].any()


def test_foreign_weights_are_refused_by_name() -> None:
    precision = make("O2")
    state = precision.state_dict()
    with pytest.raises(UserError, match="lack '5.bias'"):
        precision.load_state_dict({key: tensor for key, tensor in state.items() if key != "5.bias"})
    with pytest.raises(UserError, match="hold 'extra'"):
        precision.load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(
        UserError, match=r"'5.bias' has shape \(7,\), but the model's is \(10,\).*num_classes"
    ):
        precision.load_state_dict({**state, "5.bias": torch.zeros(7)})


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_float16_is_a_choice_that_scales_the_loss_and_bfloat16_one_that_does_not(level: Any) -> None:
    for dtype, scale in ((torch.float16, 2.0**16), (torch.bfloat16, 1.0)):
        device = CPU.with_half(dtype)
        precision = Precision(small_net(), SGD, level=level, device=device)
        assert precision.scale == scale and precision.scaler.is_enabled() == (scale > 1)
        assert level == "O1" or {p.dtype for p in precision.model.parameters()} == {dtype, torch.float32}
        losses, expected = train(precision, 30), train(make("O0"), 30)
        assert losses == pytest.approx(expected, rel=0.05, abs=0.05)
