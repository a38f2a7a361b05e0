"""Initial weights other than a network's own."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def initialise_he(model: nn.Module) -> None:
    """Set He's initial weights (arXiv:1502.01852, equation 10), zero biases, and a last layer of standard deviation 0.01.

    Each layer then keeps the variance of its input.  torch's defaults shrink it about
    sixfold a layer, which costs a fresh AlexNet hundreds of steps before the loss changes at all.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.01)
