"""Batches of more fields than the image and the label: a named tuple, whose further values are read when it is handed out."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch

from ..beton import format as fmt
from ..beton.columns import StoredColumn
from ..beton.reader import Beton, FieldError
from ..common.arguments import check
from ..errors import UserError
from .views import of_samples

if TYPE_CHECKING:
    from .buffer_pool import Batch


def field_names_of(given: object) -> tuple[str, ...] | None:
    """Names of fields, or None; UserError for anything else, and for a name that comes twice."""
    expected = 'names of fields, each once, as ("image", "label", "attrs"), or None'
    if given is None:
        return None
    names = tuple(given) if isinstance(given, Sequence) and not isinstance(given, (str, bytes)) else ()
    good = bool(names) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    check("fields", given, expected, good)
    return names


class FieldBatch:
    """One batch of several fields: a tuple, whose values have the names of the file's fields.

    The image is a tensor as in any batch (with ``views`` a tuple of tensors), and so is the label.  A further int or float is a tensor (B,) of int64 or float64, an
    array a tensor (B, *shape) of its dtype, on the images' device; bytes and JSON are lists of B values in host memory.

    ``batch.images``, ``batch.labels`` and ``batch.indices`` are a batch's own, unless a field has that name.
    """

    _image: int
    _label: int | None
    _indices: torch.Tensor | None = None

    @property
    def images(self) -> torch.Tensor:
        images: torch.Tensor = self[self._image]  # type: ignore[index]
        return images

    @property
    def labels(self) -> torch.Tensor:
        if self._label is None:
            raise AttributeError("the Loader's fields do not have the label")
        labels: torch.Tensor = self[self._label]  # type: ignore[index]
        return labels

    @property
    def indices(self) -> torch.Tensor:
        """(B,) int64, each sample's place in the file."""
        if self._indices is None:
            raise AttributeError(
                "this batch was made of its fields alone, so it has no indices; take those of the Loader's own batch"
            )
        return self._indices

    def __reduce__(self) -> tuple[Any, ...]:
        names: tuple[str, ...] = self._names  # type: ignore[attr-defined]
        return _again, (names, self._image, self._label, tuple(self), self._indices)  # type: ignore[arg-type]


_named: Any = partial(namedtuple, rename=True)
"""A name that is no attribute in Python becomes _0, _1, ...: its value has its place in the tuple all the same."""


@lru_cache(maxsize=64)
def _batch_type(names: tuple[str, ...], image: int, label: int | None) -> Any:
    fields = _named("FieldBatch", names)
    own: dict[str, Any] = {"_image": image, "_label": label, "_names": names}
    own |= {name: getattr(fields, name) for name in ("images", "labels", "indices") if name in names}
    return type("FieldBatch", (FieldBatch, fields), own)


@lru_cache(maxsize=64)
def _sample_type(names: tuple[str, ...]) -> Any:
    return _named("Sample", names)


def _again(
    names: tuple[str, ...], image: int, label: int | None, values: tuple, indices: torch.Tensor | None
) -> Any:
    batch = _batch_type(names, image, label)(*values)
    batch._indices = indices
    return batch


class Fields:
    """Makes the batches of a loader with ``fields``.

    Args:
        beton: the file.
        names: the fields, one of which is the image.

    Raises:
        FieldError: the file has no such field; or it is another image than the one that is decoded.
        UserError: the image is not among them.
    """

    def __init__(self, beton: Beton, names: tuple[str, ...]) -> None:
        self._beton, self.names = beton, names
        if beton.image_field not in names:
            raise UserError(f"fields = {names} are without the image: add {beton.image_field!r}")
        self._columns: list[StoredColumn | None] = []
        for name in names:
            own = name in (beton.image_field, beton.label_field)
            if not own and any(
                each.name == name and each.type_id == fmt.RGB_IMAGE_ID for each in beton.fields
            ):
                raise FieldError(
                    f"{beton.path}: the field {name!r} is a second image, and a Loader decodes one, {beton.image_field!r}; open "
                    f"another Loader of the same seed with image_field = {name!r}"
                )
            self._columns.append(None if own else beton.column(name))
        label = names.index(beton.label_field) if beton.label_field in names else None
        self._image = names.index(beton.image_field)
        self._of_batch = _batch_type(names, self._image, label)

    @classmethod
    def of(cls, names: tuple[str, ...] | None, beton: Beton) -> Fields | None:
        """What a Loader with this option needs."""
        return None if names is None else cls(beton, names)

    def __call__(self, batch: Batch) -> Any:
        """The fields of a batch, a ``FieldBatch``.

        Raises:
            BetonError: the file was changed, or a value cannot be read.
        """
        indices, device = batch.indices.numpy(), batch.labels.device
        values = list[Any]()
        with self._beton.unchanged:
            for place, column in enumerate(self._columns):
                if column is None:
                    values.append(batch.images if place == self._image else batch.labels)
                    continue
                taken = column.take(indices)
                if isinstance(taken, list):
                    values.append(taken)
                    continue
                # Torch has no tensors of the other byte order, which FFCV's files may have.
                native = taken.astype(taken.dtype.newbyteorder("="), copy=False)
                values.append(torch.from_numpy(native).to(device, non_blocking=True))
        made = self._of_batch(*values)
        made._indices = batch.indices
        return made

    def samples(self, batch: Any, *, numbers: bool = False) -> list[Any]:
        """Each sample of a ``FieldBatch``, a named tuple of the same fields.

        numbers: single numbers as Python's, not as tensors.
        """
        made = _sample_type(self.names)
        columns = [
            each.tolist() if numbers and isinstance(each, torch.Tensor) and each.ndim == 1 else each
            for each in batch
        ]
        columns[self._image] = of_samples(batch[self._image])
        return [made(*row) for row in zip(*columns)]
