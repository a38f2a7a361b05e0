"""The optimizer as one kernel: half gradients, masters, momenta and half weights, each read and written once.

Needs triton, so import it only where that is.  Floor on an H100: 0.41 ms for AlexNet's 1.22 GB; casts, check, torch's fused step
and the copy back take 1.0 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .loss_scale import LossScale
from .optimizers import group_of

BLOCK = 4096


@triton.jit
def _look(gradient, found, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Set `found` to 1 if a number of `gradient` is not finite."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    number = tl.load(gradient + at, at < count, other=0.0).to(tl.float32)
    # A comparison with NaN is false.
    broken = tl.max(tl.where(tl.abs(number) < float("inf"), 0, 1), axis=0)
    tl.store(found, 1.0, mask=broken > 0)  # whoever finds one writes the same


@triton.jit
def _step(  # type: ignore[no-untyped-def]
    gradient,
    master,
    momentum,
    half,
    rate,
    scale,
    found,
    mu,
    decay,
    count,
    NESTEROV: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One step of SGD; writes nothing where `found` is above 0."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < tl.where(tl.load(found) > 0, 0, count)
    weight = tl.load(master + at, inside, other=0.0)
    moved = tl.load(momentum + at, inside, other=0.0)
    change = tl.load(gradient + at, inside, other=0.0).to(tl.float32) * (1.0 / tl.load(scale))
    change += decay * weight
    moved = mu * moved + change
    update = change + mu * moved if NESTEROV else moved
    weight -= tl.load(rate) * update
    tl.store(momentum + at, moved, inside)
    tl.store(master + at, weight, inside)
    tl.store(half + at, weight.to(half.dtype.element_ty), inside)


class TritonUpdate:
    """O2's step behind the gradients, as Precision.update wants it: looks for overflows, steps, rounds to half.

    halves: the model's parameters.  masters: float32, laid out as they are.  optimizer: torch's SGD over the masters with
        momenta, whose state it keeps, and whose rate is a float32 tensor on the device.
    """

    def __init__(
        self,
        halves: Sequence[Tensor],
        masters: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        scaler: LossScale,
    ) -> None:
        self._halves, self._masters, self._optimizer, self._scaler = halves, masters, optimizer, scaler
        for half, master in zip(halves, masters, strict=True):
            # They are read as flat memory.
            assert half.stride() == master.stride() and torch.ops.aten.is_non_overlapping_and_dense(half)
        self._used_scale = scaler.inverse()

    @torch.no_grad()
    def __call__(self) -> None:
        scaler, groups = self._scaler, group_of(self._optimizer)
        gradients = [self._laid_out(half) for half in self._halves]
        if scaler.is_enabled():
            scaler.found_inf.zero_()
            for gradient in gradients:
                count = gradient.numel()
                _look[(triton.cdiv(count, BLOCK),)](gradient, scaler.found_inf, count, BLOCK=BLOCK)
            scaler.share()
        self._used_scale.copy_(scaler.inverse())
        for gradient, half, master in zip(gradients, self._halves, self._masters, strict=True):
            count, group = master.numel(), groups[id(master)]
            _step[(triton.cdiv(count, BLOCK),)](
                gradient,
                master,
                self._optimizer.state[master]["momentum_buffer"],
                half,
                group["lr"],
                scaler.tensors()[0],
                scaler.found_inf,
                group["momentum"],
                group["weight_decay"],
                count,
                NESTEROV=group["nesterov"],
                BLOCK=BLOCK,
            )

    def gradients(self) -> list[Tensor]:
        """Float32 copies of the gradients of the last step, unscaled."""
        return [half.grad.float() * self._used_scale for half in self._halves if half.grad is not None]

    def _laid_out(self, half: Tensor) -> Tensor:
        """The parameter's gradient in the parameter's memory format, as autograd makes it."""
        assert half.grad is not None, "a parameter has no gradient"
        if half.grad.stride() != half.stride():
            half.grad = torch.empty_like(half).copy_(half.grad)
        gradient: Tensor = half.grad
        return gradient
