"""Where a loader is: how much of which epoch was handed out, and where its next iteration starts.

A state holds a handful of integers.  It counts samples over all ranks, and the order is a pure function, so it is loaded at
once, whatever the batch size and the number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..common.arguments import whole
from ..common.untrusted import printable
from ..errors import UserError
from .planner import Resumed
from .sampler import DistributedBatchSampler


class Position(NamedTuple):
    """What was handed out.

    Attributes:
        epoch: the last epoch of which anything was, or could be.
        samples: of this epoch, over all ranks; at its end all that it has, those that ``drop_last`` skips included.
    """

    epoch: int
    samples: int


class First(NamedTuple):
    """The first batch of an iteration.

    Attributes:
        epoch, step: of it.
        sampler: of this epoch.
    """

    epoch: int
    step: int
    sampler: DistributedBatchSampler

    @property
    def position(self) -> Position:
        """The position at the start."""
        return self.before(self.step)

    @property
    def resumed(self) -> Resumed | None:
        """What the planner must know of an epoch that was left in the middle of a step."""
        return (self.epoch, self.sampler.first) if self.sampler.first else None

    def before(self, step: int) -> Position:
        """The position when all batches before the batch ``step`` of this epoch were handed out."""
        whole_epoch = step >= self.sampler.steps
        handed_out = self.sampler.first + step * self.sampler.global_batch_size
        return Position(self.epoch, self.sampler.num_samples if whole_epoch else handed_out)


@dataclass(frozen=True)
class Start:
    """Where the next iteration starts.

    Attributes:
        epoch: which.
        step: which batch of it, where ``samples`` is None.
        samples: of the epoch that were handed out before, over all ranks: by a state.
        stays: whether the rest of this epoch is asked for, even if nothing is left of it.
    """

    epoch: int
    step: int = 0
    samples: int | None = None
    stays: bool = False

    def at(self, epoch: int) -> Start:
        """The start for an epoch without a step: what is left of the epoch that a state has resumed, else all of it."""
        return replace(self, stays=True) if self.samples is not None and epoch == self.epoch else Start(epoch)

    def of_another_set(self) -> Start:
        """The start where the samples are others now: what a state counted of them means nothing."""
        return self if self.samples is None else Start(self.epoch)

    def is_as(self, other: Start) -> bool:
        """Whether an iteration starts at the same batch."""
        return replace(self, stays=other.stays) == other

    def next_epoch(self, num_samples: int) -> int:
        """The epoch that the iteration runs."""
        return self.epoch + self._is_over(num_samples)

    def first(self, sampler: DistributedBatchSampler) -> First:
        """The first batch for a rank's share; UserError for a step beyond the epoch."""
        if self._is_over(sampler.num_samples):
            return First(self.epoch + 1, 0, sampler)
        if self.samples is None:
            batches = f"0 to {sampler.steps}, the batches of an epoch"
            return First(
                self.epoch, whole("step", self.step, batches, lambda n: 0 <= n <= sampler.steps), sampler
            )
        if self.samples >= sampler.num_samples:
            return First(self.epoch, sampler.steps, sampler)
        step, first = divmod(self.samples, sampler.global_batch_size)
        sampler = replace(sampler, first=first)
        return First(self.epoch, min(step, sampler.steps), sampler)

    def _is_over(self, num_samples: int) -> bool:
        return self.samples is not None and self.samples >= num_samples and not self.stays


def state_of(position: Position, seed: int, num_samples: int, checksum: int) -> dict[str, int]:
    """The state of a loader, for ``start_of``."""
    return {**position._asdict(), "of": num_samples, "seed": seed, "set": checksum}


def start_of(state: object, seed: int, num_samples: int, checksum: int, path: object) -> Start:
    """Where a state resumes.

    Raises:
        UserError: it is no state of a Loader, or of another set, order or seed, with which it would mean other samples.
    """
    expected = {"epoch", "samples", "of", "seed", "set"}
    if not isinstance(state, Mapping) or not expected <= set(state):
        shown = printable(repr(sorted(state, key=str) if isinstance(state, Mapping) else state), 80)
        raise UserError(f"{shown} is no state of a Loader, expected what its state_dict() gave")
    values = {
        name: whole(f'state["{name}"]', state[name], "at least 0", lambda n: n >= 0) for name in expected
    }
    if values["seed"] != seed:
        raise UserError(
            f"this state is of a Loader with seed = {values['seed']}, but this one has seed = {seed}, so its order is another: "
            f"open it with seed={values['seed']}"
        )
    if values["of"] != num_samples:
        raise UserError(
            f"this state is of a set of {values['of']} samples an epoch, but {path} has {num_samples} here: open the Loader of "
            "the same file, with the same indices and order, or start from scratch"
        )
    if values["set"] != checksum:
        raise UserError(
            f"this state is of another set than {path}, with as many samples, or of another order: open the Loader of the same "
            "file, with the same indices, order and shuffle, or start from scratch"
        )
    samples = whole('state["samples"]', values["samples"], f"0 to {num_samples}", lambda n: n <= num_samples)
    return Start(values["epoch"], samples=samples)


def epoch_of(given: object) -> int:
    """The number of an epoch; UserError for anything else."""
    return whole("epoch", given, "0 to 2^63 - 1", lambda n: 0 <= n < 1 << 63)
