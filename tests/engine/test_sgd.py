"""The optimizer's step that waits for nothing: torch's bits, and none changed by an overflow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_fast.devices.cpu import Cpu
from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine.sgd import MaskedSGD, fused_or_foreach, has_fused_sgd

CPU = resolve("cpu")
SIZES = (
    (64, 3, 11, 11),
    (64,),
    (160, 96),
    (96,),
)  # multiples of a CPU's vector, as AlexNet's are; see MaskedSGD


def tensors(seed: int, scale: float = 0.01) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(size, generator=generator) for size in SIZES]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(each.clone()) for each in tensors(0)]


def momenta(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> list[Tensor]:
    return [optimizer.state[param]["momentum_buffer"] for param in params]


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_it_gives_the_bits_of_torchs_fused_step(momentum: float, nesterov: bool, weight_decay: float) -> None:
    mine, theirs = parameters(), parameters()
    options: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    masked = MaskedSGD(mine, lr=0.1, **options)
    fused = torch.optim.SGD(theirs, lr=0.1, fused=True, **options)
    for number, rate in enumerate((0.1, 0.037, 0.5, 0.013)):
        masked.param_groups[0]["lr"].fill_(rate)
        fused.param_groups[0]["lr"] = rate
        for one, other, gradient in zip(mine, theirs, tensors(1 + number), strict=True):
            one.grad, other.grad = gradient.clone(), gradient.clone()
        masked.step()
        fused.step()
        assert all(map(torch.equal, mine, theirs)), number
        assert not momentum or all(map(torch.equal, momenta(masked, mine), momenta(fused, theirs)))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_an_overflow_leaves_every_bit_of_weights_and_momenta(number: float) -> None:
    params = parameters()
    masked = MaskedSGD(params, lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4)
    masked.found_inf = torch.zeros(())
    for param, gradient in zip(params, tensors(1), strict=True):
        param.grad = gradient
    with torch.no_grad():
        params[1][0] = -0.0  # a bit that a product or a sum would lose
    masked.step()
    with torch.no_grad():
        params[1][0] = -0.0
    before = [each.detach().clone() for each in (*params, *momenta(masked, params))]
    masked.found_inf.fill_(1)
    assert params[0].grad is not None
    params[0].grad.fill_(number)
    masked.step()
    for old, new in zip(before, (*params, *momenta(masked, params)), strict=True):
        assert torch.equal(old.view(torch.int32), new.detach().view(torch.int32))


class NothingReadOnTheHost(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert op is not torch.ops.aten._local_scalar_dense.default, "a number is read on the host"
        return op(*args, **(kwargs or {}))


def test_its_step_reads_nothing_on_the_host_and_torchs_foreach_under_an_overflow_check_does() -> None:
    params = parameters()
    masked = MaskedSGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    masked.found_inf = torch.zeros(())
    for param, gradient in zip(params, tensors(1), strict=True):
        param.grad = gradient
    with NothingReadOnTheHost():
        masked.step()
        with pytest.raises(AssertionError, match="read on the host"):
            masked.found_inf.item()


def test_its_state_is_torchs_sgds() -> None:
    params, others = parameters(), parameters()
    masked = MaskedSGD(params, lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4)
    for param, gradient in zip(params, tensors(1), strict=True):
        param.grad = gradient
    masked.step()
    theirs = torch.optim.SGD(others, lr=0.1, momentum=0.9)
    theirs.load_state_dict(masked.state_dict())
    assert all(map(torch.equal, momenta(masked, params), momenta(theirs, others)))


class Waits(Cpu):
    """A device as the NPU of torch_npu 2.13: it has the kernel, which reads on the host."""

    fused_sgd_waits = True


def test_a_device_whose_kernel_is_missing_or_waits_gets_our_own_step_with_the_recipes_settings() -> None:
    sgd = partial(torch.optim.SGD, lr=0.3, momentum=0.9, nesterov=True, weight_decay=1e-3)
    assert has_fused_sgd(CPU) and not has_fused_sgd(Waits())
    assert not has_fused_sgd(
        replace(CPU, torch_device=torch.device("privateuseone"))
    )  # no kernel is registered
    optimizer = fused_or_foreach(sgd, Waits())([nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, MaskedSGD)
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-3)
    assert isinstance(group["lr"], Tensor) and float(group["lr"]) == pytest.approx(0.3)
    assert type(fused_or_foreach(sgd, CPU)([nn.Parameter(torch.zeros(2))])) is torch.optim.SGD
