"""A loader as code that knows torch's DataLoader looks at it: its dataset, its sampler, its batches of indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import default_collate, get_worker_info

from ..common.arguments import whole
from ..errors import UserError
from .views import of_samples

if TYPE_CHECKING:
    from .buffer_pool import Batch
    from .device_loader import DeviceLoader
    from .fields import Fields
    from .loader import Loader
    from .sample_set import SampleSet


def refuse_in_a_worker() -> None:
    """UserError inside a worker process of a DataLoader."""
    if (worker := get_worker_info()) is not None:
        raise UserError(
            f"a Loader is read in a worker process of a DataLoader ({worker.num_workers} of them); it decodes with threads of its "
            "own, so iterate over the Loader itself, or give the DataLoader num_workers=0"
        )


class BatchPlaces(list[int]):
    """The places in the dataset of one batch's samples; it knows which batch of which epoch it is."""

    def __init__(self, places: Sequence[int], epoch: int, step: int) -> None:
        super().__init__(places)
        self.epoch, self.step = epoch, step


class BatchSamples(list[Any]):
    """The samples of a batch one by one; ``batch`` is all of them."""

    def __init__(self, batch: Batch, fields: Fields | None = None) -> None:
        if fields is None:
            samples: Any = zip(of_samples(batch.images), batch.labels.tolist())
        else:
            samples = fields.samples(batch, numbers=True)
        super().__init__(samples)
        self.batch = batch


class DatasetView:
    """The samples of a loader one by one, as torchvision's ImageFolder has them: ``dataset[i]`` is (image, label).

    ``image`` is what a batch has of it, with the crop and the augmentations of epoch 0; ``label`` is a number of Python's.
    Of a loader with ``fields`` it is a named tuple of these.

    Attributes:
        classes: the class of each label from 0 on: its name, or its number as a str if no name is known.
        class_to_idx: the label of each class.
        targets: the label of each sample.

    Raises:
        UserError: in a worker process of a DataLoader.
        FieldError: for the classes, if the label is a float.
    """

    def __init__(self, loader: Loader, own: SampleSet, source: Loader | DeviceLoader) -> None:
        self._loader, self._own, self._source = loader, own, source

    @property
    def classes(self) -> list[str]:
        return list(self._own.classes)

    @property
    def class_to_idx(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self._own.classes)}

    @property
    def targets(self) -> list[int] | list[float]:
        return self._own.targets

    def __len__(self) -> int:
        return len(self._own.samples)

    def __getitem__(self, place: int) -> Any:
        place = self._checked(place)
        batch = self._loader.get(self._own.samples["index"][place : place + 1])
        return BatchSamples(batch, self._loader._fields)[0]

    def __getitems__(self, places: Sequence[int]) -> BatchSamples:
        """Several samples, for a DataLoader; those of the Loader's ``batch_sampler`` are decoded ahead."""
        if isinstance(places, BatchPlaces):
            batch = self._loader._batch_at(self._source, places.epoch, places.step)
        else:
            batch = self._loader.get(self._own.samples["index"][[self._checked(place) for place in places]])
        return BatchSamples(batch, self._loader._fields)

    def _checked(self, place: int) -> int:
        if isinstance(place, int) and place >= len(self):
            raise IndexError(
                f"the dataset has samples 0 to {len(self) - 1}, and no {place}"
            )  # ends a for loop
        count = len(self)
        place = whole("place", place, f"{-count} to {count - 1}", lambda n: -count <= n < count)
        return place + count if place < 0 else place


class SamplerView:
    """The places in the dataset of this rank's samples in the loader's next epoch, in its order."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def set_epoch(self, epoch: int) -> None:
        """As the Loader's; keeps the place in an epoch that a state has resumed."""
        self._loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        for batch in self._loader.batch_sampler:
            yield from batch

    def __len__(self) -> int:
        sampler = self._loader._find_sampler()
        return sum(end - begin for begin, end in map(sampler.positions, range(sampler.steps)))


class BatchSamplerView:
    """The places in the dataset of each batch of the loader's next epoch."""

    def __init__(self, loader: Loader, own: SampleSet) -> None:
        self._loader, self._own = loader, own

    def __iter__(self) -> Iterator[BatchPlaces]:
        first = self._loader._first()
        places = self._own.orders.draw(first.epoch).places
        for step in range(first.step, first.sampler.steps):
            begin, end = first.sampler.positions(step)
            yield BatchPlaces(places[begin:end].tolist(), first.epoch, step)

    def __len__(self) -> int:
        return len(self._loader)


def collate(samples: Sequence[Any]) -> Any:
    """The collate_fn of a DataLoader over a loader's dataset: the batch itself, with its indices, instead of a copy."""
    return samples.batch if isinstance(samples, BatchSamples) else default_collate(list(samples))
