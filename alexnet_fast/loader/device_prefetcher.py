"""Host batches to device batches: copied ahead on their own stream, normalized on the device."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..devices.device import Device
from ..devices.device_timer import COPY, NORMALIZE, STEP, DeviceTimer
from .buffer_pool import Slot
from .normalize import ImageNet, Normalizer
from .views import images_of, of_views, views_of


class HostBatch(Protocol):
    """images: uint8 (B, 3, H, W), contiguous, or a tuple of such tensors.  labels: (B,), int64 or float32, or (B, K).  All on the CPU.

    A batch that has a `slot` (buffer_pool.Slot) is copied as a whole.
    """

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...


@dataclass
class _DeviceBuffer:
    """Device memory for one batch of bytes, and the events that say who may touch it.

    memory: images and labels in one piece, laid out as the host's slots; None if each is a piece of its own.
    images: of each view.
    """

    memory: Tensor | None
    images: tuple[Tensor, ...]
    labels: Tensor
    copied: torch.Event  # recorded on the copy stream: the host batch may be released
    normalized: (
        torch.Event
    )  # recorded on the compute stream, behind what reads the buffer: it may be written again


class DevicePrefetcher:
    """Iterate over (images, labels) on `device`, normalized, in `dtype` and the memory format.

    images: (B, 3, H, W), as `Normalizer` makes them, or a tuple of them, as the host's are; bytes stay bytes where `dtype` is uint8.  labels: (B,), of the batch's
    dtype.

    On an accelerator `depth` batches are copied ahead, on a stream of their own, while the model computes; a host
    batch is kept until its copy is known to be done, since its memory is written again as soon as nobody
    holds it.  On a CPU nothing is copied.  A DevicePrefetcher keeps its device memory, so use one for the whole run;
    a pass ends when another starts.

    normalizes: False yields the bytes as they were copied, for a step that normalizes them itself; such a batch is written over
        once the next one was taken, in the order of the device's work.
    timer: records when each copy and each normalize ran, for callers that profile; None = nothing is recorded.
    normalizer: what normalizes, where others share it; None = one of its own, with ImageNet's mean and standard deviation.
    wait_s: seconds that the host has waited here for the device, so far.
    """

    def __init__(
        self,
        device: Device,
        dtype: torch.dtype,
        *,
        depth: int = 2,
        normalizes: bool = True,
        normalizer: Normalizer | None = None,
    ) -> None:
        self.device, self.dtype, self.depth = device, dtype, depth
        self.normalizes = normalizes
        self._normalizer = normalizer or Normalizer(device, ImageNet, dtype)
        self.timer: DeviceTimer | None = None
        self.wait_s = 0.0
        self._buffers: list[_DeviceBuffer] = []
        self._copies = self._passes = self._takes_slots = 0

    def __call__(self, batches: Iterable[HostBatch]) -> Generator[tuple[Tensor, Tensor], None, None]:
        """One pass over `batches`."""
        if self.device.is_host:
            if not self.normalizes:
                return ((batch.images, batch.labels) for batch in batches)
            return ((of_views(batch.images, self.normalize), batch.labels) for batch in batches)
        return self._copied_ahead(batches)

    def _copied_ahead(self, batches: Iterable[HostBatch]) -> Generator[tuple[Tensor, Tensor], None, None]:
        self._passes += 1
        this_pass = self._passes
        in_flight: deque[tuple[_DeviceBuffer, HostBatch]] = deque()  # copies queued, the oldest first
        try:
            for batch in batches:
                self._check_current(this_pass)
                buffer = self._next_buffer(batch)
                # Held before it is copied: whatever fails, the copy is waited for.
                in_flight.append((buffer, batch))
                self._copy(batch, buffer)
                if len(in_flight) > self.depth:
                    yield from self._deliver(in_flight)
            while in_flight:
                self._check_current(this_pass)
                yield from self._deliver(in_flight)
        finally:
            # Left early, or something failed: no host batch may be released before its copy is done.
            if in_flight:
                self._copy_stream.synchronize()

    def _check_current(self, this_pass: int) -> None:
        if this_pass != self._passes:  # its buffers are being written by the other
            raise RuntimeError(
                "this pass ended when another of the same DevicePrefetcher started: use one for each"
            )

    def normalize(self, images: Tensor) -> Tensor:
        """Bytes on the device to new images, normalized, in `dtype` and the memory format."""
        with self._span(STEP, NORMALIZE):
            return self._normalizer(images)

    def _span(self, lane: str, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.timer is None else self.timer.span(lane, name)

    @cached_property
    def _copy_stream(self) -> torch.Stream:
        return self.device.stream()

    def _copy(self, batch: HostBatch, buffer: _DeviceBuffer) -> None:
        """Queue the batch's copy into the buffer, after the normalize that reads the buffer's last batch."""
        count = len(batch.labels)
        with self._copy_stream:
            buffer.normalized.wait(self._copy_stream)
            with self._span(COPY, COPY):
                if buffer.memory is not None and (slot := slot_of(batch)) is not None:
                    buffer.memory.copy_(slot.memory, non_blocking=True)
                else:
                    for own, view in zip(buffer.images, views_of(batch.images), strict=True):
                        own[:count].copy_(view, non_blocking=True)
                    buffer.labels[:count].copy_(batch.labels, non_blocking=True)
            buffer.copied.record(self._copy_stream)

    def _deliver(self, in_flight: deque[tuple[_DeviceBuffer, HostBatch]]) -> Generator[tuple[Tensor, Tensor]]:
        """Yield the oldest copy, normalized on the compute stream unless the caller does that, and release its host batch."""
        buffer, batch = in_flight[0]
        count = len(batch.labels)
        compute = self.device.current_stream()
        buffer.copied.wait(compute)
        images, labels = images_of([view[:count] for view in buffer.images]), buffer.labels[:count]
        if self.normalizes:
            images, labels = of_views(images, self.normalize), labels.clone()
            buffer.normalized.record(compute)
        # The one place where the host waits.  The copy was queued `depth` batches ago, so it is long done
        # unless the device lags: this is also what keeps the host from running away from it.
        began_s = time.perf_counter()
        self.device.wait_for(buffer.copied)
        self.wait_s += time.perf_counter() - began_s
        in_flight.popleft()
        del batch
        yield images, labels
        if not self.normalizes:
            buffer.normalized.record(compute)  # behind the step that read it

    def _next_buffer(self, batch: HostBatch) -> _DeviceBuffer:
        """The buffer for this batch, the next of `depth` + 1; new ones if this batch is larger than all before."""
        if not (
            self._buffers
            and _shape_of(self._buffers[0].images) == _shape_of(views_of(batch.images))
            and self._buffers[0].labels.dtype == batch.labels.dtype
            and self._buffers[0].labels.shape[1:] == batch.labels.shape[1:]
            and len(batch.labels) <= len(self._buffers[0].labels)
            and self._takes_slots == size_of_slot(batch)
        ):
            self._buffers, self._takes_slots = self._make_buffers(batch), size_of_slot(batch)
        self._copies += 1
        return self._buffers[self._copies % len(self._buffers)]

    def _make_buffers(self, batch: HostBatch) -> list[_DeviceBuffer]:
        """Device memory for `depth` + 1 batches as large as this one."""
        compute = self.device.current_stream()
        buffers = [
            _DeviceBuffer(*self._make_memory(batch), self.device.event(), self.device.event())
            for _ in range(self.depth + 1)
        ]
        for buffer in buffers:  # the memory may still be in use by what the compute stream has queued
            buffer.normalized.record(compute)
        return buffers

    def _make_memory(self, batch: HostBatch) -> tuple[Tensor | None, tuple[Tensor, ...], Tensor]:
        """Device memory for one batch: all of it, each view's images, its labels."""
        device, views = self.device.torch_device, views_of(batch.images)
        if (slot := slot_of(batch)) is not None:
            shape = (len(views), slot.batch_size, *views[0].shape[1:])
            memory = torch.empty(slot.memory.shape, dtype=torch.uint8, device=device)
            label_shape = (slot.batch_size, *batch.labels.shape[1:])
            end = slot.labels_at + math.prod(label_shape) * batch.labels.element_size()
            labels = memory[slot.labels_at : end]
            with suppress(RuntimeError):  # of a backend that cannot read bytes as another dtype
                as_labels = labels.view(batch.labels.dtype).view(label_shape)
                return memory, memory[: math.prod(shape)].view(shape).unbind(), as_labels
        images = tuple(torch.empty(view.shape, dtype=torch.uint8, device=device) for view in views)
        return None, images, torch.empty(batch.labels.shape, dtype=batch.labels.dtype, device=device)


def _shape_of(views: tuple[Tensor, ...]) -> tuple[int, ...]:
    """How many views there are, and the shape of an image."""
    return (len(views), *views[0].shape[1:])


def slot_of(batch: HostBatch) -> Slot | None:
    """The batch's page-locked buffer as a whole, if it has one."""
    return getattr(batch, "slot", None)


def size_of_slot(batch: HostBatch) -> int:
    """Its bytes; 0 for none."""
    slot = slot_of(batch)
    return 0 if slot is None else slot.memory.numel()
