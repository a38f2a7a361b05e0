"""The ceiling of training: steps on data that is on the device already, and where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..common.sizes import Size, sides
from ..devices.device_timer import DeviceTimer
from ..distributed.world import World
from ..engine.train_state import PARTS as PARTS
from ..engine.train_state import TrainState
from ..loader.device_prefetcher import DevicePrefetcher
from .stats import WARM_UP_SHARE, WINDOWS, Stat, barrier, broadcast, mean_over_ranks

WARM_UP_STEPS = 3  # on a CPU the first steps fault their memory in
MIN_STEPS, MAX_STEPS = WINDOWS, 5000


@dataclass(frozen=True)
class Step:
    """Training steps alone.

    img_per_s: over all ranks.  step_ms: one step, and below it its parts; the loss counts as forward, counting the hits as
    optimizer; of a captured step, its parts are the share of it that they have of an eager step.  all_reduce_ms: what summing
    gradients over the ranks adds to a step (most of it runs concurrently with the backward pass); None for one rank.  cpu_share: of the ranks' cores, how much the steps keep busy, 0 to 1.
    """

    img_per_s: Stat
    step_ms: Stat
    normalise_ms: Stat
    forward_ms: Stat
    backward_ms: Stat
    optimizer_ms: Stat
    all_reduce_ms: Stat | None
    cpu_share: float
    steps: int

    def pooled(self, later: Step) -> Step:
        """With a later measurement of the same steps."""
        mine, others = self.__dict__, later.__dict__
        figures = {k: v.pooled(others[k]) for k, v in mine.items() if isinstance(v, Stat)}
        return replace(
            self,
            **figures,
            cpu_share=(self.cpu_share + later.cpu_share) / 2,
            steps=self.steps + later.steps,
        )


def prepare(state: TrainState) -> None:
    """Make the steps those of training, except that the weights stay as they are: the learning rate is 0."""
    state.lr = 0.0
    state.precision.model.train()


def mark(state: TrainState, feed: DevicePrefetcher, timer: DeviceTimer | None) -> None:
    """Record the parts of each step from now on with `timer`; with None record nothing."""
    state.timer = feed.timer = timer


def step_on(batch: tuple[Tensor, Tensor], state: TrainState, feed: DevicePrefetcher) -> Callable[[], None]:
    """What queues one training step, normalizing included, on a batch that is on the device: uint8 (B, 3, H, W) and targets (B,)."""
    images, labels = batch
    return lambda: state.train_step(images, labels)


def measure(
    state: TrainState,
    feed: DevicePrefetcher,
    batch: tuple[Tensor, Tensor],
    cores: int,
    seconds: float,
    world: World,
) -> Step:
    """Train on one batch again and again for about `seconds`, at least MIN_STEPS times.

    batch: uint8 (B, 3, H, W) and targets (B,), on the device.  cores: of this rank.  Every rank has to call this.
    """
    timer, step = feed.timer, step_on(batch, state, feed)
    assert timer is not None

    def run(steps: int) -> np.ndarray:
        """(steps, state.parts) milliseconds."""
        for _ in range(steps):
            step()
        spans = timer.read()
        ends = np.array([(span.begin_s, span.end_s) for span in spans]).reshape(steps, len(state.parts), 2)
        # The time between two parts belongs to the second.
        begins = np.concatenate([ends[:, :1, 0], ends[:, :-1, 1]], axis=1)
        return (ends[:, :, 1] - begins) * 1e3

    barrier(world)
    warm_ms = run(WARM_UP_STEPS)[-1].sum()
    # A fast device is still warming up: its clocks settle after some time, not after some steps.
    if (more := int(broadcast(WARM_UP_SHARE * seconds * 1e3 / warm_ms, world)) - WARM_UP_STEPS) > 0:
        warm_ms = np.median(run(min(more, MAX_STEPS)).sum(1))
    is_one = world.world_size == 1
    wanted = (1 - WARM_UP_SHARE) * seconds * 1e3 / (warm_ms if is_one else 2 * warm_ms)
    steps = int(broadcast(min(max(wanted, MIN_STEPS), MAX_STEPS), world)) // WINDOWS
    if not is_one:
        with state.no_sync():
            run(1)
    shares = np.ones(len(PARTS))
    if len(state.parts) < len(PARTS):
        with state.eagerly():
            run(WARM_UP_STEPS)
            eager_ms = run(WINDOWS).mean(0)
        shares = eager_ms / eager_ms.sum()

    all_parts, all_alone = [], []
    cpu_s = wall_s = 0.0
    for _ in range(WINDOWS):
        barrier(world)
        before = time.process_time(), time.perf_counter()
        all_parts.append(run(steps).mean(0))
        cpu_s += time.process_time() - before[0]
        wall_s += time.perf_counter() - before[1]
        if not is_one:  # alternating, so that other load on the machine affects both
            with state.no_sync():
                all_alone.append(run(steps).sum(1).mean())

    parts_ms = mean_over_ranks(np.array(all_parts) * shares, world)
    step_ms = parts_ms.sum(1)
    summing_ms = None if is_one else step_ms - mean_over_ranks(np.array(all_alone), world)
    busy_s, could_s = world.all_reduce_sum(
        torch.tensor([cpu_s, wall_s * cores], dtype=torch.float64)
    ).tolist()
    normalize, forward, backward, optimizer = map(Stat.of, parts_ms.T)
    return Step(
        img_per_s=Stat.of(len(batch[1]) * world.world_size * 1e3 / step_ms),
        step_ms=Stat.of(step_ms),
        normalise_ms=normalize,
        forward_ms=forward,
        backward_ms=backward,
        optimizer_ms=optimizer,
        all_reduce_ms=None if summing_ms is None else Stat.of(summing_ms.clip(min=0)),
        cpu_share=min(1.0, busy_s / could_s),
        steps=steps * WINDOWS,
    )


def random_batch(size: Size, targets: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch of random images, and these targets, on the device: uint8 (B, 3, height, width) and (B,)."""
    images = torch.randint(0, 256, (len(targets), 3, *sides(size)), dtype=torch.uint8)
    return images.to(device), torch.from_numpy(targets).to(device)
