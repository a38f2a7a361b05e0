"""An exponential moving average of the weights: evaluated next to the weights themselves.

Not torch's AveragedModel, which copies the model with its half weights, and averages in a step that overflowed too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .norms import statistics


class WeightAverage:
    """After each step, `average += (1 - d) * (weight - average)`: of the float32 weights, and of batch norms' running statistics.

    d is `decay`, and at step n at most (1 + n) / (10 + n) (as TensorFlow's and timm's), or the average of a short run would be
    mostly its first weights.  A step that overflows leaves the average as it is.  All is on the device, written in place: part of
    a captured step.

    model: whose weights `masters` are in float32, in the order of its parameters.
    """

    def __init__(self, model: nn.Module, masters: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self._weights: list[Tensor] = [param.detach() for param in model.parameters()]
        self._sources = [master.detach() for master in masters]
        floating = [each for each in statistics(model) if each.is_floating_point()]
        self._weights += floating
        self._sources += floating
        buffers = {id(buffer): name for name, buffer in model.named_buffers()}
        self._names = [name for name, _ in model.named_parameters()]
        self._names += [buffers[id(each)] for each in floating]
        self._averages = [torch.empty_like(source, dtype=torch.float32) for source in self._sources]
        self.steps = torch.zeros((), device=self._sources[0].device)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Begin with the weights as they are."""
        torch._foreach_copy_(self._averages, self._sources)
        self.steps.zero_()

    @torch.no_grad()
    def update(self, overflowed: Tensor | None) -> None:
        """Move the average towards the weights.  overflowed: a scalar on the device, above 0 where the step was skipped."""
        taken = torch.ones_like(self.steps) if overflowed is None else (overflowed <= 0).to(self.steps.dtype)
        self.steps.add_(taken)
        decay = ((1 + self.steps) / (10 + self.steps)).clamp_(max=self.decay)
        moves = torch._foreach_sub(self._sources, self._averages)
        torch._foreach_mul_(moves, (1 - decay) * taken)
        torch._foreach_add_(self._averages, moves)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model computes with the average, in its own number formats; afterwards every bit of it is what it was."""
        before = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._weights, before)

    def tensors(self) -> dict[str, Tensor]:
        """All that an update changes, by name."""
        named = zip(self._names, self._averages, strict=True)
        return {"averaged steps": self.steps, **{f"average of {name}": each for name, each in named}}

    def state_dict(self, plain: Mapping[str, Tensor]) -> dict[str, Any]:
        """For a checkpoint: the average under the model's own keys, float32, on the CPU, and its number of steps.

        plain: the model's own state, from which what is not averaged is taken.
        """
        averages = {
            name: average.cpu().contiguous()
            for name, average in zip(self._names, self._averages, strict=True)
        }
        return {"steps": int(self.steps), "state_dict": {**plain, **averages}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a saved average, whose keys and shapes fit."""
        self.steps.fill_(state["steps"])
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(state["state_dict"][name])
