"""The optimizers: torch's SGD (sgd.py) and AdamW, what each keeps for a parameter, and what one step makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..devices.device import Device

Params = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
"""Parameters, or torch's parameter groups."""

SGD_SLOTS = {"momentum_buffer": "momentum"}
ADAMW_SLOTS = {"step": "steps", "exp_avg": "first moment", "exp_avg_sq": "second moment"}


def slots(optimizer: torch.optim.Optimizer) -> Mapping[str, str]:
    """What it keeps of each parameter: keys of its state, and their names in words."""
    if isinstance(optimizer, torch.optim.AdamW):
        return ADAMW_SLOTS
    return SGD_SLOTS if optimizer.defaults["momentum"] else {}


def fresh(optimizer: torch.optim.Optimizer, slot: str, param: Tensor) -> Tensor:
    """Zeros, as a first step needs them: a count is a float32 number, on the device where the step is fused; all else is laid out as the
    parameter."""
    if slot != "step":
        return torch.zeros_like(param)
    return torch.zeros((), device=param.device if optimizer.defaults["fused"] else "cpu")


def groups(params: Sequence[nn.Parameter], names: Sequence[str], undecayed: set[str]) -> list[dict[str, Any]]:
    """The optimizer's groups: the parameters, those of `undecayed` names in one of their own without weight decay."""
    decays = {True: list[nn.Parameter](), False: list[nn.Parameter]()}
    for name, param in zip(names, params, strict=True):
        decays[name not in undecayed].append(param)
    if not decays[False] or not decays[True]:
        return [{"params": list(params)} | ({"weight_decay": 0.0} if decays[False] else {})]
    return [{"params": decays[True]}, {"params": decays[False], "weight_decay": 0.0}]


def group_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Each parameter's group, by the parameter's id."""
    return {id(param): group for group in optimizer.param_groups for param in group["params"]}


def expected(
    optimizer: torch.optim.Optimizer,
    group: Mapping[str, Any],
    old: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    rate: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What one step makes of a weight, a gradient and the state before it: the step that is taken off, and the state after it.

    For the proof of the fast paths: written for reading, not for speed.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        return _adamw(group, old, gradient, state, rate)
    update = gradient + group["weight_decay"] * old
    if "momentum_buffer" not in state:
        return rate * update, {}
    moved = group["momentum"] * state["momentum_buffer"] + update
    update = update + group["momentum"] * moved if group["nesterov"] else moved
    return rate * update, {"momentum_buffer": moved}


def _adamw(
    group: Mapping[str, Any], old: Tensor, gradient: Tensor, state: Mapping[str, Tensor], rate: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2."""
    one, two = group["betas"]
    steps = state["step"] + 1
    first = one * state["exp_avg"] + (1 - one) * gradient
    second = two * state["exp_avg_sq"] + (1 - two) * gradient.square()
    at = float(steps)
    root = (second / (1 - two**at)).sqrt() + group["eps"]
    change = rate * (first / (1 - one**at) / root + group["weight_decay"] * old)
    return change, {"step": steps, "exp_avg": first, "exp_avg_sq": second}


def adamw(
    device: Device, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Callable[[Params], torch.optim.Optimizer]:
    """torch's AdamW, fused where the device has a kernel that skips an overflowing step by itself; else torch's foreach one, whose
    overflows are read on the host.

    The fused step reads its rate from a tensor on the device where its kernel is able to, as SGD's (sgd.fused_or_foreach).
    """
    plain = partial(torch.optim.AdamW, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    place = device.torch_device
    dtype = torch.float64 if device.is_host else torch.float32

    def with_rate_on_device(params: Params) -> torch.optim.Optimizer:
        rate = torch.tensor(lr, dtype=dtype, device=place)
        # Capturable: a graph refuses it otherwise.  The fused kernel is the same.
        return torch.optim.AdamW(
            params, lr=rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True, capturable=not device.is_host
        )  # fmt: skip

    key = torch._C._dispatch_key_for_device(place.type)
    if not device.fused_sgd_waits and torch._C._dispatch_has_kernel_for_dispatch_key(
        "aten::_fused_adamw_", key
    ):
        for fused in (with_rate_on_device, partial(plain, fused=True)):
            number = nn.Parameter(torch.zeros(1, device=place))
            number.grad = torch.zeros_like(number)
            try:
                fused([number]).step()
            except RuntimeError:  # NotImplementedError is one
                continue
            return fused
    return partial(plain, foreach=True)
