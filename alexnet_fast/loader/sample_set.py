"""The samples of a loader: those of its file that it uses, in which orders, and what identifies them."""

from __future__ import annotations

import zlib
from functools import cached_property

import numpy as np

from ..beton.classes import class_names
from ..beton.reader import Beton
from ..common.text import plural
from ..decode.counter_rng import occurrences
from ..decode.kernel import sample_table
from ..errors import UserError
from .block_order import Block
from .options import LoaderOptions
from .orders import BlockShuffled, EpochOrder, InOrder, Mixed, Shuffled, UsersOrder, checked_places
from .rank import Share
from .sampler import DistributedBatchSampler


class SampleSet:
    """The samples that a loader uses.

    Attributes:
        beton: their file.
        samples: (n,) kernel.SAMPLE_DTYPE.
        indices: (n,) their places in the file; None = all of it.
        orders: which of them each epoch has, over all ranks.

    Raises:
        UserError: ``indices`` or ``order`` do not fit the file.
    """

    def __init__(self, beton: Beton, options: LoaderOptions) -> None:
        self.beton = beton
        self.samples = sample_table(beton)
        self.indices: np.ndarray | None = None
        if options.indices is not None:
            places = checked_places("indices", options.indices, beton.num_samples, str(beton.path))
            self.samples = self.samples[places]
            self.samples["occurrence"] = occurrences(places)
            # A copy: the caller's list may change, and be large.
            self.indices = self.samples["index"]
        self.orders: EpochOrder
        if options.weights is not None:
            mixed = self._mixed(np.asarray(options.weights))
            self.orders = UsersOrder(mixed, self.samples["index"], self.labels, options.seed)
        elif isinstance(options.order, Block):
            self.orders = BlockShuffled(self.samples["ptr"], beton.page_size, options.order, options.seed)
        elif options.order is not None:
            self.orders = UsersOrder(options.order, self.samples["index"], self.labels, options.seed)
        elif options.shuffles:
            self.orders = Shuffled(len(self.samples), options.seed)
        else:
            self.orders = InOrder(len(self.samples))

    @property
    def labels(self) -> np.ndarray:
        """(n,) of each sample, as the file stores them."""
        return self.beton.labels if self.indices is None else self.beton.labels[self.indices]

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self.orders.count

    def _mixed(self, weights: np.ndarray) -> Mixed:
        """The order that draws from the entries of the list of files by weight."""
        entries = self.beton.entries
        groups = entries if self.indices is None else entries[self.indices]
        count = int(entries[-1]) + 1
        if len(weights) != count:
            raise UserError(
                f"weights has {len(weights)} numbers, but the list of files has {plural(count, 'entry', 'entries')}: give one for each, "
                'as Loader(["a.beton", "b.beton"], weights=[0.7, 0.3])'
            )
        without = np.flatnonzero((np.bincount(groups, minlength=count) == 0) & (weights > 0))
        if len(without):
            raise UserError(
                f"weights[{without[0]}] = {weights[without[0]]:g}, but indices has no sample of that entry of the list of files: "
                "give it 0, or some of its samples"
            )
        return Mixed(weights, groups)

    def sampler(self, batch_size: int, share: Share, drop_last: bool) -> DistributedBatchSampler:
        """Which places of an epoch each batch of a share has.

        Raises:
            UserError: there is no batch, since all samples would be dropped.
        """
        rank, world_size = share
        sampler = DistributedBatchSampler(self.num_samples, batch_size, rank, world_size, drop_last)
        if sampler.steps == 0 and drop_last:
            raise UserError(
                f"{self.beton.path} has {self.num_samples} samples, fewer than one batch of {batch_size * world_size} "
                f"({batch_size} on each of {world_size} ranks), and drop_last skips what does not fill one; "
                f"give a batch of at most {self.num_samples // world_size} on each, or Loader drop_last=False"
            )
        return sampler

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of what a position within an epoch depends on, but for the seed: labels, indices, and the first order."""
        found = zlib.crc32(np.ascontiguousarray(self.beton.labels).data)
        if self.indices is not None:
            found = zlib.crc32(np.ascontiguousarray(self.indices).data, found)
        if isinstance(self.orders, UsersOrder):
            return zlib.crc32(self.orders.draw(0).places.data, found)
        if isinstance(self.orders, BlockShuffled):
            found = zlib.crc32(str((self.orders.window_pages, self.pages_checksum)).encode(), found)
        return zlib.crc32(type(self.orders).__name__.encode(), found)

    @cached_property
    def pages_checksum(self) -> int | None:
        """CRC-32 of which page holds each sample, where the order depends on it."""
        return zlib.crc32(self.orders.pages.data) if isinstance(self.orders, BlockShuffled) else None

    @cached_property
    def classes(self) -> list[str]:
        """The class of each label from 0 on, by its name if the file's json has it, else by its number.

        Raises:
            FieldError: the label is a float, which has no classes.
        """
        count = self.beton.num_classes
        named = class_names(self.beton, self.beton.read_sidecar())
        return [*named, *map(str, range(len(named), count))]

    @cached_property
    def targets(self) -> list[int] | list[float]:
        """The label of each sample."""
        targets: list[int] | list[float] = self.labels.tolist()
        return targets
