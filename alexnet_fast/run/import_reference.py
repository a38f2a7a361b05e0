"""Going on from a checkpoint of the PyTorch ImageNet example, which is the reference, or of a port of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..engine.precision import Precision
from .checkpoint import ResumeState


def is_reference_checkpoint(checkpoint: dict[str, Any]) -> bool:
    """Whether the ImageNet example, or a port of it, wrote the file: weights with the epoch that comes next."""
    return "epoch" in checkpoint


def import_reference(checkpoint: dict[str, Any], precision: Precision) -> tuple[ResumeState, bool]:
    """Go on from a checkpoint of the reference, at the epoch that it names; and whether its momenta came along.

    They do where it holds torch's SGD state, one "momentum_buffer" a parameter.  The loss scale begins anew.
    Raises UserError where it was another model's.
    """
    precision.load_state_dict(checkpoint["state_dict"])
    params = [param for group in precision.optimizer.param_groups for param in group["params"]]
    momenta = _momenta(checkpoint["optimizer"])
    has_momenta = [momentum.shape for momentum in momenta] == [param.shape for param in params]
    if has_momenta:
        for param, momentum in zip(params, momenta, strict=True):
            # Into a tensor laid out as the parameter, as the fused kernels want it.
            precision.optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param).copy_(momentum)
    best = checkpoint["best_acc1"]
    best_acc1 = None if best is None else float(best)
    return ResumeState({"epoch": checkpoint["epoch"], "step": 0}, [], best_acc1), has_momenta


def _momenta(optimizer: Any) -> list[Tensor]:
    """The momenta of a saved torch.optim.SGD in the order of its parameters; empty where there are none."""
    try:
        order = [key for group in optimizer["param_groups"] for key in group["params"]]
        return [optimizer["state"][key]["momentum_buffer"] for key in order]
    except (KeyError, TypeError):
        return []
