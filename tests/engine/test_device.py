"""Devices by name, and what a missing one says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from alexnet_fast import engine
from alexnet_fast.engine.device import resolve
from alexnet_fast.errors import UserError


def test_the_cpu_computes_in_bfloat16_and_channels_last_and_copies_nothing() -> None:
    device = resolve("cpu")
    assert device.half_dtype is torch.bfloat16 and not device.half_needs_loss_scale
    assert device.memory_format is torch.channels_last
    assert device.is_host and not device.pin_memory and device.collective_backend == "gloo"
    assert device.name and device.peak_memory_bytes() is None and device.random_state() is None


def test_auto_takes_what_is_there() -> None:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    expected = accelerator.type if accelerator is not None and accelerator.type in ("cuda", "npu") else "cpu"
    assert resolve("auto").kind == expected


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "auto:1", "tpu:0"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is no device: give auto, cpu, cuda or npu"):
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


def test_torch_npu_without_cann_is_told_from_other_failures() -> None:
    cause = OSError("libhccl.so: cannot open shared object file: No such file or directory")
    error = RuntimeError(
        "Failed to load the backend extension: torch_npu. ... TORCH_DEVICE_BACKEND_AUTOLOAD=0."
    )
    error.__cause__ = cause
    sentence = engine.why_torch_fails(error)
    assert "CANN" in sentence and "libhccl.so" in sentence and "\n" not in sentence
    assert "torch is not installed" in engine.why_torch_fails(ModuleNotFoundError("No module", name="torch"))
    assert "does not load (broken)" in engine.why_torch_fails(ImportError("broken\nmore"))


def test_a_backend_that_breaks_import_torch_ends_the_command_with_one_sentence(tmp_path) -> None:
    """torch autoloads any package with a torch.backends entry point; this one fails as torch_npu does."""
    info = tmp_path / "torch_npu-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch-npu\nVersion: 2.13.0\n")
    (info / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:autoload\n")
    (tmp_path / "torch_npu.py").write_text("raise OSError('libhccl.so: cannot open shared object file')\n")
    command = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['train', 'x.toml']\n"
    command += "import runpy; runpy.run_module('alexnet_fast.train', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "CANN" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_half_is_float16_and_copies_are_pinned() -> None:
    device = resolve("cuda")
    device.use()
    assert device.half_dtype is torch.float16 and device.pin_memory and device.collective_backend == "nccl"
