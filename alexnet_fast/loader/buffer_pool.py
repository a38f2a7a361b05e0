"""Host buffers for batches, and who owns each.

A buffer belongs to the threads that fill it, then to whoever holds the batch.  It returns to the pool only when
the last tensor over its memory is gone, views and numpy arrays of it included: a user who keeps a batch
keeps its pixels, and code that copies it asynchronously keeps it until the copy is known to be done.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import NamedTuple

import numpy as np
import torch

from ..beton.target_fields import INT
from ..common.sizes import Size, sides
from ..errors import UserError
from .views import images_of


class ImagesAndLabels(NamedTuple):
    """The pair that a batch unpacks as."""

    images: torch.Tensor
    """(B, 3, height, width) uint8, RGB; with ``views`` a tuple of such tensors, one a view.

    A tuple as solo-learn, lightly and DALI hand views out, and not one tensor of five dimensions: code that asks a batch for its size, as
    Lightning and Accelerate do, takes the first dimension of its first tensor.
    """
    labels: torch.Tensor
    """(B,) int64, or float32 of a float field; (B, K) float32 of a field of vectors."""


class Slot(NamedTuple):
    """All bytes of a batch's page-locked buffer, for one copy to a device.

    A copy from the start of a page-locked block runs beside the host everywhere; from an offset, as labels have it, a runtime that
    cannot look up the pointer makes the host wait.
    """

    memory: torch.Tensor
    """uint8, images of a full batch first."""
    labels_at: int
    """Bytes before the labels."""
    batch_size: int


class Batch(ImagesAndLabels):
    """One batch in host memory: ``images, labels = batch``, and ``batch.indices`` says which samples they are.

    A batch that is made of a pair alone, as libraries do that move each tensor of a named tuple to a device, has no indices.
    """

    _indices: torch.Tensor | np.ndarray | None = None
    slot: Slot | None = None
    """The whole buffer, if it is page-locked."""

    def __new__(
        cls, images: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor | np.ndarray | None = None
    ) -> Batch:
        batch = super().__new__(cls, images, labels)
        batch._indices = indices
        return batch

    @property
    def indices(self) -> torch.Tensor:
        """(B,) int64, each sample's place in the file; skipped samples are in none of the three."""
        if self._indices is None:
            raise AttributeError(
                "this batch was made of images and labels alone, so it has no indices; take those of the Loader's own batch"
            )
        if isinstance(
            self._indices, np.ndarray
        ):  # few ask, and a tensor more costs every batch some microseconds
            self._indices = torch.from_numpy(self._indices)
        return self._indices


class HostBuffer:
    """Memory for one batch: images, labels and indices, in this order."""

    def __init__(
        self,
        batch_size: int,
        size: Size,
        pin_memory: bool,
        label_dtype: np.dtype,
        label_shape: tuple[int, ...] = (),
        views: int = 1,
    ) -> None:
        self.batch_size, self.label_dtype = batch_size, label_dtype
        self.label_shape = (batch_size, *label_shape)
        # 8 bytes for a number, whatever its dtype.
        bytes_each = label_dtype.itemsize if label_shape else 8
        self.label_bytes = -(-math.prod(self.label_shape) * bytes_each // 8) * 8
        self.shape = (views, batch_size, 3, *sides(size))
        self.image_bytes = -(-math.prod(self.shape) // 8) * 8
        # torch pins through whatever accelerator it has; page-locked memory is what makes a copy asynchronous.
        self.memory = torch.empty(
            self.image_bytes + self.label_bytes + 8 * batch_size, dtype=torch.uint8, pin_memory=pin_memory
        )
        self.every_view, self.labels, self.indices = self.views(self.memory.numpy())
        self.images = self.every_view[0]
        self.statuses = np.zeros(batch_size, np.uint8)
        self.interface = self.memory.numpy().__array_interface__

    def views(self, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (views, B, 3, height, width) uint8, labels (B,) or (B, K) and indices (B,) int64 in a buffer's bytes."""
        images = memory[: math.prod(self.shape)].reshape(self.shape)
        end = self.image_bytes + self.label_bytes
        labels = memory[self.image_bytes : end].view(self.label_dtype)[: math.prod(self.label_shape)]
        return images, labels.reshape(self.label_shape), memory[end:].view(np.int64)


class _Lease:
    """Keeps a buffer from its pool for as long as any array or tensor over its memory lives."""

    def __init__(self, buffer: HostBuffer, free: deque[_Return]) -> None:
        self.buffer = buffer
        self.__array_interface__ = buffer.interface
        # Called when this lease is gone, in any thread, even inside the garbage collector: no locks.  And no line of Python,
        # as a __del__ would be: a Ctrl-C that arrives in one is printed and lost.
        self.ends = _Return(self, free.append)
        self.ends.buffer = buffer


class _Return(weakref.ref[_Lease]):
    """Called when a lease ends: puts its buffer among the free ones."""

    buffer: HostBuffer


class BufferPool:
    """Buffers for batches of up to ``batch_size`` samples, each of ``views`` images of 3 channels of a size.

    It has as many as are in use: those that are being filled or are ready, and those that are held.

    Args:
        max_free: free buffers to keep for reuse; the memory of more is freed.
        pin_memory: page-locked memory.
        label_dtype: of labels, at most 8 bytes each.
        label_shape: of one label; () for a number.
    """

    def __init__(
        self,
        batch_size: int,
        size: Size,
        *,
        max_free: int,
        pin_memory: bool,
        label_dtype: np.dtype = INT.dtype,
        label_shape: tuple[int, ...] = (),
        views: int = 1,
    ) -> None:
        self.label_dtype, self.label_shape, self.views = label_dtype, label_shape, views
        self.batch_size, self.size, self.max_free, self.pin_memory = batch_size, size, max_free, pin_memory
        self._free: deque[_Return] = deque(maxlen=max_free)
        if pin_memory:  # raised here, not by the thread that needs the first buffer
            try:
                torch.empty(1, pin_memory=True)
            except RuntimeError as error:
                raise UserError(
                    f"pin_memory = True was asked for, but torch finds no accelerator to pin for ({error}); remove it"
                ) from None

    def take(self) -> HostBuffer:
        """A buffer that nothing else uses."""
        try:
            return self._free.pop().buffer
        except IndexError:
            return HostBuffer(
                self.batch_size, self.size, self.pin_memory, self.label_dtype, self.label_shape, self.views
            )

    def close(self) -> None:
        """Free the buffers that are not in use; batches that are still held keep their memory."""
        self._free.clear()

    def lend(self, buffer: HostBuffer, count: int) -> Batch:
        """The first ``count`` samples of a filled buffer, which returns to the pool when their images, labels and indices are gone."""
        memory = np.asarray(_Lease(buffer, self._free))
        every_view, labels, indices = buffer.views(memory)
        images = images_of([torch.from_numpy(view[:count]) for view in every_view])
        batch = Batch(images, torch.from_numpy(labels[:count]), indices[:count])
        if self.pin_memory:
            batch.slot = Slot(torch.from_numpy(memory), buffer.image_bytes, self.batch_size)
        return batch
