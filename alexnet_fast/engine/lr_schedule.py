"""The learning rate as a pure function of the step, so that a resume needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Learning rate of each step, counted from 0 over the whole run.

    curve: "constant", or "cosine" to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts).
    per: "epoch" holds the rate within an epoch, as the reference does: in epoch e of E it is
        `lr * (1 + cos(pi * e / E)) / 2`; "step" moves at every step.
    warmup_epochs: rises linearly to `lr` over this many first epochs, the last of them at `lr`;
        the cosine then runs over what is left.
    """

    lr: float
    curve: Literal["cosine", "constant"]
    per: Literal["epoch", "step"]
    epochs: int
    steps_per_epoch: int
    warmup_epochs: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate at `step`; 0 from the end of the cosine on."""
        unit = self.steps_per_epoch if self.per == "step" else 1
        at = step if self.per == "step" else step // self.steps_per_epoch
        warmup, end = self.warmup_epochs * unit, self.epochs * unit
        if at < warmup:
            return self.lr * min(1.0, (at + 1) / warmup)
        if self.curve == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * min(1.0, (at - warmup) / max(1e-9, end - warmup)))) / 2
