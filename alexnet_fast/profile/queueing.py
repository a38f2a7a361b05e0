"""The ceiling of the host: how long it takes to queue a step, alone and next to the decoding threads, and how long the device computes it.

A step is some hundred launches.  Next to busy decoding threads each takes longer: the main thread shares its core, and waits for the
interpreter's lock.  A device that computes faster than the host queues is idle between launches, in the middle of a step; event
spans around the step's parts count that time as busy.  So how long the device computes a step is measured separately: the device is
held by other work until all of the step is queued, which then runs without a gap.  That needs events alone, so it is the same on
every accelerator; a profiler of kernels would be another one for each, and would slow down the host that is measured.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from ..devices.device import Device
from ..devices.device_timer import DeviceTimer
from ..distributed.world import World
from ..engine.train_state import TrainState
from ..loader.buffer_pool import Batch
from ..loader.device_prefetcher import DevicePrefetcher
from .stats import WARM_UP_SHARE, WINDOWS, Stat, averaged, barrier, broadcast
from .stepping import mark, step_on

MIN_STEPS, MAX_STEPS = 2, 500  # of a window
HELD_STEPS = 3  # of a window: each also needs the time for which the device is held
LARGEST_SIDE = 8192  # of the products that hold the device: 1.1 TFLOP and 256 MiB each in float32
MOST_PRODUCTS = 64
HOLDS_ENOUGH = 5.0  # times as long as the host queues; work that began even so waits for the device


@dataclass(frozen=True)
class Queue:
    """What queueing a step costs the host, in milliseconds, means over ranks.

    alone_ms: while nothing else runs.  beside_ms: next to the decoding threads, from which one batch is taken for each step.
    device_ms: how long the device computes a step that is queued before it begins; None for a step that waits for the device, which
    cannot be queued ahead.  img_per_s: what the host next to the decoding threads can queue, over all ranks.
    """

    alone_ms: Stat
    beside_ms: Stat
    device_ms: Stat | None
    img_per_s: Stat

    def pooled(self, later: Queue) -> Queue:
        """With a later measurement of the same steps."""
        device_ms = self.device_ms
        if device_ms is not None and later.device_ms is not None:
            device_ms = device_ms.pooled(later.device_ms)
        return Queue(
            self.alone_ms.pooled(later.alone_ms),
            self.beside_ms.pooled(later.beside_ms),
            device_ms,
            self.img_per_s.pooled(later.img_per_s),
        )


def measure(
    state: TrainState,
    feed: DevicePrefetcher,
    batch: tuple[Tensor, Tensor],
    batches: Iterator[Batch],
    seconds: float,
    world: World,
) -> Queue:
    """Queue steps on one batch for about `seconds`, on an accelerator: on a CPU a step is computed when it is called.

    batch: uint8 (B, 3, H, W) and targets (B,), on the device.  batches: decoded by threads meanwhile, and thrown away.  Every rank has
    to call this.
    """
    mark(state, feed, None)  # marks cost the host time
    step = step_on(batch, state, feed)
    alone_ms = host_time(step, feed.device, seconds * 0.25, world)
    beside_ms = host_time(step, feed.device, seconds * 0.5, world, batches, feed.depth)
    # Without sums over ranks: some backends wait for the device to sum, which is then held.  They are measured elsewhere.
    with nullcontext() if world.world_size == 1 else state.no_sync():
        device_ms = device_time(step, feed.device, alone_ms.median, seconds * 0.25, world)
    images_of_all = len(batch[1]) * world.world_size * 1e3
    median, least, most = (images_of_all / each for each in (beside_ms.median, beside_ms.max, beside_ms.min))
    return Queue(alone_ms, beside_ms, device_ms, Stat(median, least, most, beside_ms.n))


def host_time(
    step: Callable[[], None],
    device: Device,
    seconds: float,
    world: World,
    batches: Iterator[object] | None = None,
    depth: int = 0,
) -> Stat:
    """How long the host queues a step, in milliseconds.

    batches: one is taken before each step, and thrown away.  depth: how many steps may be queued and not done.
    """
    batches = repeat(None) if batches is None else batches
    in_flight: deque[torch.Event] = deque()

    def queue(steps: int) -> float:
        """The mean of N steps, in milliseconds; waiting for a batch or for the device is not counted."""
        took_s = 0.0
        for _ in range(steps):
            next(batches)
            began_s = time.perf_counter()
            step()
            took_s += time.perf_counter() - began_s
            done = device.event()
            done.record(device.current_stream())
            in_flight.append(done)
            while len(in_flight) > depth:
                device.wait_for(in_flight.popleft())
        return took_s * 1e3 / steps

    barrier(world)
    began_s = time.perf_counter()
    queue(2)
    each_s = (time.perf_counter() - began_s) / 2
    # As often on every rank: gradients are summed.
    warm = int(broadcast(min(max(WARM_UP_SHARE * seconds / each_s - 2, 1), MAX_STEPS), world))
    began_s = time.perf_counter()
    queue(warm)
    each_s = (time.perf_counter() - began_s) / warm
    wanted = (1 - WARM_UP_SHARE) * seconds / each_s / WINDOWS
    steps = int(broadcast(min(max(wanted, MIN_STEPS), MAX_STEPS), world))
    return averaged([queue(steps) for _ in range(WINDOWS)], world)


def device_time(
    work: Callable[[], None], device: Device, host_ms: float, seconds: float, world: World
) -> Stat | None:
    """How long the device takes for `work` that is queued as a whole before it begins, in milliseconds; None if it cannot be.

    host_ms: how long the host takes to queue it, about.
    """
    hold = _Hold(device)
    timer = DeviceTimer(device)

    def held_ms() -> float | None:
        """None if the device was not held for long enough, on any rank."""
        while True:
            device.synchronize()
            holding = timer.stamp()
            hold.queue()
            begin = timer.stamp()
            work()
            end = timer.stamp()
            assert isinstance(begin, torch.Event)
            late = begin.query()  # it began before all of it was queued
            device.synchronize()
            held_s = timer.when(begin) - timer.when(holding)
            enough = held_s * 1e3 > HOLDS_ENOUGH * host_ms or not hold.may_grow
            late, enough = world.all_reduce_max(late) > 0, world.all_reduce_max(enough) > 0
            if not late:
                return (timer.when(end) - timer.when(begin)) * 1e3
            if enough:
                return None
            hold.grow()

    if held_ms() is None:
        return None
    began_s, found = time.perf_counter(), list[float]()
    while len(found) < WINDOWS * HELD_STEPS:
        if (took_ms := held_ms()) is None:
            return None
        found.append(took_ms)
        late = time.perf_counter() - began_s > seconds and len(found) >= WINDOWS
        if broadcast(late, world):
            break
    each = len(found) // WINDOWS
    return averaged([sum(found[k * each : (k + 1) * each]) / each for k in range(WINDOWS)], world)


class _Hold:
    """Work that keeps the device busy for a while and takes the host almost no time to queue: products of large matrices."""

    def __init__(self, device: Device) -> None:
        self._device, self._count = device, 1
        self._make(256)

    @property
    def may_grow(self) -> bool:
        return self._count < MOST_PRODUCTS

    def grow(self) -> None:
        """From now on keep it busy for longer: larger matrices, then more of them."""
        if self._side < LARGEST_SIDE:
            self._make(2 * self._side)
        else:
            self._count *= 2

    def queue(self) -> None:
        for _ in range(self._count):
            torch.mm(self._factor, self._factor, out=self._product)

    def _make(self, side: int) -> None:
        self._side = side
        self._factor = torch.zeros(side, side, device=self._device.torch_device)
        self._product = torch.zeros_like(self._factor)
