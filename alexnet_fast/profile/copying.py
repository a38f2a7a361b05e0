"""The ceiling of the link: batches from the host's memory to the device's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..common.sizes import Size, sides
from ..devices.device import Device
from ..distributed.world import World
from .stats import Stat, throughput

AT_ONCE = 4  # copies queued before they are waited for
LABEL_BYTES = 16  # of a sample: its label and its index


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


def measure(device: Device, batch_size: int, size: Size, seconds: float, world: World) -> Copy | None:
    """Copy batches of uint8 (batch_size, 3, height, width) with their labels, in one block each, for about `seconds`; None on a CPU, where nothing is copied."""
    if device.is_host:
        return None
    pinned, pageable = (
        throughput(_copies(device, batch_size, size, pin), seconds / 2, world) for pin in (True, False)
    )
    return Copy(pinned, pageable, 3 * math.prod(sides(size)))


def _copies(device: Device, batch_size: int, size: Size, pin: bool) -> Callable[[], int]:
    images = batch_size * 3 * math.prod(sides(size))
    source = torch.zeros(images + LABEL_BYTES * batch_size, dtype=torch.uint8, pin_memory=pin)
    target = torch.empty_like(source, device=device.torch_device)
    stream = device.stream()

    def copy() -> int:
        with stream:
            for _ in range(AT_ONCE):
                target.copy_(source, non_blocking=True)
        stream.synchronize()
        return AT_ONCE * images

    return copy
