"""Counting a run's steps: losses and the task's counts on the device, seconds on the host."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..devices.device import Device
from ..distributed.world import World
from .tasks import Classification, Task


@dataclass(frozen=True)
class Averages:
    """Loss of the last step; mean loss and the task's metrics over the epoch so far; all ranks together.

    metrics: a value for each name.
    nonfinite_steps: how many steps, up to the last, have had a loss that was not finite.  samples: of the epoch so far.
    """

    last_loss: float
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    nonfinite_steps: int = 0
    samples: int = 0


class Meter:
    """Sums over an epoch's training steps, kept on each rank's device: `add` waits for nothing, `read` does.

    All are written in place, so that `add` can be part of a captured graph.

    task: what is counted; None = classification.
    """

    def __init__(self, device: torch.device, world: World | None = None, task: Task | None = None) -> None:
        self._world = world or World()
        self.task = task or Classification()
        self._loss = torch.zeros((), device=device)  # sum of the batches' mean losses
        self._last_loss = torch.zeros((), device=device)
        # Batches, samples, and the task's counts.
        self._counts = torch.zeros(2 + self.task.num_counts, dtype=torch.int64, device=device)
        self._batches, self._samples, self._of_task = self._counts[0], self._counts[1], self._counts[2:]
        self._nonfinite = torch.zeros(1, dtype=torch.int64, device=device)  # steps in a row, over epochs

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count one step: its mean loss, float32 outputs (B, C), targets (B,)."""
        self._last_loss.copy_(loss)
        self._loss += self._last_loss
        self._nonfinite.add_(1).mul_((self._last_loss * 0).ne(0))  # 0 times no number is NaN
        self._batches += 1
        self._samples += len(targets)
        self._of_task += self.task.counts(outputs, targets)

    def tensors(self) -> dict[str, Tensor]:
        """All that `add` changes, by name."""
        return {
            "sum of losses": self._loss,
            "last loss": self._last_loss,
            "counts": self._counts,
            "steps that were not finite": self._nonfinite,
        }

    def read(self) -> Averages:
        """The epoch so far, over all ranks, each of which has to call this."""
        sums = self._world.all_reduce_sum(torch.cat([self._counts, self._nonfinite])).tolist()
        batches, samples, *counts, nonfinite = sums
        last_loss, loss = self._world.all_reduce_sum(torch.stack([self._last_loss, self._loss])).tolist()
        return Averages(
            last_loss=last_loss / self._world.world_size,
            loss=loss / max(1, batches),
            metrics=self.task.summary(counts, samples),
            nonfinite_steps=-(-nonfinite // self._world.world_size),
            samples=samples,
        )

    def clear(self) -> None:
        """Begin an epoch."""
        self._loss.zero_()
        self._counts.zero_()

    def state_dict(self) -> dict[str, Any]:
        """This rank's sums."""
        return {"loss": self._loss.item(), "counts": self._counts.tolist()}

    def load_state_dict(self, *states: dict[str, Any]) -> None:
        """Go on from the sum of `states`, which other ranks may have counted."""
        self.clear()
        for state in states:
            self._loss += state["loss"]
            self._counts += torch.tensor(state["counts"]).to(self._counts.device)


@dataclass
class Interval:
    """Steps, the samples in them, and seconds."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0

    def add(self, steps: int, samples: int, seconds: float, waited_s: float) -> None:
        self.steps += steps
        self.samples += samples
        self.seconds += seconds
        self.waited_s += waited_s

    @property
    def step_s(self) -> float:
        return self.seconds / max(1, self.steps)

    @property
    def step_wait_s(self) -> float:
        return self.waited_s / max(1, self.steps)

    @property
    def img_per_s(self) -> float:
        return self.samples / self.seconds if self.seconds else 0.0

    @property
    def data_wait_share(self) -> float:
        """Share of the time in which the step waited for its batch, 0 to 1."""
        return min(1.0, self.waited_s / self.seconds) if self.seconds else 0.0


class ThroughputMeter:
    """How fast the training steps go, and how much of their time they wait for data: the rank that waits longest, since
    the others wait for it.

    Time runs within `training` only: evaluations, checkpoints and start-up are not in it.  The first
    `warmup_steps` steps of the process are left out too, the device synchronised at their end, since they
    hold one-off work (first touch of memory, choice of kernels, compilation).  A process with no
    more steps than that counts them all.
    """

    def __init__(self, device: Device, warmup_steps: int, world: World | None = None) -> None:
        self._device, self._warmup, self._world = device, warmup_steps, world or World()
        self._intervals = {"all": Interval(), "warm": Interval(), "epoch": Interval(), "line": Interval()}
        self._steps = 0

    @contextmanager
    def training(self) -> Iterator[None]:
        """Time runs inside; an epoch's figures begin."""
        self._intervals["epoch"] = Interval()
        self._intervals["line"] = Interval()
        self._last = time.perf_counter()
        yield
        self._device.synchronize()
        self._lap(0, 0, 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time stands still inside `training`, for what is no training."""
        self._device.synchronize()
        self._lap(0, 0, 0.0)
        yield
        self._last = time.perf_counter()

    def step(self, samples: int, waited_s: float) -> None:
        """A step of `samples` over all ranks was queued, having waited `waited_s` for its batch."""
        self._steps += 1
        if self._steps == self._warmup:
            self._device.synchronize()
        self._lap(1, samples, waited_s)

    def _lap(self, steps: int, samples: int, waited_s: float) -> None:
        now = time.perf_counter()
        for name, interval in self._intervals.items():
            if name != "warm" or (self._steps - steps) >= self._warmup:
                interval.add(steps, samples, now - self._last, waited_s)
        self._last = now

    def line(self) -> Interval:
        """The steps since the last call in this epoch.  Every rank has to call this, after as many steps."""
        interval = self._intervals["line"]
        longer_s = self._world.all_reduce_max(interval.waited_s) - interval.waited_s
        warm = ["warm"] if self._steps - interval.steps >= self._warmup else []
        for name in ("line", "epoch", "all", *warm):
            self._intervals[name].waited_s += longer_s
        self._intervals["line"] = Interval()
        return interval

    @property
    def epoch(self) -> Interval:
        return self._intervals["epoch"]

    @property
    def steady(self) -> Interval:
        """All steps but the first `warmup_steps`; none yet where there are no more."""
        return self._intervals["warm"]

    @property
    def run(self) -> Interval:
        """All steps but the first `warmup_steps`, or all where there are no more."""
        return self._intervals["warm"] if self._intervals["warm"].steps else self._intervals["all"]
