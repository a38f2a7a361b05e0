"""When each piece of the engine's work ran: measured by events on the device's streams, or by the clock on a CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from ..errors import UserError
from .accelerator import first_line
from .device import Device

STEP, COPY = "step", "copy"  # lanes
NORMALIZE = "normalize"  # a step's first part

Stamp = float | torch.Event
"""A moment: of the host's clock on a CPU, else of a stream."""


class Span(NamedTuple):
    """A piece of work on one lane.  begin_s, end_s: in seconds of time.perf_counter.  batch: its (epoch, step), if known."""

    lane: str
    name: str
    begin_s: float
    end_s: float
    batch: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


class DeviceTimer:
    """Collects spans during a run.  Recording a span never waits for the device; reading them does.

    Raises UserError for a device whose events tell no time.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._spans: list[tuple[str, str, Stamp, Stamp]] = []
        self._origin: torch.Event | None = None
        if not device.is_host:
            device.synchronize()
            self._origin = self._event()
            device.synchronize()
            check_that_events_tell_time(device, self._origin)
        self._origin_s = time.perf_counter()

    @contextmanager
    def span(self, lane: str, name: str) -> Iterator[None]:
        """What the body does, or queues on the current stream."""
        start = self.stamp()
        yield
        self._spans.append((lane, name, start, self.stamp()))

    def read(self) -> list[Span]:
        """Return the spans so far and clear them; waits for the device."""
        self._device.synchronize()
        spans, self._spans = self._spans, []
        return [Span(lane, name, self.when(start), self.when(end)) for lane, name, start, end in spans]

    def stamp(self) -> Stamp:
        """Marks the moment when all work queued on the current stream so far is done; `when` converts it once it is."""
        return time.perf_counter() if self._origin is None else self._event()

    def _event(self) -> torch.Event:
        event = torch.Event(self._device.torch_device, enable_timing=True)
        event.record()
        return event

    def when(self, stamp: Stamp) -> float:
        """Seconds of time.perf_counter of a stamp that has been reached."""
        if isinstance(stamp, float):
            return stamp
        assert self._origin is not None
        return self._origin_s + self._origin.elapsed_time(stamp) / 1e3


def check_that_events_tell_time(device: Device, event: torch.Event) -> None:
    """Raise UserError if the backend cannot tell the time between two events: torch_npu 2.9.0 before its .post2 cannot.

    event: recorded, and reached.
    """
    try:
        event.elapsed_time(event)
    except (RuntimeError, AttributeError) as error:
        package = device.facts.package
        newer = (
            f"{package} has it from 2.9.0.post2 on: install a newer one"
            if package
            else "install a newer torch"
        )
        raise UserError(
            f"{device.torch_device} cannot be measured, because its events tell no time ({first_line(error)}): --profile and "
            f"doctor --card need torch.Event.elapsed_time; {newer}. Training does not need it"
        ) from error
