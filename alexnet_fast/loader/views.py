"""The images of a batch, where each sample has one or several: a tensor, or a tuple of tensors, one a view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import Tensor


def images_of(views: Sequence[Tensor]) -> Tensor:
    """Images as a batch has them: the tensor of the only view, or a tuple of all views' (typed as the tensor that it mostly is)."""
    return views[0] if len(views) == 1 else cast(Tensor, tuple(views))


def views_of(images: Tensor) -> tuple[Tensor, ...]:
    """The tensor of each view."""
    return images if isinstance(images, tuple) else (images,)


def of_samples(images: Tensor) -> Iterable[Tensor]:
    """The image of each sample, or the tuple of its images."""
    return cast("Iterable[Tensor]", zip(*images)) if isinstance(images, tuple) else images


def of_views(images: Tensor, change: Callable[[Tensor], Any]) -> Any:
    """What ``change`` makes of the images: of the tensor, or a tuple with the result of each view's."""
    return tuple(map(change, images)) if isinstance(images, tuple) else change(images)
