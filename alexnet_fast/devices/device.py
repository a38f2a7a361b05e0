"""The protocol by which the rest of the package uses a device, be it npu, cuda or cpu.

No other room branches on a kind's name; they only print it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch

from .facts import DeviceFacts

POLL_S = 1e-4  # between two queries of an event: far shorter than a step, far longer than a query takes


class Device(Protocol):
    """One rank's device and its properties.

    facts: about its kind.
    is_host: True if batches are already where the model computes, so that nothing is copied.
    half_dtype: the dtype in which O1 and O2 compute; float16 needs a loss scale, bfloat16 does not.
    memory_format: of the model's weights and of its images.
    pin_memory: whether the loader's host buffers are page-locked, so that copies run concurrently with the step.
    casts_while_computing: whether one kernel can read uint8 and float32 and write half precision.
    runs_triton: whether our Triton kernels run on it.
    fused_sgd_waits: whether torch's fused SGD reads on the host, in every step, whether a gradient overflowed.
    """

    facts: ClassVar[DeviceFacts]
    is_host: ClassVar[bool]
    runs_triton: ClassVar[bool]
    fused_sgd_waits: ClassVar[bool]
    torch_device: torch.device
    half_dtype: torch.dtype
    memory_format: torch.memory_format
    pin_memory: bool
    casts_while_computing: bool

    @classmethod
    def open(cls, name: str, index: int) -> Device:
        """The device of this kind and index.  name: the user's text, for messages.

        Raises UserError, with what to install or check, if this machine has no such device.
        """
        ...

    @property
    def kind(self) -> str:
        """cpu, cuda or npu."""
        return self.facts.kind

    @property
    def collective_backend(self) -> str:
        """torch.distributed's name of this kind's own collective backend."""
        return self.facts.backends[0]

    @property
    def half_needs_loss_scale(self) -> bool:
        return self.half_dtype is torch.float16

    @property
    def name(self) -> str:
        """The product name, for reports."""
        ...

    def use(self, threads: int | None = None) -> None:
        """Make this the process's device; on a CPU, compute on `threads` cores (default: those allowed).

        Raises UserError if the device does not start.
        """
        ...

    def synchronize(self) -> None:
        """Return when everything queued on the device is done."""
        ...

    # All streams and events are torch's generic ones: a backend's own events do not accept generic streams.

    def stream(self) -> torch.Stream:
        """A new stream; used as a context, work inside is queued on it.  Do not call this on a CPU."""
        return torch.Stream(self.torch_device)

    def current_stream(self) -> torch.Stream:
        """The stream on which work is queued by default."""
        return torch.accelerator.current_stream(self.torch_device)

    def event(self) -> torch.Event:
        """A new event: record(stream); then wait(stream) makes work that is queued there later run after it."""
        return torch.Event(self.torch_device, enable_timing=False)

    def wait_for(self, event: torch.Event) -> None:
        """Return when the host knows that `event` is done.

        It sleeps between queries, to leave the cores to decoding: `event.synchronize()` would spin on a core for as long as
        the device is the limit (CUDA by default, torch_npu while its task queue lags).
        """
        while not event.query():
            time.sleep(POLL_S)

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """The autocast region of O1: computes in `half_dtype` inside if `enabled`."""
        return torch.autocast(self.kind, dtype=self.half_dtype) if enabled else nullcontext()

    def with_half(self, dtype: torch.dtype) -> Device:
        """The same device, computing in this half precision."""
        return dataclasses.replace(self, half_dtype=dtype)  # type: ignore[type-var]

    @property
    def saturates(self) -> bool:
        """Whether a number that overflows becomes the largest one in place of infinity, so that ranks do not see each other's
        overflows in a sum."""
        ...

    @property
    def why_no_graph(self) -> str:
        """Why work cannot be captured as a graph here; "" where it can."""
        ...

    @property
    def trusts_fast_paths(self) -> bool:
        """Whether fast paths are tried by default: on cards of this kind they were measured to pay."""
        ...

    def capture(self, work: Callable[[], None], warm_ups: int) -> Callable[[], None]:
        """Run `work` `warm_ups` times, then capture it as a graph; returns what queues the graph on the current stream.

        Raises RuntimeError where `work` does what cannot be captured.
        """
        ...

    def peak_memory_bytes(self) -> int | None:
        """Peak memory of tensors on the device so far, in bytes; None if it is not counted."""
        ...

    def random_state(self) -> torch.Tensor | None:
        """The state of the device's own random generator (the CPU's is saved separately); None if it has none."""
        ...

    def set_random_state(self, state: torch.Tensor | None) -> None:
        """Restore what `random_state` returned; None changes nothing."""
        ...
