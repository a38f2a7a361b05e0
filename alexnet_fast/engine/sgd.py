"""SGD's step without a wait, on every device: torch's fused one where it reads nothing on the host, else one of our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..devices.device import Device
from .optimizers import Params


class MaskedSGD(torch.optim.SGD):
    """torch's SGD in foreach operations that read all they need on the device: learning rate and overflow too.

    Gives the bits of torch's fused kernel, but for the last few numbers of a tensor whose length is no multiple of a CPU's
    vector (n = 15 at most), which that kernel rounds once less.

    found_inf: a float32 scalar on the device, set by whoever steps; where it is above 0, weights and momenta keep their bits.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, params: Params, lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        given: list[Any] = list(params)
        first = given[0]["params"][0] if isinstance(given[0], dict) else given[0]
        rate = torch.full((), float(lr), device=first.device)
        options: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(given, lr=rate, foreach=True, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            gradients: list[Tensor] = [param.grad for param in params]
            decay, momentum = group["weight_decay"], group["momentum"]
            if decay:
                gradients = list(torch._foreach_add(gradients, params, alpha=decay))
            if momentum:
                momenta = [self._momentum(param) for param in params]
                moved = torch._foreach_mul(momenta, momentum)
                torch._foreach_add_(moved, gradients)
                updates = torch._foreach_add(gradients, moved, alpha=momentum) if group["nesterov"] else moved
                self._keep(momenta, moved)
            else:
                updates = tuple(gradients)
            # One rate for all, by its address: a number would be read on the host.
            self._keep(params, torch._foreach_addcmul(params, updates, [group["lr"].neg()] * len(params)))

    def _momentum(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(param)
        momentum: Tensor = state["momentum_buffer"]
        return momentum

    def _keep(self, olds: list[Tensor], news: list[Tensor] | tuple[Tensor, ...]) -> None:
        """Write the new values over the old, unless a gradient overflowed.

        A choice, not a product: 0 times what overflowed is not a number.
        """
        if self.found_inf is None:
            torch._foreach_copy_(olds, news)
            return
        overflowed = self.found_inf > 0
        for old, new in zip(olds, news, strict=True):
            torch.where(overflowed, old, new, out=old)


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's step skips itself by `found_inf`, a tensor on the device."""
    return isinstance(optimizer, MaskedSGD) or bool(optimizer.defaults.get("fused"))


def fused_or_foreach(
    optimizer: Callable[..., torch.optim.Optimizer], device: Device
) -> Callable[[Params], torch.optim.Optimizer]:
    """`optimizer`, torch's SGD with its settings, with its fused step where the device has one that waits for nothing; else MaskedSGD.

    The dispatcher knows whether there is a kernel: torch_npu 2.9 to 2.12 have none, but their steps fall back to the CPU, with
    a warning, and take 60 to 300 ms; that of 2.13 reads on the host whether there was an overflow (Device.fused_sgd_waits).
    A backend may still refuse what its kernel is asked, so one number is stepped.
    The fused step reads its learning rate from a tensor on the device, where its kernel is able to: float64 on a CPU, whose
    kernel makes a Python number of it, float32 elsewhere, as CUDA's wants it.
    """
    number = nn.Parameter(torch.zeros(1, device=device.torch_device))
    number.grad = torch.zeros_like(number)
    settings = optimizer([number]).defaults
    rate = settings["lr"]

    def with_rate_on_device(params: Params) -> torch.optim.Optimizer:
        dtype = torch.float64 if device.is_host else torch.float32
        return optimizer(params, fused=True, lr=torch.tensor(rate, dtype=dtype, device=device.torch_device))

    if has_fused_sgd(device):
        for fused in (with_rate_on_device, partial(optimizer, fused=True)):
            try:
                fused([number]).step()
            except RuntimeError:  # NotImplementedError is one
                continue
            return fused
    own = {name: settings[name] for name in ("lr", "momentum", "nesterov", "weight_decay")}
    return partial(MaskedSGD, **own)


def has_fused_sgd(device: Device) -> bool:
    """Whether torch has a fused SGD kernel for the device that waits for nothing."""
    if device.fused_sgd_waits:
        return False
    key = torch._C._dispatch_key_for_device(device.torch_device.type)
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_sgd_", key))
