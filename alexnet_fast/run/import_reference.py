"""Resuming from a checkpoint of the reference (the PyTorch ImageNet example), or of a port of it."""

from __future__ import annotations

from typing import Any

from ..engine.precision import Precision
from .checkpoint import ResumeState, slots_of


def is_reference_checkpoint(checkpoint: dict[str, Any]) -> bool:
    """Whether the ImageNet example, or a port of it, wrote the file: weights and the number of the next epoch."""
    return "epoch" in checkpoint


def import_reference(checkpoint: dict[str, Any], precision: Precision) -> tuple[ResumeState, bool]:
    """Load a checkpoint of the reference; returns the state to resume at its epoch, and whether momenta were loaded.

    They are where it holds torch's SGD state, one "momentum_buffer" per parameter.  The loss scale starts from scratch.
    Raises UserError for a checkpoint of another model.
    """
    precision.load_state_dict(checkpoint["state_dict"])
    has_momenta = precision.load_slots(slots_of(checkpoint["optimizer"]))
    best = checkpoint["best_acc1"]
    best = None if best is None else float(best)
    return ResumeState({"epoch": checkpoint["epoch"], "step": 0}, [], best), has_momenta
