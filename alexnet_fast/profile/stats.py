"""Figures with their spread: the same work timed many times, on all ranks at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..distributed.world import World

WINDOWS = 5  # a measurement is cut into N windows, whose spread is reported
WARM_UP_SHARE = 0.2  # of the time of a measurement, at its start, is not counted


@dataclass(frozen=True)
class Stat:
    """The median of `n` windows, with their minimum and maximum; its unit is in the name of the field that holds it."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Stat:
        """Of at least one value."""
        return cls(float(np.median(values)), float(np.min(values)), float(np.max(values)), len(values))

    def pooled(self, later: Stat) -> Stat:
        """The mean with a later measurement of the same: both have the same weight, so that drift counts half."""
        return Stat(
            (self.median + later.median) / 2,
            min(self.min, later.min),
            max(self.max, later.max),
            self.n + later.n,
        )


STORED = {"min": "least", "max": "most"}
"""Fields of a Stat -> their keys in JSON, which are those of version 0.1."""


def stored(figures: Any) -> dict[str, Any]:
    """A dataclass, with the Stats in it, as JSON holds it."""
    return asdict(
        figures, dict_factory=lambda items: {STORED.get(name, name): value for name, value in items}
    )


def throughput(work: Callable[[], int], seconds: float, world: World) -> Stat:
    """Units a second of `work`, which returns how many it did, summed over all ranks, which work at the same time.

    Each rank works for `seconds`, of which the first fifth is not counted, and at least once in every window.
    """
    barrier(world)
    warm = time.perf_counter() + seconds * WARM_UP_SHARE
    work()
    while time.perf_counter() < warm:
        work()
    done, at = 0, [(0, time.perf_counter())]
    end = at[0][1] + seconds * (1 - WARM_UP_SHARE)
    while len(at) <= WINDOWS or at[-1][1] < end:
        done += work()
        at.append((done, time.perf_counter()))
    return summed(windows(at), world)


def windows(at: Sequence[tuple[int, float]], count: int = WINDOWS) -> list[float]:
    """Units a second in each of `count` windows: `at` holds (units done, when) at the start and after each piece of work.

    Windows end when pieces of work end, and are otherwise as equal in length as possible.
    """
    begin, end = at[0][1], at[-1][1]
    edges = [0]
    for k in range(1, count):
        wanted = begin + (end - begin) * k / count
        after = next(i for i, (_, when) in enumerate(at) if when >= wanted)
        edges.append(min(max(after, edges[-1] + 1), len(at) - 1 - (count - k)))
    edges.append(len(at) - 1)
    return [(at[b][0] - at[a][0]) / (at[b][1] - at[a][1]) for a, b in pairwise(edges)]


def summed(values: Sequence[float], world: World) -> Stat:
    """Window by window the sum over ranks; every rank has to call this with as many windows."""
    return Stat.of(mean_over_ranks(np.asarray(values), world) * world.world_size)


def averaged(values: Sequence[float], world: World) -> Stat:
    """Window by window the mean over ranks."""
    return Stat.of(mean_over_ranks(np.asarray(values), world))


def mean_over_ranks(values: np.ndarray, world: World) -> np.ndarray:
    """Element by element the mean over ranks; every rank has to call this with as many."""
    return world.all_reduce_sum(torch.from_numpy(np.asarray(values, np.float64))).numpy() / world.world_size


def barrier(world: World) -> None:
    """Wait until all ranks are here, so that they start at the same time."""
    world.all_reduce_sum(torch.zeros(1))


def broadcast(value: float, world: World) -> float:
    """Rank 0's value, on every rank."""
    return float(world.all_reduce_sum(torch.tensor(value if world.is_rank0 else 0.0, dtype=torch.float64)))
