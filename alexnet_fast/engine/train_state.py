"""The training step, and all that it changes: weights, optimizer, loss scale and sums.

The training loop, the profile and tools/bench_step.py call the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from ..common.sizes import Size
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
    accumulate: into how many parts a batch is cut, which pass one after another; the gradients of all make one step.  It is the
        step of the whole batch, up to rounding, with the activations of a part in memory, but that batch norms normalize each part.
        All parts but the last are as large; a batch of fewer samples than parts makes fewer.
    normalize: bytes to the model's input; the evaluation's prefetcher shares it.
    compiled: in place of normalize, forward and loss, where it is set.  graph: in place of a whole step, for batches of one
        shape.  Both are set by engine/fast_paths.py, once they are proven.
    images_of: the size of the images that the fast paths were proven for, in pixels; None before that.
    timer: where it is set, the `parts` of each step are spans on the lane STEP.
    """

    def __init__(self, precision: Precision, meter: Meter, accumulate: int = 1) -> None:
        self.precision, self.meter, self.task = precision, meter, meter.task
        self.accumulate = accumulate
        self.normalize = Normalizer(precision.device, ImageNet, precision.dtype)
        self.images_of: Size | None = None
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
        if self.accumulate > 1 and len(targets) > 1:
            self._accumulated_step(images, targets)
            return
        outputs, loss = self._pass(images, targets)
        with self._span("backward"):
            self.precision.backward(loss)  # scaled; gradients are averaged over the ranks meanwhile
        self._update(loss, outputs, targets)

    def _accumulated_step(self, images: Tensor, targets: Tensor) -> None:
        """The step of a batch whose parts pass one after another."""
        parts = list(zip(self.parts_of(images), self.parts_of(targets), strict=True))
        made, losses = list[Tensor](), list[Tensor]()
        for number, (some, wanted) in enumerate(parts):
            last = number + 1 == len(parts)
            # Ranks sum once: forward passes too belong inside, as DDP wants it.
            with nullcontext() if last else self.precision.no_sync():
                outputs, loss = self._pass(some, wanted)
                loss = loss * (len(wanted) / len(targets))
                with self._span("backward"):
                    self.precision.backward(loss, first=number == 0, last=last)
            made.append(outputs.detach())
            losses.append(loss.detach())
        self._update(torch.stack(losses).sum(), torch.cat(made), targets)

    def parts_of(self, batch: Tensor) -> Sequence[Tensor]:
        """The parts of a batch (B, ...) that pass one after another."""
        return batch.split(-(-len(batch) // self.accumulate))

    def _pass(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and mean loss of images as `train_step` takes them."""
        compiled = self.compiled if self.compiles(images) else None
        with self._span(NORMALIZE):
            if images.dtype is torch.uint8 and compiled is None:
                images = self.normalize(images)
        with self._span("forward"):
            return (compiled or self.forward_loss)(images, targets)

    def _update(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
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
        """Use `compiled` for batches like `images`, or parts of them; None: no more."""
        self.compiled, self._compiled_shape = compiled, self.parts_of(images)[0].shape

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
