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
from accelerator_cases import PinnedBatches, SmallAlexNet, state_after, train_state
from alexnet_fast.devices.device import Device
from alexnet_fast.engine.fast_paths import NAMES, Choices, prove, use
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


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_every_fast_path_agrees_with_the_plain_step(device: Device, half: torch.dtype) -> None:
    pytest.importorskip("triton")
    state = train_state(device.with_half(half))
    paths = use(state, Choices(*[True] * 4), 8, 64, 10, evaluation=(8, 64))
    assert set(paths.on) == set(NAMES) and not paths.notes, paths
    after = state_after(state, [8, 8, 8, 3], 1)
    assert int(after["skipped steps"]) == (half is torch.float16)
    plain = state_after(train_state(device.with_half(half)), [8, 8, 8, 3], 1)
    for name, tensor in plain.items():
        assert torch.allclose(after[name].float(), tensor.float(), rtol=0.1, atol=1e-3), name


def test_a_kernel_that_forgets_weight_decay_or_overflows_is_caught(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton_sgd = pytest.importorskip("alexnet_fast.engine.triton_sgd")

    class Forgetful(triton_sgd.TritonUpdate):  # type: ignore[misc, name-defined]
        def __call__(self) -> None:
            (group,) = self._optimizer.param_groups
            decay, group["weight_decay"] = group["weight_decay"], 0.0
            super().__call__()
            group["weight_decay"] = decay

    class Blind(triton_sgd.TritonUpdate):  # type: ignore[misc, name-defined]
        def __call__(self) -> None:
            enabled, self._scaler._enabled = self._scaler._enabled, False
            super().__call__()
            self._scaler._enabled = enabled

    for wrong in (Forgetful, Blind):
        monkeypatch.setattr(triton_sgd, "TritonUpdate", wrong)
        state = train_state(device)
        (verdict,) = prove(state, ["fused_optimizer"], 8, 64, 10)
        assert not verdict.agrees and state.precision.update is None, wrong


def test_float32_is_computed_without_tf32(device: Device) -> None:
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_its_peak_memory_is_counted(device: Device) -> None:
    held = torch.zeros(1 << 20, device=device.torch_device)
    peak = device.peak_memory_bytes()
    assert peak is not None and peak >= held.nbytes
