"""What is done about samples that cannot be decoded: an error that names the first, or a list of those that are skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..beton.reader import Beton
from ..decode.status import MEANING, NO_LIBRARY, OK, BrokenSample

if TYPE_CHECKING:
    from .decode_workers import BatchTask

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was skipped.

    Attributes:
        index: its place in the file.
        path: its path in the folder that was packed, None if the file's json does not have it.
        reason: why it cannot be decoded.
        epoch: the first in which it was skipped.
    """

    index: int
    path: str | None
    reason: str
    epoch: int

    def __str__(self) -> str:
        named = f" ({self.path})" if self.path is not None else ""
        return f"sample {self.index}{named}: {self.reason}"


class BadSampleFilter:
    """Checks every batch before the consumer gets it.

    Whether a sample is broken depends on its bytes and its crop alone, so the same samples are skipped for any number of
    threads and ranks.

    Args:
        on_error: "raise", or "skip" what is broken.
        may_be_empty: whether a batch of which nothing is left may be skipped: not where all ranks make as many steps.
    """

    def __init__(self, beton: Beton, on_error: OnError, may_be_empty: bool) -> None:
        self._beton, self._on_error, self._may_be_empty = beton, on_error, may_be_empty
        self._skipped: dict[int, SkippedSample] = {}
        self._epoch, self._in_epoch = -1, 0

    @property
    def skipped(self) -> list[SkippedSample]:
        """The samples that were skipped: each once, in the order in which they came."""
        return list(self._skipped.values())

    @property
    def skipped_in_epoch(self) -> int:
        """How many samples of the current epoch were skipped."""
        return self._in_epoch

    def apply(self, task: BatchTask) -> int:
        """Skip a batch's broken samples; returns how many are left, which are then the first in its buffer, in their order.

        Raises:
            BrokenSample: naming the first, if they are not to be skipped; or nothing is left.
        """
        epoch, step = task.key
        if epoch != self._epoch:
            self._epoch, self._in_epoch = epoch, 0
        if not task.has_broken:
            return len(task.samples)
        broken = np.flatnonzero(task.statuses)
        found = [
            SkippedSample(index, self._beton.source_path(index), MEANING[status], epoch)
            for index, status in zip(task.samples["index"][broken].tolist(), task.statuses[broken].tolist())
        ]
        first = f"{self._beton.source(found[0].index)} cannot be decoded: {found[0].reason}"
        remedy = "" if task.statuses[broken[0]] == NO_LIBRARY else "; pack it again, or the set without it"
        if self._on_error == "raise":
            raise BrokenSample(f"{first}{remedy}")
        for each in found:
            self._skipped.setdefault(each.index, each)
        self._in_epoch += len(found)
        if len(found) == len(task.samples) and not self._may_be_empty:
            raise BrokenSample(
                f"all {len(found)} samples of epoch {epoch}, step {step} are broken, so that skipping them leaves no "
                f"batch: {first}; pack the set again"
            )
        return self._close_up(task, int(broken[0]))

    def _close_up(self, task: BatchTask, to: int) -> int:
        buffer = task.buffer
        for place in np.flatnonzero(task.statuses == OK).tolist():
            if place > to:
                buffer.every_view[:, to] = buffer.every_view[:, place]
                for of_samples in (buffer.labels, buffer.indices):
                    of_samples[to] = of_samples[place]
                to += 1
        return to


def summarize(skipped: Iterable[SkippedSample], most: int = 10) -> str:
    """Samples that were skipped, in one sentence that names the first of them."""
    every = sorted(skipped, key=lambda each: each.index)
    rest = f"; and {len(every) - most} more" if len(every) > most else ""
    return f"{len(every)} samples cannot be decoded and are skipped: " + (
        "; ".join(map(str, every[:most])) + rest
    )
