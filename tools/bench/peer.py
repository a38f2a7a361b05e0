"""The interface between the process of a contestant and its peer. Standard library only: a peer's interpreter may have nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SIZE_PX = 224
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
FLIP = 0.5


@dataclass(frozen=True)
class Task:
    """What one contestant has to do, the same for all but ``input`` and ``variant``."""

    peer: str
    """Module of ``bench.peers``."""
    variant: str
    """For a module that serves several contestants: which of them; else ""."""
    input: str
    """Its beton file or folder of JPEGs."""
    batch_size: int
    threads: int
    cores: tuple[int, ...]
    """The cores that the process is pinned to, as many as ``threads``."""


@dataclass
class Tally:
    """The counts of a round: enough to check that every contestant delivered every image once an epoch."""

    images: int = 0
    labels: int = 0
    """Sum of the labels of all images."""
    shape: tuple[int, ...] = ()
    """Of the last batch."""
    dtype: str = ""

    def count(self, batches: Iterable[Any]) -> None:
        """Count complete batches of (images, labels), arrays or tensors."""
        for images, labels in batches:
            self.add(images, int(labels.sum()))

    def add(self, images: Any, labels: int) -> None:
        """Count one batch whose labels sum to ``labels``."""
        self.images += len(images)
        self.labels += labels
        self.shape = tuple(images.shape)
        self.dtype = str(images.dtype).removeprefix("torch.")


class Peer:
    """One contestant, opened on its input.

    ``run`` starts with no batch prefetched and ends when the consumer has its last batch; only ``run``
    is timed.
    """

    def prepare(self, first_epoch: int) -> None:
        """Before the clock starts: get ready without touching an image."""

    def run(self, epochs: int) -> Tally:
        """Deliver every image once in each of ``epochs`` epochs, in batches, to a consumer that only counts."""
        raise NotImplementedError

    def rest(self) -> None:
        """After the clock has stopped: stop everything that would still work while others run."""
