"""One iteration over a loader, as the parts that read it and hand it out know it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .buffer_pool import Batch
from .position import First, Start
from .sample_set import SampleSet

Batches = Iterator[tuple[Batch, int]]
"""Each with the step that comes after it."""


class Stream(NamedTuple):
    """One iteration.

    Attributes:
        start, first: where it starts, and which batch that is.
        own: the samples that it is about.
        number: of the iteration.
        batches: those that it reads.
    """

    start: Start
    first: First
    own: SampleSet
    number: int
    batches: Batches
