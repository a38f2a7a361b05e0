"""NVIDIA's GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from .accelerator import Accelerator, why_unusable
from .facts import CUDA, DeviceFacts


@dataclass(frozen=True)
class Cuda(Accelerator):
    """Half precision is float16, the memory format channels_last."""

    facts: ClassVar[DeviceFacts] = CUDA
    runs_triton: ClassVar[bool] = True
    fused_sgd_waits: ClassVar[bool] = False
    graph_class: ClassVar[str] = "CUDAGraph"
    # The loader's threads make pinned memory, and NCCL's looks at events, meanwhile.
    capture_options: ClassVar[dict[str, Any]] = {"capture_error_mode": "thread_local"}

    @classmethod
    def of(cls, torch_device: torch.device) -> Cuda:
        return cls(torch_device, torch.float16, torch.channels_last, True, True)

    @property
    def trusts_fast_paths(self) -> bool:
        return True

    def use(self, threads: int | None = None) -> None:
        super().use(threads)
        # O0 says float32.  torch computes products so and convolutions in TF32, with 10 bits of 23.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

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
