"""Batches on their way to the device: normalised, in order, and never let go too early."""

from __future__ import annotations

import dataclasses
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_fast.engine.device import Device, resolve
from alexnet_fast.engine.feed import Feed

CPU = resolve("cpu")


class Host(NamedTuple):
    images: Tensor
    labels: Tensor


def host_batches(sizes: list[int], px: int = 8) -> list[Host]:
    generator = torch.Generator().manual_seed(0)
    return [
        Host(
            torch.randint(0, 256, (size, 3, px, px), dtype=torch.uint8, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for size in sizes
    ]


def expected(images: Tensor) -> Tensor:
    """ToTensor + Normalize, as torchvision's reference transforms do it."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def test_on_a_cpu_bytes_become_normalised_channels_last_floats() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.01)):
        for batch, (images, labels) in zip(
            host_batches([4, 4, 1]), Feed(CPU, dtype)(host_batches([4, 4, 1])), strict=True
        ):
            assert images.dtype is dtype and images.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(images.float(), expected(batch.images), atol=tolerance, rtol=tolerance)
            assert torch.equal(labels, batch.labels)


def test_on_a_cpu_nothing_is_copied() -> None:
    (batch,) = host_batches([4])
    ((_, labels),) = Feed(CPU, torch.float32)([batch])
    assert labels.data_ptr() == batch.labels.data_ptr()


class Stream:
    """A queue of work that runs only when somebody waits for it: a device as late as can be."""

    def __init__(self) -> None:
        self.queue: deque[Any] = deque()
        self.done = 0
        self.queued = 0

    def put(self, work: Any) -> int:
        self.queue.append(work)
        self.queued += 1
        return self.queued

    def run_to(self, mark: int) -> None:
        while self.done < mark:
            self.done += 1
            self.queue.popleft()()


class Event:
    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.mark = 0

    def record(self, stream: Stream) -> None:
        self.stream, self.mark = stream, stream.queued

    def wait(self, stream: Stream) -> None:
        if self.stream is not None:
            of, mark = self.stream, self.mark
            stream.put(lambda: of.run_to(mark))

    def synchronize(self) -> None:
        if self.stream is not None:
            self.stream.run_to(self.mark)


@dataclasses.dataclass(frozen=True)
class LateDevice(Device):
    """An accelerator in CPU memory whose copies read the host batch only when they are waited for."""

    compute: Stream = dataclasses.field(default_factory=Stream)
    copies: Stream = dataclasses.field(default_factory=Stream)

    @property
    def is_host(self) -> bool:
        return False

    def stream(self) -> Stream:
        return self.copies

    def current_stream(self) -> Stream:
        return self.compute

    def on_stream(self, stream: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def event(self) -> Event:
        return Event()


class LateFeed(Feed):
    """The Feed, its copies put on the late stream."""

    def _copy(self, batch: Any) -> Any:
        assert isinstance(self.device, LateDevice)
        late = LateBatch(batch, self.device.copies)
        return super()._copy(late)

    def normalise(self, images: Tensor) -> Tensor:
        assert isinstance(self.device, LateDevice)
        self.device.compute.run_to(self.device.compute.queued)
        return super().normalise(images)


class LateBatch(NamedTuple):
    batch: Any
    copies: Stream

    @property
    def images(self) -> Any:
        return LateSource(self.batch.images, self.copies)

    @property
    def labels(self) -> Any:
        return LateSource(self.batch.labels, self.copies)


class LateSource:
    """What `slot.copy_(source)` reads: torch asks it through __torch_function__, and the copy is queued.

    Holds the host memory only as an address would: weakly.
    """

    def __init__(self, source: Tensor, copies: Stream) -> None:
        self.shape, self.copies, self.length = source.shape, copies, len(source)
        self.source = weakref.ref(source.numpy())

    def __len__(self) -> int:
        return self.length

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        target, late = args
        reference = late.source

        def work() -> None:
            memory = reference()
            assert memory is not None, "the host batch went before its copy"
            target[:] = torch.from_numpy(memory)

        late.copies.put(work)
        return target


def late_device() -> LateDevice:
    values = {field.name: getattr(CPU, field.name) for field in dataclasses.fields(CPU)}
    return LateDevice(**values)


class Ring:
    """Host batches whose memory goes with their last holder, as the loader's does."""

    def __init__(self, sizes: list[int]) -> None:
        self.templates = host_batches(sizes)
        self.alive = 0
        self.most_alive = 0

    def __iter__(self) -> Iterator[Any]:
        for template in self.templates:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
            batch = NumpyBatch(template.images.numpy().copy(), template.labels.numpy().copy())
            weakref.finalize(batch, self._gone)
            yield batch
            del batch

    def _gone(self) -> None:
        self.alive -= 1


class NumpyBatch:
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = HeldTensor(images), HeldTensor(labels)


class HeldTensor:
    """Enough of a tensor for LateSource, owning its memory."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory, self.shape = memory, torch.Size(memory.shape)

    def __len__(self) -> int:
        return len(self.memory)

    def numpy(self) -> np.ndarray:
        return self.memory


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_on_an_accelerator_batches_come_whole_and_in_order_however_late_their_copies(ahead: int) -> None:
    ring = Ring([4, 4, 4, 4, 4, 4, 4, 3])
    feed = LateFeed(late_device(), torch.float32, ahead=ahead)
    for _ in range(2):  # a Feed serves epoch after epoch from the same device memory
        got = list(feed(ring))
        assert [len(labels) for _, labels in got] == [4] * 7 + [3]
        for (images, labels), template in zip(got, ring.templates, strict=True):
            assert torch.allclose(images, expected(template.images), atol=1e-5)
            assert torch.equal(labels, template.labels)


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_on_an_accelerator_that_many_batches_are_copied_ahead_and_no_more_are_held(ahead: int) -> None:
    ring = Ring([4] * 9)
    device = late_device()
    feed = LateFeed(device, torch.float32, ahead=ahead)
    batches = feed(ring)
    next(batches)
    assert device.copies.queued >= 3 * ahead  # a wait and two copies a batch, not yet run
    list(batches)
    assert ring.most_alive == ahead + 1 and ring.alive == 0
    assert len(feed._slots) == ahead + 1


def test_leaving_early_waits_for_the_copies_that_are_under_way() -> None:
    ring, device = Ring([4] * 9), late_device()
    batches = LateFeed(device, torch.float32, ahead=2)(ring)
    next(batches)
    batches.close()
    assert not device.copies.queue and ring.alive == 0


class LaterFeed(LateFeed):
    """Here the normalising waits in the compute stream as well, until the test lets the device go on."""

    def normalise(self, images: Tensor) -> Tensor:
        assert isinstance(self.device, LateDevice)
        out = torch.empty(images.shape)
        self.device.compute.put(lambda: out.copy_(Feed.normalise(self, images)))
        return out


def test_a_host_batch_is_held_until_its_copy_is_known_to_be_done_and_a_slot_until_it_is_normalised() -> None:
    ring, device = Ring([4] * 9), late_device()
    got = [images for images, _ in LaterFeed(device, torch.float32, ahead=2)(ring)]
    assert device.compute.queue, "the device is still behind the host"
    device.compute.run_to(device.compute.queued)
    for images, template in zip(got, ring.templates, strict=True):
        assert torch.allclose(images, expected(template.images), atol=1e-5)


def test_larger_or_other_batches_get_larger_memory() -> None:
    feed = LateFeed(late_device(), torch.float32, ahead=1)
    for sizes in ([2, 5, 3], [7]):
        ring = Ring(sizes)
        for (images, _), template in zip(feed(ring), ring.templates, strict=True):
            assert torch.allclose(images, expected(template.images), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_the_pixels_are_the_cpus(dtype: torch.dtype) -> None:
    device = resolve("cuda")
    device.use()
    templates = host_batches([16] * 6 + [5], px=64)
    pinned = [Host(batch.images.pin_memory(), batch.labels.pin_memory()) for batch in templates]
    for template, (images, labels) in zip(templates, Feed(device, dtype)(pinned), strict=True):
        assert images.dtype is dtype and images.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(images.float().cpu(), expected(template.images), atol=2e-3, rtol=2e-3)
        assert torch.equal(labels.cpu(), template.labels)
