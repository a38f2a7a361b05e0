"""The training step, and all that it changes: weights, optimizer, loss scale and sums.

The training loop, the profile and tools/bench_step.py call the same one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from ..devices.device_timer import STEP, DeviceTimer
from .meter import Meter
from .precision import Precision

PARTS = ("forward", "backward", "optimizer")


class TrainState:
    """A model with its optimizer (`precision`), what it learns (`task`) and the sums over its steps (`meter`): `train_step`.

    What a step reads and writes are tensors on the device that stay where they are, so that a graph can be captured of it:
    learning rate, loss scale, skipped steps, momenta, losses, counts and steps that were not finite.  Two exceptions are
    torch's: the loss scale and its count of clean steps are GradScaler's own tensors, which it writes in place; and an
    optimizer without a fused step takes its learning rate from the host.

    task: what is learned, the meter's, which counts it.
    timer: where it is set, the parts of each step are spans on the lane STEP; a graph is captured without.
    """

    def __init__(self, precision: Precision, meter: Meter) -> None:
        self.precision, self.meter, self.task = precision, meter, meter.task
        self.timer: DeviceTimer | None = None

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.precision.learning_rate

    @lr.setter
    def lr(self, rate: float) -> None:
        self.precision.learning_rate = rate

    def train_step(self, images: Tensor, targets: Tensor) -> None:
        """Queue one step on the device: images (B, 3, H, W) in precision.dtype, targets (B,).

        Waits for nothing, but for an optimizer without a fused step, which reads whether a gradient overflowed.
        """
        with self._span("forward"):
            outputs = self.precision.forward(images)
            loss = self.task.loss(outputs, targets)
        with self._span("backward"):
            self.precision.backward(loss)  # scaled; gradients are averaged over the ranks meanwhile
        with self._span("optimizer"):
            self.precision.step()  # an overflow skips it
            self.meter.add(loss, outputs, targets)

    def _span(self, part: str) -> AbstractContextManager[None]:
        return nullcontext() if self.timer is None else self.timer.span(STEP, part)
