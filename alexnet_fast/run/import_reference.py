"""Going on from a checkpoint of the PyTorch ImageNet example, which is the reference, or of a port of it."""

from __future__ import annotations

from typing import Any

from ..engine.precision import Precision
from .checkpoint import ResumeState, momenta_of


def is_reference_checkpoint(checkpoint: dict[str, Any]) -> bool:
    """Whether the ImageNet example, or a port of it, wrote the file: weights with the epoch that comes next."""
    return "epoch" in checkpoint


def import_reference(checkpoint: dict[str, Any], precision: Precision) -> tuple[ResumeState, bool]:
    """Go on from a checkpoint of the reference, at the epoch that it names; and whether its momenta came along.

    They do where it holds torch's SGD state, one "momentum_buffer" a parameter.  The loss scale begins anew.
    Raises UserError where it was another model's.
    """
    precision.load_state_dict(checkpoint["state_dict"])
    has_momenta = precision.load_momenta(momenta_of(checkpoint["optimizer"]))
    best = checkpoint["best_acc1"]
    best = None if best is None else float(best)
    return ResumeState({"epoch": checkpoint["epoch"], "step": 0}, [], best), has_momenta
