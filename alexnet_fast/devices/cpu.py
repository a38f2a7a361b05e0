"""The CPU as a device."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..common.cpus import allowed_cores
from .device import Device
from .facts import CPU, DeviceFacts


@dataclass(frozen=True)
class Cpu(Device):
    """Computes where the loader decodes, so nothing is copied; half precision is bfloat16."""

    facts: ClassVar[DeviceFacts] = CPU
    is_host: ClassVar[bool] = True
    runs_triton: ClassVar[bool] = False
    fused_sgd_waits: ClassVar[bool] = False
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
        """Does nothing: work on the CPU is never queued."""

    @property
    def saturates(self) -> bool:
        return False

    @property
    def why_no_graph(self) -> str:
        return "a CPU has no graphs: nothing is queued there"

    @property
    def trusts_fast_paths(self) -> bool:
        return False

    def capture(self, work: Callable[[], None], warm_ups: int) -> Callable[[], None]:
        raise RuntimeError(self.why_no_graph)

    def peak_memory_bytes(self) -> int | None:
        return None

    def random_state(self) -> torch.Tensor | None:
        return None

    def set_random_state(self, state: torch.Tensor | None) -> None:
        """Does nothing: the state of the CPU's generator is saved separately."""


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks instead of returning them to the kernel; returns False if the C library is not glibc.

    Each step frees the gradients and activations, 100 MB blocks, and allocates them again.  By default each is a mapping of
    its own, and every page faults again: at 224 px and batch 64, 180,000 faults a step in float32 and 40,000 at O2.  Kept
    blocks fault only in the first three steps.
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
