"""Work captured as a graph of the device: queued in one call, whatever the number of its kernels.

On an H100 the host takes 4.4 ms to queue a step's 176 kernels when it is alone, 11.5 ms next to 16 decoding threads, and 0.07 ms
to queue their graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..devices.device import Device

WARM_UPS = 3  # libraries choose kernels and get workspace at first use, which a capture refuses


class Captured:
    """`work` as one graph over inputs of its own, into which those of each call are copied.

    work: queues on the device only, waits for nothing, and reads and writes tensors that stay where they are.  It runs WARM_UPS
        times before it is captured: restore what it changed.
    examples: inputs; calls have to give others of the same shapes and dtypes.
    Raises RuntimeError where the device cannot capture it.
    """

    def __init__(self, device: Device, work: Callable[..., Any], *examples: Tensor) -> None:
        self._inputs = [torch.empty_like(example).copy_(example) for example in examples]
        self._outputs: Any = None

        def once() -> None:
            self._outputs = work(*self._inputs)

        self._replay = device.capture(once, WARM_UPS)

    def takes(self, *inputs: Tensor) -> bool:
        """Whether the inputs are of the captured shapes, dtypes and memory formats."""
        return all(
            (given.shape, given.dtype, given.stride()) == (own.shape, own.dtype, own.stride())
            for given, own in zip(inputs, self._inputs, strict=True)
        )

    def __call__(self, *inputs: Tensor) -> Any:
        """Queue the work on these inputs; returns its outputs, which the next call writes over."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._replay()
        return self._outputs
