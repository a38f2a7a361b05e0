"""The ceiling of the link: batches from the host's memory to the device's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..devices.device import Device
from ..distributed.world import World
from .stats import Stat, throughput

AT_ONCE = 4  # copies queued before they are waited for


@dataclass(frozen=True)
class Copy:
    """Bytes a second over all ranks, from page-locked memory, as the loader's buffers are, and from ordinary memory."""

    pinned_bytes_per_s: Stat
    pageable_bytes_per_s: Stat
    image_bytes: int

    @property
    def img_per_s(self) -> float:
        """As training copies them: from page-locked memory."""
        return self.pinned_bytes_per_s.median / self.image_bytes


def measure(device: Device, batch_size: int, size: int, seconds: float, world: World) -> Copy | None:
    """Copy batches of uint8 (batch_size, 3, size, size) and their labels for about `seconds`; None on a CPU, where nothing is copied."""
    if device.is_host:
        return None
    pinned, pageable = (
        throughput(_copies(device, batch_size, size, pin), seconds / 2, world) for pin in (True, False)
    )
    return Copy(pinned, pageable, 3 * size * size)


def _copies(device: Device, batch_size: int, size: int, pin: bool) -> Callable[[], int]:
    sources = (
        torch.zeros(batch_size, 3, size, size, dtype=torch.uint8, pin_memory=pin),
        torch.zeros(batch_size, dtype=torch.int64, pin_memory=pin),
    )
    targets = [torch.empty_like(source, device=device.torch_device) for source in sources]
    stream = device.stream()

    def copy() -> int:
        with stream:
            for _ in range(AT_ONCE):
                for source, target in zip(sources, targets, strict=True):
                    target.copy_(source, non_blocking=True)
        stream.synchronize()
        return AT_ONCE * sources[0].numel()

    return copy
