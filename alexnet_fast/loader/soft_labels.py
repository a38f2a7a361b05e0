"""The labels of a mixed batch: for each class its share, or numbers that are blended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..beton.reader import Beton
from ..beton.target_fields import INT
from ..errors import UserError
from .buffer_pool import Batch

if TYPE_CHECKING:
    from ..augment.mix import Mix


class SoftLabels:
    """Makes a batch's labels soft, by the share that ``Mix.apply`` returned.

    Args:
        num_classes: columns; None = the labels are numbers of a float field, or vectors.
    """

    def __init__(self, num_classes: int | None) -> None:
        self._num_classes = num_classes

    @classmethod
    def of(cls, mix: Mix | None, beton: Beton) -> SoftLabels | None:
        """What a Loader with this option needs; raises UserError where the file has more classes than the option says."""
        if mix is None:
            return None
        if beton.target_field != INT:
            return cls(None)
        classes = mix.num_classes or beton.num_classes
        if classes < beton.num_classes:
            raise UserError(
                f"Mix.num_classes = {classes} is too small: {beton.path} has the label {beton.num_classes - 1}; "
                f"expected at least {beton.num_classes}"
            )
        return cls(classes)

    def __call__(self, batch: Batch, own_share: float) -> Batch:
        """The batch with soft labels: float32 (B, num_classes), or as they were where they are numbers or vectors.

        own_share: of each sample's own label; the rest is that of the sample before it, of the last for the first.
        """
        labels = batch.labels
        if self._num_classes is None:
            soft = own_share * labels + (1 - own_share) * labels.roll(1, 0)
        else:
            soft = torch.zeros(len(labels), self._num_classes)
            soft.scatter_(1, labels[:, None], own_share)
            others = torch.full((len(labels), 1), 1 - own_share)
            soft.scatter_add_(1, labels.roll(1)[:, None], others)  # it may be of the same class
        return Batch(batch.images, soft, batch.indices)
