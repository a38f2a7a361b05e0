"""NVIDIA's GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .accelerator import Accelerator, why_unusable
from .facts import CUDA, DeviceFacts


@dataclass(frozen=True)
class Cuda(Accelerator):
    """Half precision is float16, the memory format channels_last."""

    facts: ClassVar[DeviceFacts] = CUDA

    @classmethod
    def of(cls, torch_device: torch.device) -> Cuda:
        return cls(torch_device, torch.float16, torch.channels_last, True, True)

    @classmethod
    def why_missing(cls) -> str:
        if torch.version.cuda is None:
            return (
                f"run.device = 'cuda', but this torch ({torch.__version__}) is built without CUDA: install a "
                "CUDA build of torch, or use run.device = 'cpu'"
            )
        return (
            f"run.device = 'cuda', but torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU"
            f"{why_unusable('cuda')}: check {CUDA.tool} and the driver's version, or use run.device = 'cpu'"
        )
