"""Batches on a CPU: normalized where they are.  What a DevicePrefetcher does on an accelerator: tests/accelerator_cases.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alexnet_fast.devices.registry import resolve
from alexnet_fast.loader.device_prefetcher import DevicePrefetcher

CPU = resolve("cpu")


class Host(NamedTuple):
    images: Tensor
    labels: Tensor


def host_batches(sizes: list[int], px: int = 8) -> list[Host]:
    generator = torch.Generator().manual_seed(0)
    return [
        Host(
            torch.randint(0, 256, (size, 3, px, px), dtype=torch.uint8, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for size in sizes
    ]


def expected(images: Tensor) -> Tensor:
    """ToTensor + Normalize, as torchvision's reference transforms do it."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_on_a_cpu_bytes_become_normalised_channels_last_floats() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.01)):
        for batch, (images, labels) in zip(
            host_batches([4, 4, 1]), DevicePrefetcher(CPU, dtype)(host_batches([4, 4, 1])), strict=True
        ):
            assert images.dtype is dtype and images.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(images.float(), expected(batch.images), atol=tolerance, rtol=tolerance)
            assert torch.equal(labels, batch.labels)


def test_on_a_cpu_nothing_is_copied() -> None:
    (batch,) = host_batches([4])
    ((_, labels),) = (feed := DevicePrefetcher(CPU, torch.float32))([batch])
    assert labels.data_ptr() == batch.labels.data_ptr() and feed.wait_s == 0
