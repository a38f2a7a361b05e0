"""The cases of every accelerator on this machine's GPU, and what torch can check only on GPUs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from accelerator_cases import *  # noqa: F403 (its tests and fixtures)
from accelerator_cases import PinnedBatches, SmallAlexNet
from alexnet_fast.devices.device import Device
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.loader.device_prefetcher import DevicePrefetcher

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_torch_itself_finds_no_synchronising_call_in_a_step(device: Device, level: Any) -> None:
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)
    precision = Precision(SmallAlexNet(10), sgd, level=level, device=device)
    meter = Meter(device.torch_device)
    for k, (images, labels) in enumerate(
        DevicePrefetcher(device, precision.dtype)(PinnedBatches([8] * 12, 64))
    ):
        torch.cuda.set_sync_debug_mode("error" if k > 2 else "default")
        try:
            logits = precision.forward(images)
            loss = functional.cross_entropy(logits, labels % 10)
            precision.backward(loss)
            precision.learning_rate = 0.01
            precision.step()
            meter.add(loss, logits, labels % 10)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_its_peak_memory_is_counted(device: Device) -> None:
    held = torch.zeros(1 << 20, device=device.torch_device)
    peak = device.peak_memory_bytes()
    assert peak is not None and peak >= held.nbytes
