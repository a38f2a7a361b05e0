"""What a Loader hands out, in forms that tests compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from alexnet_fast import Loader

Samples = list[tuple[int, bytes]]


def labels_and_pixels(batches: Iterable[Any], count: int = 1 << 30) -> Samples:
    """Of each sample of so many batches, (images, labels)."""
    return [
        (int(label), image.numpy().tobytes())
        for _, batch in zip(range(count), batches)
        for image, label in zip(*batch)
    ]


def places_and_pixels(loader: Loader) -> Samples:
    """Of each sample of an epoch; places in the file."""
    return [
        (int(place), image.numpy().tobytes())
        for batch in loader
        for image, place in zip(batch.images, batch.indices)
    ]


def places_of(loader: Loader) -> list[int]:
    """Of an epoch's samples, in the file."""
    return [place for place, _ in places_and_pixels(loader)]
