"""The CPU as a device."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..common.cpus import allowed_cores
from .device import Device
from .facts import CPU, DeviceFacts


@dataclass(frozen=True)
class Cpu(Device):
    """Computes where the loader decodes: nothing is copied, and halves are bfloat16."""

    facts: ClassVar[DeviceFacts] = CPU
    is_host: ClassVar[bool] = True
    torch_device: torch.device = torch.device("cpu")  # noqa: RUF009 (it cannot change)
    half_dtype: torch.dtype = torch.bfloat16
    memory_format: torch.memory_format = torch.channels_last
    pin_memory: bool = False
    casts_while_computing: bool = True

    @classmethod
    def open(cls, name: str, index: int) -> Cpu:
        return cls()

    @property
    def name(self) -> str:
        return processor_name()

    def use(self, threads: int | None = None) -> None:
        torch.set_num_threads(threads or allowed_cores())
        keep_freed_memory()

    def synchronize(self) -> None:
        """Nothing is ever queued."""

    def peak_memory_bytes(self) -> int | None:
        return None

    def random_state(self) -> torch.Tensor | None:
        return None

    def set_random_state(self, state: torch.Tensor | None) -> None:
        """The CPU's own generator is saved apart."""


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks instead of returning each to the system; False where it is not glibc.

    A step frees and asks again for the same 100 MB gradients and activations.  By default each becomes a
    mapping of its own and every page is faulted in anew: at 224 px and batch 64, 180,000 faults a step in
    float32 and 40,000 at O2.  Kept blocks fault in the first three steps and never again.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(m_mmap_max, 0) and mallopt(m_trim_threshold, 2**31 - 1))


def processor_name() -> str:
    """The processor's product name, or its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
