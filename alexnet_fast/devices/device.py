"""What a device is to the rest of the package: one protocol, behind which npu, cuda and cpu differ.

Nothing else asks for a kind by its name, but to tell it to a person.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch

from .facts import DeviceFacts

POLL_S = 1e-4  # between two looks at an event: far less than a step, far more than a look costs


class Device(Protocol):
    """One rank's device and what has to be known of it.

    facts: of its kind.
    is_host: True where batches already lie where the model computes, so nothing is copied.
    half_dtype: what O1 and O2 compute in; float16 needs a loss scale, bfloat16 does not.
    memory_format: how the model's weights and its images are laid out.
    pin_memory: whether the loader's host slots are page-locked, so that copies run beside the step.
    casts_while_computing: whether one kernel may read bytes and float32 and write halves.
    """

    facts: ClassVar[DeviceFacts]
    is_host: ClassVar[bool]
    torch_device: torch.device
    half_dtype: torch.dtype
    memory_format: torch.memory_format
    pin_memory: bool
    casts_while_computing: bool

    @classmethod
    def open(cls, name: str, index: int) -> Device:
        """The device of this kind and index; name: what the user called it.

        Raises UserError, with what to install or check, where this machine has none.
        """
        ...

    @property
    def kind(self) -> str:
        """cpu, cuda or npu."""
        return self.facts.kind

    @property
    def collective_backend(self) -> str:
        """Torch.distributed's name of this kind's own collectives."""
        return self.facts.backends[0]

    @property
    def half_needs_loss_scale(self) -> bool:
        return self.half_dtype is torch.float16

    @property
    def name(self) -> str:
        """The product's name, for reports."""
        ...

    def use(self, threads: int | None = None) -> None:
        """Make this the process's device; on a CPU, compute on `threads` cores (default: those allowed).

        Raises UserError where the device does not start.
        """
        ...

    def synchronize(self) -> None:
        """Return when everything queued on the device is done."""
        ...

    # Streams and events are torch's generic ones throughout: a backend's own events take no generic streams.

    def stream(self) -> torch.Stream:
        """A new stream beside the current one; as a context, work goes there.  Not to be asked of a CPU."""
        return torch.Stream(self.torch_device)

    def current_stream(self) -> torch.Stream:
        """The stream that work goes to now, where nothing else is said."""
        return torch.accelerator.current_stream(self.torch_device)

    def event(self) -> torch.Event:
        """A new event: record(stream), and wait(stream) so that what is queued there from now on comes after it."""
        return torch.Event(self.torch_device, enable_timing=False)

    def wait_for(self, event: torch.Event) -> None:
        """Return when the host knows that `event` is done.

        Asleep, since the cores decode: `event.synchronize()` spins on one of them for as long as the device is
        the limit (CUDA by default, torch_npu while its task queue is behind).
        """
        while not event.query():
            time.sleep(POLL_S)

    def autocast(self, enabled: bool = True) -> AbstractContextManager[Any]:
        """O1's region; `half_dtype` inside where `enabled`."""
        return torch.autocast(self.kind, dtype=self.half_dtype) if enabled else nullcontext()

    def peak_memory_bytes(self) -> int | None:
        """The most memory that tensors held so far on the device, or None where it is not counted."""
        ...

    def random_state(self) -> torch.Tensor | None:
        """The state of the device's own generator (the CPU's is saved apart); None where there is none."""
        ...

    def set_random_state(self, state: torch.Tensor | None) -> None:
        """Put back what `random_state` returned; None changes nothing."""
        ...
