"""Our Triton kernel in Triton's interpreter, on a CPU: proven, and caught where it is wrong on purpose.

    TRITON_INTERPRET=1 PYTHONPATH=.:tests python tests/interpreted_kernel.py

float16 only: the interpreter of triton 3.9 cuts a bfloat16 off where a GPU rounds it.
"""

from __future__ import annotations

from typing import Any

import torch

from alexnet_fast.devices.cpu import Cpu
from alexnet_fast.engine import triton_sgd
from alexnet_fast.engine.fast_paths import Choices, planned, prove
from blocked_network import BATCH, CLASSES, SIZE, make


class Interpreting(Cpu):
    runs_triton = True


class Forgetful(triton_sgd.TritonUpdate):
    """It loses weight decay."""

    def __call__(self) -> None:
        (group,) = self._optimizer.param_groups
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        super().__call__()
        group["weight_decay"] = decay


class Blind(triton_sgd.TritonUpdate):
    """It ignores overflows."""

    def __call__(self) -> None:
        enabled, self._scaler._enabled = self._scaler._enabled, False
        super().__call__()
        self._scaler._enabled = enabled


def verdict(kind: Any, **settings: Any) -> Any:
    triton_sgd.TritonUpdate = kind  # type: ignore[misc]
    state = make("O2", Interpreting().with_half(torch.float16), masked=True, **settings)
    assert planned(Choices(fused_optimizer=True), state)["fused_optimizer"].on
    (found,) = prove(state, ["fused_optimizer"], BATCH, SIZE, CLASSES)
    assert (state.precision.update is None) != found.agrees
    return found


if __name__ == "__main__":
    triton_sgd.BLOCK = 256  # several to a tensor
    right = triton_sgd.TritonUpdate
    for settings in ({}, {"nesterov": True}, {"weight_decay": 0.0}):
        assert (found := verdict(right, **settings)).agrees, (settings, found)
    assert "the momentum of" in verdict(Forgetful).why
    assert "overflow" in (found := verdict(Blind)).why or "masters" in found.why, found
