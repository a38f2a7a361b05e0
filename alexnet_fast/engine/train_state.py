"""The training step, and all that it changes: weights, optimizer, loss scale and sums.

The training loop, the profile and tools/bench_step.py call the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ..devices.device_timer import NORMALIZE, STEP, DeviceTimer
from ..loader.normalize import ImageNet, Normalizer
from .meter import Meter
from .precision import Precision
from .step_graph import Captured

PARTS = (NORMALIZE, "forward", "backward", "optimizer")
WHOLE = "step"  # the only part that can be told of a captured step

ForwardLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and targets to float32 outputs (B, C) and the mean loss."""


class TrainState:
    """A model with its optimizer (`precision`), what it learns (`task`) and the sums over its steps (`meter`): `train_step`.

    What a step reads and writes are tensors on the device that stay where they are (`tensors`), so that a graph can be captured
    of it: learning rate, loss scale, skipped steps, momenta, losses, counts and steps that were not finite.

    task: what is learned, the meter's, which counts it.
    normalize: bytes to the model's input; the evaluation's prefetcher shares it.
    compiled: in place of normalize, forward and loss, where it is set.  graph: in place of a whole step, for batches of one
        shape.  Both are set by engine/fast_paths.py, once they are proven.
    timer: where it is set, the `parts` of each step are spans on the lane STEP.
    """

    def __init__(self, precision: Precision, meter: Meter) -> None:
        self.precision, self.meter, self.task = precision, meter, meter.task
        self.normalize = Normalizer(precision.device, ImageNet, precision.dtype)
        self.compiled: ForwardLoss | None = None
        self.graph: Captured | None = None
        self.evaluation_graph: Captured | None = None
        self.timer: DeviceTimer | None = None

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.precision.learning_rate

    @lr.setter
    def lr(self, rate: float) -> None:
        self.precision.learning_rate = rate

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of a step's spans."""
        return PARTS if self.graph is None else (WHOLE,)

    def train_step(self, images: Tensor, targets: Tensor) -> None:
        """Queue one step on the device: images uint8 (B, 3, H, W), or normalized ones in precision.dtype; targets (B,).

        Waits for nothing, but for an optimizer that is neither torch's fused one nor MaskedSGD.
        """
        if self.graph is None:
            self.eager_step(images, targets)
            return
        with self._span(WHOLE):
            if self.graph.takes(images, targets):
                self.graph(images, targets)
            else:
                with self._without("timer"):
                    self.eager_step(images, targets)

    def eager_step(self, images: Tensor, targets: Tensor) -> None:
        """The same step, each of its operations queued by itself."""
        compiled = self.compiled if self.compiles(images) else None
        with self._span(NORMALIZE):
            if images.dtype is torch.uint8 and compiled is None:
                images = self.normalize(images)
        with self._span("forward"):
            outputs, loss = (compiled or self.forward_loss)(images, targets)
        with self._span("backward"):
            self.precision.backward(loss)  # scaled; gradients are averaged over the ranks meanwhile
        with self._span("optimizer"):
            self.precision.step()  # an overflow skips it
            self.meter.add(loss, outputs, targets)

    def forward_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and mean loss of normalized images."""
        outputs = self.precision.forward(images)
        return outputs, self.task.loss(outputs, targets)

    def traced(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and mean loss of bytes: what torch.compile compiles."""
        return self.forward_loss(self.normalize.traced(images), targets)

    def compiles(self, images: Tensor) -> bool:
        """Whether images are of the shape that `compiled` was made for: a smaller last batch would be compiled again."""
        return (
            self.compiled is not None and images.dtype is torch.uint8 and images.shape == self._compiled_shape
        )

    def compile_for(self, images: Tensor, compiled: ForwardLoss | None) -> None:
        """Use `compiled` for batches of the shape of `images`; None: no more."""
        self.compiled, self._compiled_shape = compiled, images.shape

    def evaluate(self, images: Tensor) -> Tensor:
        """Float32 outputs of normalized images, the model in evaluation mode."""
        if self.evaluation_graph is not None and self.evaluation_graph.takes(images):
            outputs: Tensor = self.evaluation_graph(images)
            return outputs
        return self.precision.forward(images)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Steps inside leave each rank its own gradients, which a captured one cannot: for whoever measures what summing them costs."""
        with self.eagerly(), self.precision.no_sync():
            yield

    def eagerly(self) -> AbstractContextManager[None]:
        """Steps inside are not captured ones."""
        return self._without("graph")

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes, by name, but for random generators and the learning rate."""
        return {**self.precision.tensors(), **self.meter.tensors()}

    @contextmanager
    def _without(self, name: str) -> Iterator[None]:
        """An attribute is None inside."""
        kept = getattr(self, name)
        setattr(self, name, None)
        try:
            yield
        finally:
            setattr(self, name, kept)

    def _span(self, part: str) -> AbstractContextManager[None]:
        return nullcontext() if self.timer is None else self.timer.span(STEP, part)
