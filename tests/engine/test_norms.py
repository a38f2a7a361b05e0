"""Norm layers at O2: float32 among half weights; and which parameters do not decay."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine.norms import is_norm, statistics, undecayed
from alexnet_fast.engine.optimizers import groups
from alexnet_fast.engine.precision import Precision

CPU = resolve("cpu")
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


class RmsNorm(nn.Module):
    """A norm layer of another package, which torch does not know, and whose products want one dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, values: Tensor) -> Tensor:
        assert values.dtype is self.weight.dtype
        return values * values.pow(2).mean(-1, keepdim=True).rsqrt() * self.weight


class Flat(nn.Module):
    """(B, 3, H, W) -> (B, 6) through a norm layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.batch = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.instance, self.group = nn.InstanceNorm2d(6, affine=True), nn.GroupNorm(2, 6)
        self.layer, self.rms, self.head = nn.LayerNorm(6), RmsNorm(), nn.Linear(6, 6)
        self.token = nn.Parameter(torch.zeros(1, 6))

    def forward(self, images: Tensor) -> Tensor:
        made = self.group(self.instance(self.batch(self.convolution(images))))
        assert made.dtype is images.dtype
        flat = self.rms(self.layer(made.relu().mean((2, 3)) + self.token))
        assert flat.dtype is images.dtype
        out: Tensor = self.head(flat)
        return out

    def no_weight_decay(self) -> set[str]:
        return {"token"}


def flat() -> Flat:
    torch.manual_seed(0)
    return Flat()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_layers_of_every_kind_stay_float32_and_take_and_give_halves(dtype: torch.dtype) -> None:
    precision = Precision(flat(), SGD, level="O2", device=CPU.with_half(dtype))
    kinds = {name: param.dtype for name, param in precision.model.named_parameters()}
    halves = {"convolution.weight", "convolution.bias", "head.weight", "head.bias", "token"}
    assert {name for name, kind in kinds.items() if kind is dtype} == halves
    assert {kind for name, kind in kinds.items() if name not in halves} == {torch.float32}
    assert all(each.dtype is not dtype for each in statistics(precision.model))
    images = torch.randn(4, 3, 8, 8)
    expected = Precision(flat(), SGD, level="O0", device=CPU).forward(images)
    outputs = precision.forward(images.to(dtype))
    assert torch.allclose(outputs, expected, atol=0.25)
    precision.backward(outputs.square().mean())
    precision.learning_rate = 0.1
    precision.step()
    state = precision.state_dict()
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    flat().load_state_dict(state, strict=True)


def test_a_block_that_is_called_a_norm_is_none() -> None:
    class Normed(nn.Sequential):
        pass

    assert not is_norm(Normed(nn.LayerNorm(3))) and not is_norm(nn.LayerNorm(3, elementwise_affine=False))
    assert is_norm(nn.BatchNorm2d(3, affine=False)) and is_norm(nn.RMSNorm(3))


def test_norms_biases_and_what_a_network_names_itself_do_not_decay() -> None:
    every = {name for name, _ in flat().named_parameters()}
    assert every - undecayed(flat()) == {"convolution.weight", "head.weight"}


def test_the_step_of_parameters_without_decay_has_none() -> None:
    """With gradients of zero a step is the decay alone."""

    def stepped(decays_all: bool, make: Any) -> dict[str, Tensor]:
        precision = Precision(flat(), make, level="O2", device=CPU, decays_all=decays_all)
        precision.backward(0 * precision.forward(torch.ones(2, 3, 8, 8, dtype=precision.dtype)).sum())
        precision.learning_rate = 0.5
        precision.step()
        return precision.state_dict()

    before = flat().state_dict()
    nonzero = {name for name, value in before.items() if value.is_floating_point() and value.any()} - {
        "batch.running_var"
    }
    for how in ({"fused": True}, {"foreach": True}):
        make = partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=0.1, **how)
        for decays_all, still in ((True, set()), (False, undecayed(flat()) & nonzero)):
            after = stepped(decays_all, make)
            assert {name for name in nonzero if torch.equal(before[name], after[name])} == still


def test_groups_have_every_parameter_once_in_the_models_order() -> None:
    params = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    one, other = groups(params, list("abcd"), {"b", "d"})
    assert [id(each) for each in one["params"]] == [id(params[0]), id(params[2])]
    assert [id(each) for each in other["params"]] == [id(params[1]), id(params[3])] and other[
        "weight_decay"
    ] == 0
    assert [len(each["params"]) for each in groups(params, list("abcd"), set())] == [4]
    (all_without,) = groups(params, list("abcd"), set("abcd"))
    assert all_without["weight_decay"] == 0 and len(all_without["params"]) == 4
