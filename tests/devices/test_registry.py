"""Devices by name, and the message for a missing one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import command_line
from alexnet_fast.devices.registry import resolve
from alexnet_fast.errors import UserError
from standin.build import environment


def test_the_cpu_computes_in_bfloat16_and_channels_last_and_copies_nothing() -> None:
    device = resolve("cpu")
    assert device.half_dtype is torch.bfloat16 and not device.half_needs_loss_scale
    assert device.memory_format is torch.channels_last
    assert device.is_host and not device.pin_memory and device.collective_backend == "gloo"
    assert device.name and device.peak_memory_bytes() is None and device.random_state() is None


def test_the_cpu_has_no_graphs_tries_no_fast_path_by_itself_and_takes_another_half_precision() -> None:
    device = resolve("cpu")
    assert "no graphs" in device.why_no_graph and not device.trusts_fast_paths and not device.saturates
    with pytest.raises(RuntimeError, match="no graphs"):
        device.capture(lambda: None, 1)
    other = device.with_half(torch.float16)
    assert other.half_dtype is torch.float16 and other.half_needs_loss_scale and other.kind == "cpu"


def test_auto_takes_an_accelerator_if_there_is_one() -> None:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    expected = accelerator.type if accelerator is not None and accelerator.type in ("cuda", "npu") else "cpu"
    assert resolve("auto").kind == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "auto:1", "tpu:0"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not a device: give auto, cpu, cuda or npu"):
        resolve(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_gets_one_sentence() -> None:
    with pytest.raises(UserError, match="run.device = 'cuda', but .*run.device = 'cpu'"):
        resolve("cuda")


def test_a_missing_torch_npu_gets_the_package_to_install() -> None:
    if hasattr(torch, "npu"):
        pytest.skip("torch_npu is installed here")
    with pytest.raises(
        UserError, match="torch_npu is not installed: install torch-npu 2.* and Huawei's CANN"
    ):
        resolve("npu")


def test_torch_npu_that_finds_no_npu_is_one_sentence(require: Callable[[str], Any]) -> None:
    require("compiler")
    code = "from alexnet_fast.devices.registry import resolve; assert resolve('auto').is_host; resolve('npu')"
    for hidden in ({"ASCEND_RT_VISIBLE_DEVICES": ""}, {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=command_line.environment(environment() | hidden),
            capture_output=True,
            text=True,
        )
        sentence = done.stderr.strip().splitlines()[-1]
        assert "torch_npu is installed, but it finds no usable NPU: check npu-smi info" in sentence


def test_a_driver_that_fails_says_why_in_the_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nPlease check that you have a GPU")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(
        UserError, match="no usable GPU .Found no NVIDIA driver on your system.: check nvidia-smi"
    ):
        resolve("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", fail)
    assert resolve("auto").is_host
