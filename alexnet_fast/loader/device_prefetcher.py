"""Host batches to device batches: copied ahead on their own stream, normalized on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..devices.device import Device
from ..devices.device_timer import COPY, NORMALIZE, STEP, DeviceTimer

# ImageNet's mean and standard deviation per channel, in units of 0..255.
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class HostBatch(Protocol):
    """images: uint8 (B, 3, H, W), contiguous.  labels: (B,), int64 or float32.  Both on the CPU."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


@dataclass
class _Slot:
    """Device memory for one batch of bytes, and the events that say who may touch it."""

    images: Tensor
    labels: Tensor
    copied: torch.Event  # recorded on the copy stream: the host batch may go
    normalized: torch.Event  # recorded on the compute stream: the slot may be written again


class DevicePrefetcher:
    """Iterate over (images, labels) on `device`, normalized, in `dtype` and the device's memory format.

    images: (B, 3, H, W), `(pixel - MEAN) / STD`.  labels: (B,), of the batch's dtype.

    On an accelerator `ahead` batches are copied, on a stream of their own, while the model computes; a host
    batch is kept until its copy is known to be done, since its memory is written again as soon as nobody
    holds it.  On a CPU nothing is copied.  A DevicePrefetcher keeps its device memory, so use one for the whole run;
    a pass ends when another begins.

    marks: where copies and normalisings are marked, for whoever measures; None = nowhere.
    """

    def __init__(self, device: Device, dtype: torch.dtype, *, ahead: int = 2) -> None:
        self.device, self.dtype, self.ahead = device, dtype, ahead
        constants = torch.float32 if device.casts_while_computing else dtype
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        self._scale = (1 / std).to(device.torch_device, constants)
        self._bias = (-mean / std).to(device.torch_device, constants)
        self.marks: DeviceTimer | None = None
        self._slots: list[_Slot] = []
        self._copies = self._passes = 0

    def __call__(self, batches: Iterable[HostBatch]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """One pass over `batches`."""
        if self.device.is_host:
            return ((self.normalize(batch.images), batch.labels) for batch in batches)
        return self._copied_ahead(batches)

    def _copied_ahead(self, batches: Iterable[HostBatch]) -> Generator[tuple[Tensor, Tensor], None, None]:
        self._passes += 1
        this_pass = self._passes
        in_flight: deque[tuple[_Slot, HostBatch]] = deque()  # copies queued, the oldest first
        try:
            for batch in batches:
                self._check_current(this_pass)
                slot = self._next_slot(batch)
                in_flight.append(
                    (slot, batch)
                )  # held before it is copied: whatever fails, the copy is waited for
                self._copy(batch, slot)
                if len(in_flight) > self.ahead:
                    yield self._take(in_flight)
            while in_flight:
                self._check_current(this_pass)
                yield self._take(in_flight)
        finally:
            if in_flight:  # left early, or something failed: no host batch may go before its copy
                self._copy_stream.synchronize()

    def _check_current(self, this_pass: int) -> None:
        if this_pass != self._passes:  # its slots are being written by the other
            raise RuntimeError(
                "this pass ended when another of the same DevicePrefetcher began: use one for each"
            )

    def normalize(self, images: Tensor) -> Tensor:
        """Bytes on the device to `(images - MEAN) / STD` in `dtype` and the device's memory format."""
        with self._span(STEP, NORMALIZE):
            return self._normalise(images)

    def _normalise(self, images: Tensor) -> Tensor:
        if not self.device.casts_while_computing:
            return torch.addcmul(self._bias, images.to(self.dtype), self._scale)
        out = torch.empty(
            images.shape, dtype=self.dtype, device=images.device, memory_format=self.device.memory_format
        )
        # One kernel reads bytes and writes halves: (64, 3, 224, 224) in 19 ms on 2 CPU cores, where cast,
        # subtract and multiply one after the other took 76.
        return torch.addcmul(self._bias, images, self._scale, out=out)

    def _span(self, lane: str, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.marks is None else self.marks.span(lane, name)

    @cached_property
    def _copy_stream(self) -> torch.Stream:
        return self.device.stream()

    def _copy(self, batch: HostBatch, slot: _Slot) -> None:
        """Queue the batch's copy into the slot, behind the pass that reads the slot's last batch."""
        count = len(batch.labels)
        with self._copy_stream:
            slot.normalized.wait(self._copy_stream)
            with self._span(COPY, COPY):
                slot.images[:count].copy_(batch.images, non_blocking=True)
                slot.labels[:count].copy_(batch.labels, non_blocking=True)
            slot.copied.record(self._copy_stream)

    def _take(self, in_flight: deque[tuple[_Slot, HostBatch]]) -> tuple[Tensor, Tensor]:
        """Normalise the oldest copy on the compute stream, and let its host batch go."""
        slot, batch = in_flight[0]
        count = len(batch.labels)
        compute = self.device.current_stream()
        slot.copied.wait(compute)
        images, labels = self.normalize(slot.images[:count]), slot.labels[:count].clone()
        slot.normalized.record(compute)
        # The one place where the host waits.  The copy was queued `ahead` batches ago, so it is long done
        # unless the device lags: this is also what keeps the host from running away from it.
        self.device.wait_for(slot.copied)
        in_flight.popleft()
        return images, labels

    def _next_slot(self, batch: HostBatch) -> _Slot:
        """The slot for this batch, `ahead` + 1 in turn; new ones where this batch is larger than all before."""
        if not (
            self._slots
            and self._slots[0].images.shape[1:] == batch.images.shape[1:]
            and self._slots[0].labels.dtype == batch.labels.dtype
            and len(batch.labels) <= len(self._slots[0].labels)
        ):
            self._slots = self._make_slots(batch)
        self._copies += 1
        return self._slots[self._copies % len(self._slots)]

    def _make_slots(self, batch: HostBatch) -> list[_Slot]:
        """Device memory for `ahead` + 1 batches as large as this one."""
        compute = self.device.current_stream()
        slots = [
            _Slot(
                torch.empty(batch.images.shape, dtype=torch.uint8, device=self.device.torch_device),
                torch.empty(batch.labels.shape, dtype=batch.labels.dtype, device=self.device.torch_device),
                self.device.event(),
                self.device.event(),
            )
            for _ in range(self.ahead + 1)
        ]
        for slot in slots:  # the memory may still be in use by what the compute stream has queued
            slot.normalized.record(compute)
        return slots
