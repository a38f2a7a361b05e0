"""The loss scale: tensors on the device, written in place, so that no step waits and a graph can be captured of it.

It works as torch's GradScaler and has its saved state; GradScaler itself reads on the host whether there was an overflow, unless
the optimizer is one of torch's fused ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Choice = float | Literal["dynamic", "none"]

FIRST_SCALE, LARGEST_SCALE, STEPS_TO_DOUBLE = 2.0**16, 2.0**24, 2000  # apex's dynamic loss scale
NEVER = 2**31 - 1
GROWTH, BACKOFF = 2.0, 0.5


class LossScale:
    """Scales the loss, unscales gradients, and skips and counts the steps in which one was not finite.

    choice: "dynamic" starts at 2^16, doubles after 2,000 clean steps up to 2^24, and halves on overflow; a number stays as it is;
        "none" neither scales nor looks for overflows.
    over_ranks: sums a tensor over the ranks, in place: for devices whose ranks do not see each other's overflows in the averaged
        gradients (Device.saturates).
    found_inf: float32 scalar, above 0 where a gradient of the last step was not finite.  skipped: int64 scalar, such steps so far.
    """

    def __init__(
        self, choice: Choice, device: torch.device, over_ranks: Callable[[Tensor], object] | None = None
    ) -> None:
        self._static = None if isinstance(choice, str) else float(choice)
        self._enabled = choice != "none"
        self._interval = STEPS_TO_DOUBLE if self._static is None else NEVER
        self._over_ranks = over_ranks
        first = FIRST_SCALE if self._static is None else self._static
        self._scale = torch.full((), first if self._enabled else 1.0, device=device)
        self._growth_tracker = torch.zeros((), dtype=torch.int32, device=device)
        self.found_inf = torch.zeros((), device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)

    def is_enabled(self) -> bool:
        return self._enabled

    def tensors(self) -> list[Tensor]:
        """All that changes."""
        return [self._scale, self._growth_tracker, self.found_inf, self.skipped]

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self._scale if self._enabled else loss

    def inverse(self) -> Tensor:
        """What unscales a gradient: a float32 scalar."""
        return self._scale.reciprocal()

    @torch.no_grad()
    def unscale(self, gradients: list[Tensor]) -> None:
        """Unscale float32 gradients in place, and note whether one is not finite."""
        if not self._enabled:
            return
        self.found_inf.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_inf, self.inverse())
        self.share()

    def share(self) -> None:
        """Let every rank know of the overflows that others found."""
        if self._over_ranks is not None:
            self._over_ranks(self.found_inf)

    @torch.no_grad()
    def update(self) -> None:
        """Count the step if it was skipped, and set the next step's scale."""
        if not self._enabled:
            return
        overflowed = self.found_inf > 0
        self.skipped += overflowed
        if self._static is not None:
            return
        # Not torch's _amp_update_scale_: it knows no upper bound, and an NPU may lack it.
        self._growth_tracker.add_(1).mul_(~overflowed)
        grows = self._growth_tracker >= self._interval
        self._growth_tracker.mul_(~grows)
        factor = torch.where(overflowed, BACKOFF, torch.where(grows, GROWTH, 1.0))
        self._scale.mul_(factor).clamp_(max=LARGEST_SCALE)

    def get_scale(self) -> float:
        """The scale now; 1 where nothing is scaled.  Waits for the device."""
        return float(self._scale)

    def state_dict(self) -> dict[str, Any]:
        """As GradScaler's: empty where nothing is scaled."""
        if not self._enabled:
            return {}
        return {
            "scale": float(self._scale),
            "growth_factor": GROWTH,
            "backoff_factor": BACKOFF,
            "growth_interval": self._interval,
            "_growth_tracker": int(self._growth_tracker),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set scale and clean steps to those of `state`."""
        self._scale.fill_(state["scale"])
        self._growth_tracker.fill_(state["_growth_tracker"])

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Set a dynamic scale to a saved one, if that was not disabled; one that is a number stays it."""
        if saved and self._enabled and self._static is None:
            clean = saved["_growth_tracker"] if saved["growth_interval"] == self._interval else 0
            self.load_state_dict({"scale": saved["scale"], "_growth_tracker": clean})
