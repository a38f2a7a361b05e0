"""A small network whose first convolution can compute over blocks of pixels, as a training state; run as a script, its compiled step.

PYTHONPATH=.:tests python tests/blocked_network.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine.fast_paths import prove
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.sgd import MaskedSGD, fused_or_foreach
from alexnet_fast.engine.tasks import Classification
from alexnet_fast.engine.train_state import TrainState
from alexnet_fast.models.space_to_depth import BlockedConv2d

CPU = resolve("cpu")
BATCH, SIZE, CLASSES = 8, 24, 10


def net(outputs: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        BlockedConv2d(3, 16, 7, stride=4, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(144, outputs),
    )


def make(level: Any = "O2", device: Any = CPU, masked: bool = False, **settings: Any) -> TrainState:
    settings = {"lr": 0.01, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4} | settings
    sgd = (
        partial(MaskedSGD, **settings)
        if masked
        else fused_or_foreach(partial(torch.optim.SGD, **settings), device)
    )
    precision = Precision(net(), sgd, level=level, device=device, loss_scale="dynamic")
    return TrainState(precision, Meter(device.torch_device, task=Classification(label_smoothing=0.1)))


def a_compiled_step_agrees_and_a_smaller_batch_runs_without() -> None:
    """Compiling leaves threads and settings, so it has a process of its own."""
    state = make("O2")
    lines: list[str] = []
    (verdict,) = prove(state, ["compile"], BATCH, SIZE, CLASSES, say=lines.append)
    assert verdict.agrees, verdict
    assert "compiling takes some 30 s" in lines[0]
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    assert state.compiles(images) and not state.compiles(images[:3])
    for part in (images, images[:3]):
        state.train_step(part, torch.arange(len(part)))
    assert state.meter.read().samples == BATCH + 3


if __name__ == "__main__":
    a_compiled_step_agrees_and_a_smaller_batch_runs_without()
