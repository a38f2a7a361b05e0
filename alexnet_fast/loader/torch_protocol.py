"""What training scripts and frameworks ask of a DataLoader, for the Loader: its dataset and sampler, and samples by their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch

from ..beton.reader import Beton
from ..common.arguments import whole
from ..common.settled import Settled
from .buffer_pool import Batch
from .dataset_view import BatchSamplerView, DatasetView, SamplerView, collate, refuse_in_a_worker
from .device_loader import DeviceLoader, depth_of, device_of
from .fields import Fields
from .normalize import Normalizer
from .options import LoaderOptions
from .position import epoch_of
from .random_access import RandomAccess
from .sample_set import SampleSet
from .views import of_views

if TYPE_CHECKING:
    from .loader import Loader


class TorchProtocol(Settled):
    """The part of the Loader that is there for code which knows torch's DataLoader and datasets."""

    __slots__ = ()

    beton: Beton
    _access: RandomAccess | None
    _fields: Fields | None
    _normalizer: Normalizer | None
    _options: LoaderOptions
    _own: SampleSet
    _streamed: tuple[tuple[int, int], Iterator[Batch]] | None

    num_workers: ClassVar[int] = 0
    """Processes that decode: none, since threads do."""
    prefetch_factor: ClassVar[None] = None
    """Batches that a process decodes ahead: for a DataLoader without any."""
    collate_fn: ClassVar[Callable[[Sequence[Any]], Any]] = staticmethod(collate)
    """For a DataLoader over ``dataset``: batches as they are decoded, not copied sample by sample."""

    @property
    def dataset(self) -> DatasetView:
        """The samples one by one, their labels and their classes."""
        return DatasetView(self._loader, self._own, self._loader)

    @property
    def sampler(self) -> SamplerView:
        """The places in ``dataset`` of this rank's next epoch; ``sampler.set_epoch`` is the Loader's."""
        return SamplerView(self._loader)

    @property
    def batch_sampler(self) -> BatchSamplerView:
        """The places in ``dataset`` of each batch of this rank's next epoch."""
        return BatchSamplerView(self._loader, self._own)

    @property
    def drop_last(self) -> bool:
        """Whether the rest of an epoch that does not fill a batch on every rank is skipped."""
        return self._options.drops_last

    @property
    def pin_memory(self) -> bool:
        """Whether batches are in page-locked memory."""
        return self._options.pin_memory

    def prefetch_to(self, device: str | torch.device, depth: int = 2) -> DeviceLoader:
        """This Loader with its batches on a device: copied ``depth`` batches ahead, normalized there, indices in host memory.

        Args:
            device: "cuda", "cuda:1", "npu", "cpu", or a torch.device.

        Raises:
            UserError: there is no such device.
        """
        return DeviceLoader(self._loader, device_of(device), depth_of(depth))

    def get(self, indices: Sequence[int] | np.ndarray | torch.Tensor, epoch: int = 0) -> Batch:
        """The samples at these places in the file, in this order, as the Loader hands them out in an epoch; repeats are copies.

        They are decoded on the caller's thread, into memory of their own.

        Raises:
            UserError: no such places; in a worker process of a DataLoader.
            BrokenSample: one cannot be decoded; it is named.
        """
        refuse_in_a_worker()
        if self._access is None:
            every = self._own.samples if self._own.indices is None else None
            self._access = RandomAccess(self.beton, self._options, every)
        batch = self._finished(self._access.get(indices, epoch_of(epoch)))
        return batch if self._fields is None else self._fields(batch)  # type: ignore[no-any-return]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(image, label) of the sample at this place in the file, or its fields, with its crop and augmentations of epoch 0; with ``views`` the
        image is a tuple of images."""
        most = self.beton.num_samples - 1
        batch = self.get([whole("index", index, f"0 to {most}", lambda n: 0 <= n <= most)])
        if self._fields is not None:
            return self._fields.samples(batch)[0]  # type: ignore[no-any-return]
        return of_views(batch.images, lambda images: images[0]), batch.labels[0]

    @property
    def _loader(self) -> Loader:
        return cast("Loader", self)

    def _finished(self, batch: Batch) -> Batch:
        """A batch of bytes as the options say."""
        if self._normalizer is None:
            return batch
        return Batch(of_views(batch.images, self._normalizer), batch.labels, batch.indices)

    def _batch_at(self, source: Loader | DeviceLoader, epoch: int, step: int) -> Batch:
        """A batch of an epoch, for ``batch_sampler``: one after the other they are those of an iteration, decoded ahead.

        source: this loader, or itself on a device.
        """
        expected, batches = self._streamed or (None, iter(()))
        if expected != (epoch, step):
            self._loader.set_epoch(epoch, step)
            batches = iter(source)
        batch = next(batches)
        is_last = step + 1 >= len(self._loader)
        self._streamed = None if is_last else ((epoch, step + 1), batches)  # it holds this loader
        return batch
