"""What must hold on every accelerator, tested on the one of this machine.

These are no tests of the machine they are written on.  tests/devices/test_on_npu_standin.py runs this file in a
process of its own on the stand-in NPU (tests/standin), tests/devices/test_on_gpu.py on a GPU; on a machine with a real
NPU `python -m pytest tests/accelerator_cases.py` runs it there.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import betons
from alexnet_fast import ImageNet, Loader, pack_dataset
from alexnet_fast import train as command
from alexnet_fast import trainer as training
from alexnet_fast.devices.device import Device
from alexnet_fast.devices.device_timer import DeviceTimer
from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.fast_paths import Choices, use
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.sgd import fused_or_foreach
from alexnet_fast.engine.tasks import Classification, Regression
from alexnet_fast.engine.train_state import TrainState
from alexnet_fast.errors import UserError
from alexnet_fast.loader.buffer_pool import Batch, BufferPool
from alexnet_fast.loader.device_prefetcher import DevicePrefetcher
from alexnet_fast.models import MODELS
from alexnet_fast.models.alexnet import AlexNet
from alexnet_fast.models.initial_weights import initialise_he
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from alexnet_fast.profile import stepping
from alexnet_fast.run import checkpoint
from components import ROOT
from poison import poisoned_memory

STANDIN = getattr(getattr(torch, "npu", None), "standin", None)
IS_EXACT = STANDIN is not None  # it computes bit for bit as the CPU does
LATE_S = 0.01
RATE = 5e-4  # He's weights learn fast; at higher rates training on 24 images is chaotic and amplifies any rounding

needs_standin = pytest.mark.skipif(STANDIN is None, reason="only the stand-in NPU is late, or counts")


@pytest.fixture(scope="module")
def device() -> Device:
    device = resolve("auto")
    assert not device.is_host, "this file is for accelerators"
    torch.set_num_threads(1 if IS_EXACT else torch.get_num_threads())
    device.use()
    return device


@pytest.fixture
def late() -> Iterator[Any]:
    """late(copies_s=..., compute_s=...): from then on the stand-in's streams lag behind the host."""
    assert STANDIN is not None
    yield STANDIN.be_late
    STANDIN.be_late()


class PinnedBatches:
    """Batches in the loader's own buffer pool, each with other pixels, written as soon as their buffer is free."""

    def __init__(self, sizes: list[int], px: int = 8) -> None:
        self.pool, self.sizes, self.px = BufferPool(max(sizes), px, max_free=8, pin_memory=True), sizes, px
        self.buffers: list[Any] = []

    def expected(self, k: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(k)
        shape = (self.sizes[k], 3, self.px, self.px)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return images, torch.randint(0, 1000, shape[:1], generator=generator)

    def __iter__(self) -> Iterator[Batch]:
        for k, size in enumerate(self.sizes):
            images, labels = self.expected(k)
            buffer = self.pool.take()
            buffer.images[:size], buffer.labels[:size] = images.numpy(), labels.numpy()
            if buffer not in self.buffers:
                self.buffers.append(buffer)
            yield self.pool.lend(buffer, size)

    @property
    def lent(self) -> int:
        return len(self.buffers) - len(self.pool._free)


def normalized(images: Tensor) -> Tensor:
    """ToTensor + Normalize, as in torchvision's reference transforms."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def check_all_arrive(feed: DevicePrefetcher, batches: PinnedBatches, tolerance: float = 1e-5) -> None:
    """Assert that all batches of a pass arrive complete and in order; nothing is read back before the pass ends."""
    got = list(feed(batches))
    assert len(got) == len(batches.sizes)
    for k, (images, labels) in enumerate(got):
        pixels, numbers = batches.expected(k)
        assert torch.equal(labels.cpu(), numbers), k
        assert torch.allclose(images.float().cpu(), normalized(pixels), atol=tolerance, rtol=tolerance), k


# --- feeding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_batches_arrive_complete_and_in_order_epoch_after_epoch(
    device: Device, dtype: torch.dtype, depth: int
) -> None:
    feed = DevicePrefetcher(device, dtype, depth=depth)
    for sizes in ([4] * 9 + [3], [4] * 9 + [3], [2], [1, 6, 6, 5]):
        check_all_arrive(feed, PinnedBatches(sizes), 1e-5 if dtype is torch.float32 else 4e-3)
    images, _ = next(iter(feed(PinnedBatches([4]))))
    assert images.dtype is dtype and images.is_contiguous(memory_format=device.memory_format)


@pytest.mark.parametrize("pinned", [True, False])
def test_several_views_of_a_batch_arrive_as_they_are(pinned: bool, device: Device) -> None:
    pool, feed = (
        BufferPool(4, (8, 6), max_free=8, pin_memory=pinned, views=2),
        DevicePrefetcher(device, torch.uint8),
    )
    generator = torch.Generator().manual_seed(0)
    expected = [
        torch.randint(0, 256, (2, count, 3, 8, 6), dtype=torch.uint8, generator=generator)
        for count in (4, 4, 4, 4, 3)
    ]

    def batches() -> Iterator[Batch]:
        for views in expected:
            buffer, count = pool.take(), views.shape[1]
            buffer.every_view[:, :count], buffer.labels[:count] = views.numpy(), range(count)
            yield pool.lend(buffer, count)

    got = list(feed(batches()))
    assert len(got) == len(expected)
    for (images, labels), views in zip(got, expected):
        assert isinstance(images, tuple) and labels.tolist() == list(range(views.shape[1]))
        assert torch.equal(torch.stack([each.cpu() for each in images]), views)


def bytes_arrive(feed: DevicePrefetcher, batches: PinnedBatches) -> None:
    """Assert that each batch is whole for what is queued before the next one is taken."""
    got = [(images + 0, labels + 0) for images, labels in feed(batches)]
    assert len(got) == len(batches.sizes)
    for k, (images, labels) in enumerate(got):
        pixels, numbers = batches.expected(k)
        assert images.dtype is torch.uint8 and torch.equal(images.cpu(), pixels), k
        assert torch.equal(labels.cpu(), numbers), k


def test_a_step_that_normalizes_itself_gets_every_batchs_bytes(device: Device) -> None:
    feed = DevicePrefetcher(device, torch.float16, normalizes=False)
    for sizes in ([4] * 9 + [3], [2], [1, 6, 6, 5]):
        bytes_arrive(feed, PinnedBatches(sizes))


@needs_standin
@pytest.mark.parametrize("waits", [True, False], ids=["it waits", "without the wait"])
def test_the_copy_stream_waits_for_the_step_that_reads_bytes(waits: bool, device: Device, late: Any) -> None:
    feed, batches = DevicePrefetcher(device, torch.float16, normalizes=False), PinnedBatches([4] * 10)
    bytes_arrive(feed, batches)
    for buffer in feed._buffers if not waits else ():
        buffer.normalized = Deaf(device.torch_device, enable_timing=False)
    late(compute_s=LATE_S)
    with nullcontext() if waits else pytest.raises(AssertionError):
        bytes_arrive(feed, batches)


def test_float_targets_arrive_as_they_are_and_are_counted_as_on_the_cpu(device: Device) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = (
        torch.randn(40, 1, generator=generator),
        1e3 * torch.randn(40, generator=generator),
    )
    images, task = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), Regression()
    feed = DevicePrefetcher(device, torch.float32)
    got = torch.cat([each for _, each in feed([Batch(images, part) for part in targets.split(8)])])
    assert got.dtype is torch.float32 and torch.equal(got.cpu(), targets)
    counts = task.counts(outputs.to(device.torch_device), got)
    assert torch.equal(counts.cpu(), task.counts(outputs, targets)) and counts.any()
    ((_, classes),) = feed([Batch(images, torch.arange(8))])  # its buffers contained floats before
    assert classes.dtype is torch.int64 and classes.tolist() == list(range(8))


class PinnedVectors(PinnedBatches):
    """The same with labels that are vectors of five numbers."""

    def __init__(self, sizes: list[int], px: int = 8) -> None:
        super().__init__(sizes, px)
        self.pool = BufferPool(
            max(sizes),
            px,
            max_free=8,
            pin_memory=True,
            label_dtype=np.dtype(np.float32),
            label_shape=(5,),
        )

    def expected(self, k: int) -> tuple[Tensor, Tensor]:
        images, labels = super().expected(k)
        return images, labels[:, None] + torch.arange(5.0) / 10


def test_vectors_arrive_as_labels_next_to_batches_of_numbers(device: Device) -> None:
    feed = DevicePrefetcher(device, torch.float32)
    check_all_arrive(feed, PinnedVectors([4] * 8 + [3]))
    assert feed._buffers[0].labels.shape == (4, 5)
    check_all_arrive(feed, PinnedBatches([4] * 3))
    check_all_arrive(feed, PinnedVectors([6] * 3))


def test_further_fields_come_with_the_batch_of_a_device(device: Device, tmp_path: Path) -> None:
    items = [(betons.picture(80, 60, k), k, [k, 0.5], {"k": k}) for k in range(8)]
    fields = {"label": "int", "attrs": "float32[2]", "note": "json"}
    pack_dataset(items, tmp_path / "a.beton", fields, workers=1, progress=lambda done: None)
    options: Any = {"train": True, "size": 32, "pin_memory": True, "fields": ("image", *fields)}
    with Loader(tmp_path / "a.beton", 2, **options) as loader:
        batches: list[Any] = list(loader.prefetch_to(device.kind))
    for batch in batches:
        places = batch.indices.tolist()
        assert {each.device.type for each in (batch.image, batch.label, batch.attrs)} == {device.kind}
        assert batch.label.tolist() == places and batch.attrs.cpu().tolist() == [[k, 0.5] for k in places]
        assert batch.note == [{"k": k} for k in places] and batch.images is batch.image
    assert sorted(k for batch in batches for k in batch.indices.tolist()) == list(range(8))


@needs_standin
def test_late_copies_read_the_right_batch(device: Device, late: Any) -> None:
    late(copies_s=LATE_S)
    check_all_arrive(DevicePrefetcher(device, torch.float32), PinnedBatches([4] * 10 + [3]))


@needs_standin
def test_a_device_far_behind_the_host_gets_every_batch(device: Device, late: Any) -> None:
    late(compute_s=LATE_S)
    check_all_arrive(DevicePrefetcher(device, torch.float32), PinnedBatches([4] * 10 + [3]))


@needs_standin
def test_a_slot_is_copied_as_a_whole_since_the_host_waits_for_a_copy_from_within_one(device: Device) -> None:
    assert STANDIN is not None
    batches = PinnedBatches([4] * 8 + [3])
    feed, before = DevicePrefetcher(device, torch.float32), STANDIN.waits()
    check_all_arrive(feed, batches)
    copies = [name for name in STANDIN.waits() - before if name.startswith("copy from")]
    assert copies == [] and feed._buffers[0].memory is not None
    (host,) = PinnedBatches([4])
    host.labels.to(device.torch_device, non_blocking=True)
    assert "copy from an offset of pinned memory" in {
        name.partition(" in ")[0] for name in STANDIN.waits() - before
    }


@needs_standin
def test_a_backend_that_cannot_read_bytes_as_labels_gets_two_copies(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = Tensor.view

    def without_dtypes(tensor: Tensor, *shape: Any) -> Tensor:
        if tensor.device.type != "cpu" and isinstance(shape[0], torch.dtype):
            raise RuntimeError("view with another dtype is not supported")
        return view(tensor, *shape)

    monkeypatch.setattr(Tensor, "view", without_dtypes)
    feed = DevicePrefetcher(device, torch.float32)
    check_all_arrive(feed, PinnedBatches([4] * 8 + [3]))
    assert feed._buffers[0].memory is None


def test_batches_with_and_without_a_slot_may_alternate(device: Device) -> None:
    feed, batches = DevicePrefetcher(device, torch.float32), PinnedBatches([4] * 6)
    own = [Batch(*batches.expected(k)) if k % 2 else batch for k, batch in enumerate(batches)]
    for k, (images, labels) in enumerate(feed(own)):
        pixels, numbers = batches.expected(k)
        assert torch.equal(labels.cpu(), numbers)
        assert torch.allclose(images.cpu(), normalized(pixels), atol=1e-5)


@needs_standin
def test_events_that_tell_no_time_are_one_sentence_for_whoever_measures(device: Device) -> None:
    assert STANDIN is not None
    STANDIN.tell_time(False)
    try:
        with pytest.raises(
            UserError, match="npu:0 cannot be measured, .*2.9.0.post2 on: install a newer one"
        ):
            DeviceTimer(device)
    finally:
        STANDIN.tell_time(True)


@needs_standin
def test_how_long_the_host_waits_for_the_device_is_counted(device: Device, late: Any) -> None:
    late(copies_s=10 * LATE_S)
    feed = DevicePrefetcher(device, torch.float32)
    list(feed(PinnedBatches([4] * 10)))
    assert feed.wait_s > LATE_S


class Deaf(torch.Event):
    """An event that streams do not wait for."""

    def wait(self, stream: Any = None) -> None:
        pass


MUTATIONS = {
    "the host does not wait for a buffer's copy": "host",
    "the compute stream does not wait for the copy": "compute",
    "the copy stream does not wait until the buffer's last batch was normalized": "copies",
}


@needs_standin
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_without_any_one_of_the_three_waits_pixels_are_lost(
    mutation: str, device: Device, late: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation test of the two above: each wait is removed in turn, and the check must fail."""
    feed, batches, without = (
        DevicePrefetcher(device, torch.float32),
        PinnedBatches([4] * 10 + [3]),
        MUTATIONS[mutation],
    )
    check_all_arrive(feed, batches)
    if without == "host":
        monkeypatch.setattr(Device, "wait_for", lambda self, event: None)
    for buffer in feed._buffers:
        if without == "compute":
            buffer.copied = Deaf(device.torch_device, enable_timing=False)
        if without == "copies":
            buffer.normalized = Deaf(device.torch_device, enable_timing=False)
    late(**({"compute_s": LATE_S} if without == "copies" else {"copies_s": LATE_S}))
    with pytest.raises(AssertionError):
        check_all_arrive(feed, batches)


@needs_standin
def test_the_loaders_pixels_survive_late_copies_while_its_threads_refill_the_pool(
    device: Device, late: Any, tmp_path: Path
) -> None:
    jpegs = [encode_jpeg(betons.picture(80, 60, k), Encoding()) for k in range(24)]
    path = betons.write(tmp_path / "a.beton", jpegs)
    with Loader(path, 4, train=True, size=64, seed=5) as loader:
        expected = [(batch.images.clone(), batch.labels.clone()) for _ in range(3) for batch in loader]
    late(copies_s=LATE_S)
    feed = DevicePrefetcher(device, torch.float32)
    with Loader(path, 4, train=True, size=64, seed=5, threads=2, pin_memory=True) as loader:
        got = [pair for _ in range(3) for pair in feed(loader)]
    for (images, labels), (pixels, numbers) in zip(got, expected, strict=True):
        assert torch.equal(labels.cpu(), numbers)
        assert torch.allclose(images.cpu(), normalized(pixels), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_depth_batches_are_copied_in_advance_and_no_more_are_held(device: Device, depth: int) -> None:
    batches, most = PinnedBatches([4] * 12), 0
    feed = DevicePrefetcher(device, torch.float32, depth=depth)
    for _ in feed(batches):
        most = max(most, batches.lent)
    gc.collect()
    assert len(batches.buffers) == depth + 1 == len(feed._buffers) and most == depth and batches.lent == 0


@needs_standin
def test_leaving_early_waits_for_the_copies_in_progress(device: Device) -> None:
    gate = Event()
    feed, batches = DevicePrefetcher(device, torch.float32), PinnedBatches([4] * 9)
    with closing(feed(batches)) as few:
        next(few)
        with feed._copy_stream:
            STANDIN.launch(STANDIN.COMPUTE, gate.wait)
        assert not feed._copy_stream.query() and batches.lent == 2
        Timer(0.1, gate.set).start()
    assert feed._copy_stream.query() and batches.lent == 0
    check_all_arrive(feed, batches)


@needs_standin
@pytest.mark.parametrize("fault", ["the loader", "a batch's labels"])
def test_a_failure_waits_for_the_copies_in_progress_too(fault: str, device: Device, late: Any) -> None:
    class Broken(PinnedBatches):
        def __iter__(self) -> Iterator[Batch]:
            for k, batch in enumerate(super().__iter__()):
                if k == 2 and fault == "the loader":
                    raise ValueError("broken")
                yield batch if k < 2 else Batch(batch.images, batch.labels.int().numpy())  # type: ignore[arg-type]
                del batch

    late(copies_s=LATE_S)
    feed, batches = DevicePrefetcher(device, torch.float32), Broken([4] * 9)
    with pytest.raises((ValueError, TypeError)):
        list(feed(batches))
    assert feed._copy_stream.query()


def test_a_loaders_state_counts_what_was_handed_out_and_not_what_is_being_copied(
    device: Device, tmp_path: Path
) -> None:
    """A script breaks with three batches in flight; a resume hands them out."""
    path = betons.write(
        tmp_path / "a.beton", [encode_jpeg(betons.picture(80, 60, k), Encoding()) for k in range(24)]
    )

    def opened() -> Any:
        options: dict[str, Any] = {"size": 64, "seed": 5, "pin_memory": True, "normalize": ImageNet}
        return Loader(path, 2, train=True, **options).prefetch_to(str(device.torch_device), depth=3)

    with opened() as loader:
        expected = [batch.indices.tolist() for batch in loader]
        loader.set_epoch(0)
        pixels = [batch.images.cpu() for batch in loader]
    with opened() as loader:
        before = [batch.indices.tolist() for _, batch in zip(range(4), loader)]
        state = loader.state_dict()
    assert before == expected[:4] and state["samples"] == 8
    with opened() as loader:
        loader.load_state_dict(state)
        for batch, indices, images in zip(loader, expected[4:], pixels[4:], strict=True):
            assert batch.indices.tolist() == indices and batch.images.device.type == device.kind
            assert torch.equal(batch.images.cpu(), images)


def test_bytes_stay_bytes_on_the_device(device: Device, tmp_path: Path) -> None:
    path = betons.write(
        tmp_path / "a.beton", [encode_jpeg(betons.picture(80, 60, k), Encoding()) for k in range(8)]
    )
    with Loader(path, 2, train=True, size=32, pin_memory=True) as loader:
        expected = [(batch.images.clone(), batch.labels.clone(), batch.indices.clone()) for batch in loader]
        loader.set_epoch(0)
        kept = list(loader.prefetch_to(device.kind))
        for batch, (images, labels, indices) in zip(kept, expected, strict=True):
            assert batch.images.dtype is torch.uint8 and torch.equal(batch.images.cpu(), images)
            assert torch.equal(batch.labels.cpu(), labels) and torch.equal(batch.indices, indices)


def test_a_pass_ends_when_another_of_the_same_feed_starts(device: Device) -> None:
    feed = DevicePrefetcher(device, torch.float32)
    first, second = feed(PinnedBatches([4] * 6)), feed(PinnedBatches([4] * 6))
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="use one for each"):
        next(first)


# --- training ------------------------------------------------------------------------------------------------------


class SmallAlexNet(AlexNet):
    """AlexNet with a classifier 16 times narrower: the same operations, in a fraction of the time."""

    def __init__(self, num_classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__(1, dropout)
        for place, inputs, outputs in ((1, 9216, 256), (4, 256, 256), (6, 256, num_classes)):
            self.classifier[place] = nn.Linear(inputs, outputs)


class LearnableBatches(PinnedBatches):
    """Ten classes that differ in the brightness of their noise."""

    def expected(self, k: int) -> tuple[Tensor, Tensor]:
        images, labels = super().expected(k)
        labels %= 10
        return images // 4 + (19 * labels).to(torch.uint8).view(-1, 1, 1, 1), labels


def train(
    device: Device, level: Any, steps: int, make: Any = SmallAlexNet
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of this many steps over three batches of 8 images, 64 px."""
    torch.manual_seed(0)
    model = make(10, dropout=0.0)
    initialise_he(model)
    sgd = partial(torch.optim.SGD, lr=RATE, momentum=0.9, weight_decay=1e-4, fused=True)
    # A fixed loss scale: a dynamic one skips its first steps, and the losses would be those of earlier steps.
    precision = Precision(model, sgd, level=level, device=device, loss_scale=1024.0)
    feed, batches = DevicePrefetcher(device, precision.dtype), LearnableBatches([8] * 3, 64)
    losses: list[Tensor] = []
    while len(losses) < steps:
        for images, labels in feed(batches):
            loss = functional.cross_entropy(precision.forward(images), labels, label_smoothing=0.1)
            precision.backward(loss)
            precision.learning_rate = RATE
            precision.step()
            losses.append(loss.detach())
    return [loss.item() for loss in losses], precision.state_dict()


def test_three_float32_steps_of_alexnet_are_those_of_the_cpu(device: Device) -> None:
    losses, weights = train(device, "O0", 3, AlexNet)
    cpu = replace(resolve("cpu"), memory_format=device.memory_format)
    expected, expected_weights = train(cpu, "O0", 3, AlexNet)
    if IS_EXACT:
        assert losses == expected
        assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)
    assert losses == pytest.approx(expected, rel=1e-3)
    for key, tensor in weights.items():
        assert torch.allclose(tensor, expected_weights[key], atol=1e-4), key


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_half_precision_follows_the_float32_losses_within_1_percent_over_30_steps(
    device: Device, level: str
) -> None:
    losses, _ = train(device, level, 30)
    expected, _ = train(device, "O0", 30)
    assert losses == pytest.approx(expected, rel=0.01)
    assert expected[-1] < 0.7 * expected[0], "and the loss did fall"


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("loss_scale", ["dynamic", 1024.0])
def test_a_first_step_that_overflows_leaves_zero_momenta(device: Device, level: Any, loss_scale: Any) -> None:
    sgd = partial(torch.optim.SGD, lr=RATE, momentum=0.9, weight_decay=1e-4)
    precision = Precision(
        SmallAlexNet(), fused_or_foreach(sgd, device), level=level, device=device, loss_scale=loss_scale
    )
    before = precision.state_dict()
    feed, batches = DevicePrefetcher(device, precision.dtype), LearnableBatches([8] * 2, 64)
    with poisoned_memory():
        for step, (images, labels) in enumerate(feed(batches)):
            loss = functional.cross_entropy(precision.forward(images), labels)
            precision.backward(loss * (torch.inf if step == 0 else 1.0))
            precision.learning_rate = RATE
            precision.step()
            if step == 0:
                states = precision.optimizer.state_dict()["state"].values()
                momenta = [state["momentum_buffer"].cpu() for state in states]
                assert len(momenta) == len(list(precision.model.parameters()))
                assert not any(momentum.any() for momentum in momenta)
    assert int(precision.skipped) == 1
    after = precision.state_dict()
    assert all(after[key].isfinite().all() and not torch.equal(after[key], before[key]) for key in after)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.beton of 200 images and val.beton of 7, three classes."""
    folder = tmp_path_factory.mktemp("sets")
    jpegs = [encode_jpeg(betons.picture(90, 80, k), Encoding()) for k in range(20)]
    for name, count in (("train", 200), ("val", 7)):
        betons.write(folder / f"{name}.beton", (jpegs * 10)[:count], [k % 3 for k in range(count)])
    return folder


def overrides(device: Device, sets: Path, out: Path, **more: Any) -> list[str]:
    """recipes/1p.toml at a size for tests."""
    values = {
        "run.device": device.kind, "run.out": str(out), "data.train": str(sets / "train.beton"),
        "data.val": str(sets / "val.beton"), "data.size": 64, "data.global_batch_size": 4, "model.num_classes": 3,
    }  # fmt: skip
    values |= {key.replace("__", "."): value for key, value in more.items()}
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


RECIPE = str(ROOT / "recipes" / "1p.toml")


@needs_standin
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "captured"])
def test_fifty_steps_make_no_synchronising_call_except_those_of_print_freq(
    graph: bool, device: Device, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert STANDIN is not None
    ends: list[Counter[str]] = []  # how often, and for what, the host had waited at the end of each step
    allocated: list[int] = []  # how often each step got memory of the device
    replays, step = STANDIN.replays, TrainState.train_step

    def counted(state: TrainState, images: Tensor, targets: Tensor) -> None:
        before = STANDIN.allocations
        step(state, images, targets)
        ends.append(STANDIN.waits())
        allocated.append(STANDIN.allocations - before)

    monkeypatch.setitem(MODELS, "alexnet", replace(MODELS["alexnet"], network=f"{__name__}:SmallAlexNet"))
    more = {"schedule__epochs": 1, "log__print_freq": 10, "log__warmup_steps": 5, "eval__every": 0}
    arguments = overrides(device, sets, tmp_path, **more, checkpoint__every_epochs=0, engine__graph=graph)
    with monkeypatch.context() as patched:
        patched.setattr(training, "fast_paths", without_counting(training.fast_paths, patched, counted))
        assert command.main([RECIPE, *arguments]) == 0
    assert len(ends) == 50 and STANDIN.replays - replays >= 50 * graph
    assert set(allocated) == {0} if graph else min(allocated) > 0
    for k, (before, after) in enumerate(pairwise(ends)):
        waits = after - before
        if k == 4:
            assert waits == Counter({"device": 1}), "the end of the clock's warm-up, once per run"
        elif k % 10:
            assert waits == Counter(), k
        else:
            assert 0 < waits.total() <= 6 and not {"device", "stream"} & set(waits), "a log line"


def without_counting(prove: Any, patched: pytest.MonkeyPatch, counted: Any) -> Any:
    """The proof of the fast paths, after which steps are counted."""

    def proven(*arguments: Any) -> Any:
        paths = prove(*arguments)
        patched.setattr(TrainState, "train_step", counted)
        return paths

    return proven


# --- captured steps -------------------------------------------------------------------------------------------------


def train_state(device: Device, level: Any = "O2", dropout: float = 0.5, **settings: Any) -> TrainState:
    torch.manual_seed(0)
    model = SmallAlexNet(10, dropout)
    initialise_he(model)
    sgd = partial(torch.optim.SGD, lr=RATE, momentum=0.9, weight_decay=1e-4)
    make = fused_or_foreach(sgd, device)
    precision = Precision(model, make, level=level, device=device, loss_scale="dynamic", **settings)
    return TrainState(precision, Meter(device.torch_device, task=Classification(label_smoothing=0.1)))


def batch(k: int, size: int = 8) -> tuple[Tensor, Tensor]:
    return LearnableBatches([size] * (k + 1), 64).expected(k)


def state_after(state: TrainState, sizes: list[int], overflow_at: int) -> dict[str, Tensor]:
    """All that steps of these batch sizes leave, each at another rate, one of them with an overflow."""
    state.precision.model.train()
    torch.manual_seed(3)
    for k, size in enumerate(sizes):
        state.lr = RATE / (k + 1)
        if state.precision.scaler.is_enabled():
            scale = 1e38 if k == overflow_at else 128.0
            state.precision.scaler.load_state_dict({"scale": scale, "_growth_tracker": 1})
        images, labels = batch(k, size)
        where = state.precision.device.torch_device
        state.train_step(images.to(where), labels.to(where))
    return {name: tensor.detach().cpu().clone() for name, tensor in state.tensors().items()}


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_captured_steps_are_the_eager_ones_with_dropout_overflow_and_a_smaller_last_batch(
    device: Device, level: str
) -> None:
    captured, eager = train_state(device, level), train_state(device, level)
    paths = use(captured, Choices(graph=True), 8, 64, 10)
    assert paths.on == ["graph"], paths.notes
    got, expected = (state_after(state, [8, 8, 8, 8, 3], 1) for state in (captured, eager))
    assert int(got["skipped steps"]) == (level != "O0") and got["counts"][:2].tolist() == [5, 35]
    for name, tensor in expected.items():
        if IS_EXACT:
            assert torch.equal(got[name], tensor), name
        else:
            assert torch.allclose(got[name].float(), tensor.float(), rtol=1e-2, atol=1e-3), name


def test_an_evaluations_forward_pass_is_captured_too(device: Device) -> None:
    state = train_state(device)
    paths = use(state, Choices(graph=True), 8, 64, 10, evaluation=(8, 64))
    assert paths.on == ["graph"] and not paths.notes and state.evaluation_graph is not None
    state.precision.model.eval()
    with torch.no_grad():
        for k, size in ((0, 8), (1, 8), (2, 5)):
            images = state.normalize(batch(k, size)[0].to(device.torch_device))
            assert state.evaluation_graph.takes(images) == (size == 8)
            assert torch.allclose(
                state.evaluate(images).cpu(), state.precision.forward(images).cpu(), atol=1e-3
            )


def test_a_profile_of_captured_steps_still_has_their_parts(device: Device) -> None:
    state = train_state(device)
    assert use(state, Choices(graph=True), 8, 64, 10).on == ["graph"]
    feed = DevicePrefetcher(device, state.precision.dtype, normalizes=False)
    stepping.prepare(state)
    stepping.mark(state, feed, DeviceTimer(device))
    images, labels = (each.to(device.torch_device) for each in batch(0))
    figures = stepping.measure(state, feed, (images, labels), 1, 0.2, World())
    parts = figures.normalise_ms, figures.forward_ms, figures.backward_ms, figures.optimizer_ms
    assert all(part.median > 0 for part in parts) and state.graph is not None
    assert sum(part.median for part in parts) == pytest.approx(figures.step_ms.median, rel=0.2)


@needs_standin
@pytest.mark.parametrize("fault", ["moved", "freed", "a wait"])
def test_a_graph_that_would_use_other_memory_or_wait_is_refused(fault: str, device: Device) -> None:
    state = train_state(device)
    if fault == "a wait":
        state.task.__dict__["loss"] = lambda outputs, targets: outputs.sum() * outputs.max().item()
        paths = use(state, Choices(graph=True), 8, 64, 10)
        assert paths.on == [] and "operation not permitted when stream is capturing" in paths.notes[0]
        return
    assert use(state, Choices(graph=True), 8, 64, 10).on == ["graph"]
    if fault == "moved":
        weight = next(state.precision.model.parameters())
        weight.data = weight.data.clone()
    else:
        state.precision.optimizer.state.clear()
    with pytest.raises(RuntimeError, match="address has changed" if fault == "moved" else "freed"):
        state_after(state, [8], -1)


@needs_standin
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "captured"])
def test_a_card_that_saturates_skips_a_step_that_overflows(
    graph: bool, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STANDIN, "saturates", True)
    assert device.saturates
    added_up: list[Any] = []  # several ranks would sum their flags
    state = train_state(device, over_ranks=added_up.append)
    if graph:
        assert use(state, Choices(graph=True), 8, 64, 10).on == ["graph"]
    before = state.precision.state_dict()
    skipped = state_after(state, [8], 0)
    assert int(skipped["skipped steps"]) == 1 and added_up
    assert all(torch.equal(before[key], tensor) for key, tensor in state.precision.state_dict().items())
    trained = state_after(state, [8, 8], -1)
    assert int(trained["skipped steps"]) == 1
    assert not torch.equal(trained["master of features.0.weight"], before["features.0.weight"])


@needs_standin
def test_the_stand_in_counts_a_step_without_a_kernel_as_a_wait(device: Device) -> None:
    number = nn.Parameter(torch.zeros(3, device=device.torch_device))
    number.grad = torch.ones_like(number)
    before = STANDIN.waits()
    torch.optim.SGD([number], lr=0.1, fused=True).step()
    assert any("fallback" in name for name in STANDIN.waits() - before)
    before = STANDIN.waits()
    state_after(train_state(device), [8], -1)
    assert not any("fallback" in name for name in STANDIN.waits() - before)


def results(folder: Path) -> tuple[list[float], dict[str, Tensor], dict[str, Any]]:
    """A run's step losses, last weights and report."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    weights: dict[str, Tensor] = checkpoint.load(folder / "checkpoint_last.pt")["state_dict"]
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    return losses, weights, json.loads((folder / "report.json").read_text())


def test_a_whole_run_of_1p_packs_trains_evaluates_and_resumes(
    device: Device, tmp_path: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, count in (("train", 13), ("val", 7)):
        for k in range(count):
            folder = tmp_path / "images" / split / f"class{k % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            betons.picture(90, 80, k).save(folder / f"{k:02}.JPEG")
    packed = run_cli("tools/write_beton.py", "--data", tmp_path / "images", "--out", tmp_path / "betons")
    assert packed.code == 0, packed.stderr
    options = {"schedule__epochs": 2, "schedule__steps_per_epoch": 2, "log__print_freq": 1}
    runs = {name: tmp_path / name / "1p" for name in ("whole", "resumed")}
    arguments = {
        name: [RECIPE, *overrides(device, tmp_path / "betons", tmp_path / name, **options)] for name in runs
    }
    assert command.main(arguments["whole"]) == 0
    losses, weights, report = results(runs["whole"])
    assert len(losses) == report["steps"] == 4 and report["val_samples"] == 7 and report["skipped_steps"] < 4
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    AlexNet(3).load_state_dict(weights, strict=True)

    save = training.Trainer.save

    def save_and_stop(training: training.Trainer, is_best: bool = False) -> None:
        save(training, is_best)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # stopped after its first epoch, to resume in the second
        patched.setattr(training.Trainer, "save", save_and_stop)
        assert command.main(arguments["resumed"]) == 130
    torch.manual_seed(99)  # whatever happens between the two must not matter
    assert command.main([*arguments["resumed"], "--resume", "auto"]) == 0
    again, weights_again, _ = results(runs["resumed"])
    if IS_EXACT:
        assert again == losses and all(torch.equal(weights[key], weights_again[key]) for key in weights)
    assert again == pytest.approx(losses, rel=0.05)

    assert command.main([*arguments["whole"], "--eval"]) == 0
    assert json.loads((runs["whole"] / "eval.json").read_text())["acc1"] == report["best_acc1"]


@needs_standin
def test_two_ranks_train_on_two_devices_alike_with_ddp_and_with_captured_steps(
    device: Device, sets: Path, tmp_path: Path, run_cli: Any
) -> None:
    environment = {"ASCEND_RT_VISIBLE_DEVICES": "0,1", "PYTHONPATH": os.environ["PYTHONPATH"]}
    losses = {}
    for graph in (False, True):
        more = {"schedule__epochs": 1, "schedule__steps_per_epoch": 3, "log__print_freq": 1, "eval__every": 0}
        more |= {"distributed__nproc": 2, "engine__graph": graph, "precision__loss_scale": 128.0}
        folder = tmp_path / str(graph)
        arguments = overrides(device, sets, folder, checkpoint__every_epochs=0, **more)
        done = run_cli("tests/stress/narrow_model.py", RECIPE, *arguments, env=environment)
        assert done.code == 0, done.stderr
        assert "on 2 x npu" in done.stdout and done.stdout.count("Epoch: [0]") == 3
        assert ("in flat buffers" in done.stdout) == graph and "engine.graph is off" not in done.stdout
        lines = [json.loads(line) for line in (folder / "1p" / "metrics.jsonl").read_text().splitlines()]
        losses[graph] = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3) and len(set(losses[True])) == 3


# --- the device ---------------------------------------------------------------------------------------------------


def test_auto_and_its_name_are_the_same_device_with_its_own_settings(device: Device) -> None:
    assert resolve("auto") == resolve(device.kind) == resolve(f"{device.kind}:0") == device
    assert device.half_dtype is torch.float16 and device.half_needs_loss_scale and device.pin_memory
    expected = {"npu": (torch.contiguous_format, "hccl"), "cuda": (torch.channels_last, "nccl")}
    assert (device.memory_format, device.collective_backend) == expected[device.kind]
    assert device.name


def test_one_device_too_many_is_refused_with_the_variable_that_hides_them(device: Device) -> None:
    variable = {"npu": "ASCEND_RT_VISIBLE_DEVICES", "cuda": "CUDA_VISIBLE_DEVICES"}[device.kind]
    count = torch.accelerator.device_count()
    with pytest.raises(UserError, match=f"asks for {device.kind}:{count}, but .* shows {count} .*{variable}"):
        resolve(device.kind, local_rank=count)


def test_a_device_that_does_not_start_gives_one_sentence(device: Device, monkeypatch: Any) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the driver is older than CANN\nC++ stack trace")

    monkeypatch.setattr(torch.accelerator, "set_device_index", fail)
    with pytest.raises(
        UserError, match=":0 does not start .the driver is older than CANN.: check with .*-smi"
    ):
        device.use()


def test_its_random_state_can_be_saved_and_restored(device: Device) -> None:
    state = device.random_state()
    drop = nn.Dropout()
    first = drop(torch.ones(100, device=device.torch_device)).cpu()
    device.set_random_state(state)
    assert torch.equal(first, drop(torch.ones(100, device=device.torch_device)).cpu())
    assert not torch.equal(first, drop(torch.ones(100, device=device.torch_device)).cpu())


@needs_standin
def test_the_stand_in_refuses_what_the_real_npu_refuses(device: Device, tmp_path: Path) -> None:
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(RuntimeError, match="Only c10::MemoryFormat::Contiguous is supported"):
        images.to(device.torch_device).to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="not contiguous"):
        images.permute(0, 2, 3, 1).to(device.torch_device)
    with pytest.raises(RuntimeError, match="AdaptiveAvgPool2d"):
        functional.adaptive_avg_pool2d(images.to(device.torch_device).bfloat16(), 2)
    torch.save(images, tmp_path / "images.pt")
    with pytest.raises(RuntimeError, match="map_location"):
        torch.load(tmp_path / "images.pt", map_location="npu")


@needs_standin
def test_the_stand_in_returns_garbage_without_a_wait(device: Device) -> None:
    stream, gate, ones = device.stream(), Event(), torch.ones(1000, device=device.torch_device)
    device.synchronize()
    with stream:
        STANDIN.launch(STANDIN.COMPUTE, gate.wait)
        twos = ones + ones
    unready = twos.cpu()  # waits for the default stream only
    gate.set()
    device.synchronize()
    assert not torch.equal(unready, twos.cpu()) and torch.equal(twos.cpu(), torch.full((1000,), 2.0))
