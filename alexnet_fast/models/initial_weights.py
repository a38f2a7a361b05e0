"""Initial weights other than a network's own."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def initialise_he(model: nn.Module) -> None:
    """He's initial weights (arXiv:1502.01852, equation 10), with zero biases and a quiet last layer.

    Each layer then keeps the variance of what it is given.  torch's defaults shrink it about
    sixfold a layer, which costs a fresh AlexNet hundreds of steps before the loss moves at all.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.01)
