"""AlexNet in torchvision's layout, so that state dicts can be exchanged with torchvision in both directions.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (arXiv:1404.5997).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .space_to_depth import BlockedConv2d


class AlexNet(nn.Module):
    """AlexNet: float images (B, 3, H, W) to logits (B, num_classes).

    61,100,840 parameters at 1,000 classes.  Keys, shapes and initial weights (torch's defaults) are
    those of torchvision's ``alexnet``.  The smallest side is 63 px: below it the input of the last
    pooling is too small.  For sides other than 224 px the adaptive pool still gives 6 x 6.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        # torchvision pools after the ReLU, we pool before it: results and gradients are the same to the bit, since
        # max(relu(x)) = relu(max(x)), and the ReLU reads and writes a quarter of the memory.
        self.features = nn.Sequential(
            BlockedConv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.ReLU(inplace=True),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(p=dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(p=dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        if features.shape[2:] != (6, 6):  # of 6 x 6 the pool is an identity, which an NPU refuses in bfloat16
            features = self.avgpool(features)
        logits: Tensor = self.classifier(torch.flatten(features, 1))
        return logits
