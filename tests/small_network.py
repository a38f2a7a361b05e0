"""A network and a batch that take little time: a convolution, a batch norm and a linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def small_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, 12, 12, generator=generator), torch.randint(0, 10, (16,), generator=generator)
