"""A loader whose batches are copied ahead to a device, and normalized there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset

from ..common.arguments import whole
from ..devices.device import Device
from ..devices.registry import resolve
from ..errors import UserError
from .buffer_pool import Batch
from .dataset_view import DatasetView
from .device_prefetcher import DevicePrefetcher
from .normalize import Normalizer

if TYPE_CHECKING:
    from .loader import Loader
    from .stream import Batches


class DeviceLoader:
    """Iterates over a Loader's batches on a device; whatever else is asked of it, or set, is the Loader's.

    ``images`` and ``labels`` are on the device, ``batch.indices`` in host memory.  The images are as the Loader's options say:
    without ``normalize`` and ``dtype`` they are bytes.

    Args:
        loader: the Loader.
        device: of the batches.
        depth: batches that are copied ahead.
    """

    def __init__(self, loader: Loader, device: Device, depth: int) -> None:
        vars(self).update(_loader=loader, _device=device, _depth=depth, _prefetcher=None)

    def __iter__(self) -> Iterator[Batch]:
        return self._loader._hand_out(self._loader._begin(), self._on_device)

    def _on_device(self, given: Batches) -> Batches:
        read: deque[tuple[torch.Tensor, int]] = deque()  # of the batches that are being copied

        def host_batches() -> Iterator[Batch]:
            for batch, following in given:
                # A copy: the Loader's own would keep the host's buffer for as long as the batch is held.
                read.append((batch.indices.clone(), following))
                yield batch

        with closing(self._own_prefetcher()(host_batches())) as batches:
            for images, labels in batches:
                indices, following = read.popleft()
                yield Batch(images, labels, indices), following

    def _own_prefetcher(self) -> DevicePrefetcher:
        if self._prefetcher is None:
            options, device = self._loader.options, self._device
            normalizer = Normalizer(device, options.normalize, options.image_dtype, options.memory_format)
            vars(self)["_prefetcher"] = DevicePrefetcher(
                device, options.image_dtype, depth=self._depth, normalizer=normalizer
            )
        prefetcher: DevicePrefetcher = self._prefetcher
        return prefetcher

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        found: torch.device = self._device.torch_device
        return found

    @property
    def dataset(self) -> DatasetView:
        """The Loader's; the batches of its ``batch_sampler`` are on the device."""
        return DatasetView(self._loader, self._loader._own, self)

    @property
    def pin_memory(self) -> bool:
        """False: for a DataLoader over ``dataset``, which cannot pin what is on a device."""
        return False

    def __len__(self) -> int:
        return len(self._loader)

    def __getitem__(self, index: int) -> Any:
        return self._loader[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_loader" not in vars(self):  # not made yet: a copy or a pickle
            raise AttributeError(name)
        return getattr(self._loader, name)

    def __setattr__(self, name: str, given: object) -> None:
        setattr(self._loader, name, given)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_prefetcher": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __enter__(self) -> DeviceLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self._loader.close()


IterableDataset.register(DeviceLoader)


def device_of(given: object) -> Device:
    """The device that a script names: "cuda", "cuda:1", "npu", "cpu", a torch.device; UserError if it is not here.

    Without an index it is the one that the process has chosen (torch.cuda.set_device).
    """
    if not isinstance(given, (str, torch.device)):
        raise UserError(
            f"device = {given!r} is of type {type(given).__name__}, expected a torch.device or its name"
        )
    current = torch.accelerator.current_device_index() if torch.accelerator.is_available() else 0
    try:
        return resolve(str(given), current)
    except UserError as error:
        raise UserError(str(error).replace("run.device", "device")) from None


def depth_of(given: object) -> int:
    return whole("depth", given, "at least 1", lambda n: n >= 1)
