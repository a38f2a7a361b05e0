"""The model of the run that version 0.1 left (test_version_0_1.py): a convolution and a linear layer."""

from __future__ import annotations

import torch
from torch import nn

from alexnet_fast.models import ModelSpec


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        convolution = nn.Conv2d(3, 8, 5, stride=4)
        self.features = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(128, num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(images))
        return logits


TINY = ModelSpec(
    "Tiny",
    "tiny_model:Tiny",
    min_size_px=8,
    parameters=lambda classes: 608 + 129 * classes,
    activation_bytes=80,
)
