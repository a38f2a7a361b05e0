"""Huawei's Ascend NPUs, by torch_npu.

The facts are from the sources of torch_npu 2.13: half precision is float16; `channels_last` does not exist ("Only
c10::MemoryFormat::Contiguous is supported"); the collective backend is hccl; a fused SGD kernel exists from 2.13 on, and reads
on the host, in every step, whether there was an overflow; cards of the first generation (910A), and later ones with INF_NAN mode
off, saturate.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import ClassVar

import torch

from .accelerator import Accelerator, why_unusable
from .facts import NPU, DeviceFacts


@dataclass(frozen=True)
class Npu(Accelerator):
    """Half precision is float16, the memory format contiguous NCHW; a cast takes a separate kernel."""

    facts: ClassVar[DeviceFacts] = NPU
    runs_triton: ClassVar[bool] = False
    fused_sgd_waits: ClassVar[bool] = True
    graph_class: ClassVar[str] = "NPUGraph"

    @classmethod
    def of(cls, torch_device: torch.device) -> Npu:
        return cls(torch_device, torch.float16, torch.contiguous_format, True, False)

    @property
    def saturates(self) -> bool:
        ask = getattr(getattr(self._module, "utils", None), "is_support_inf_nan", None)
        return ask is not None and not ask()

    @property
    def trusts_fast_paths(self) -> bool:
        return False

    @classmethod
    def why_missing(cls) -> str:
        if importlib.util.find_spec(NPU.package) is None:
            return (
                f"run.device = 'npu', but {NPU.package} is not installed: install torch-npu "
                f"{torch.__version__.split('+')[0]} and Huawei's CANN, or use run.device = 'cpu'"
            )
        return (
            f"run.device = 'npu' and {NPU.package} is installed, but it finds no usable NPU{why_unusable('npu')}: check "
            f"{NPU.tool}, source CANN's set_env.sh, and check that TORCH_DEVICE_BACKEND_AUTOLOAD is not 0"
        )
