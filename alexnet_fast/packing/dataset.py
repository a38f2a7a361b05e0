"""Packs what code gives: any sequence or torch Dataset of images with their labels and further fields.

The public name is ``alexnet_fast.pack_dataset``; ``alexnet_fast.pack`` is the module of the command.

The dataset is read twice, by the process that calls: first every item is looked at, so that all labels, fields and identities are
known, then its image is sent to a worker process, which encodes it.  So the dataset need not be pickled, and this works in a
notebook and in a script without ``if __name__ == "__main__"``.  Workers are started by multiprocessing's forkserver: they import
neither the main module nor torch.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from PIL import Image as Pillow

from ..common.arguments import instance, path_of, seed_of, whole
from ..common.cpus import allowed_cores
from ..common.progress import progress_bar
from ..common.untrusted import printable
from ..errors import UserError
from .columns import LABEL, Column, FieldTypes, field_types
from .deep import is_deep_grey
from .encode import Encoding
from .errors import InputChanged, PackingError
from .manifest import FROM_CODE, Image
from .sources import FileReader, Identity, Item, Sent
from .sources.listing import Ignored
from .writer import PackResult, write_beton

Progress = Callable[[int], None]
FILES = FileReader(Path("/"), "")
"""Of paths that are absolute."""

IN_CODE = {
    "--fresh": "fresh=True",
    "--on-error skip": 'on_error="skip"',
    "--on-corrupt error": 'on_corrupt="error"',
    "--max-resolution or --quality": "the encoding's max_resolution or quality",
    "--max-resolution": "the encoding's max_resolution",
    "--out": "path",
    "--workers": "workers",
    "the same command": "the same call",
    "while the folder was packed": "while they were packed",
}
"""What messages of the packer call it on the command line -> here."""


def pack_dataset(
    dataset: Any,
    path: str | os.PathLike[str],
    fields: Mapping[str, str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    encoding: Encoding | None = None,
    workers: int | None = None,
    shuffle_seed: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    on_corrupt: Literal["pack", "error"] = "pack",
    fresh: bool = False,
    progress: Progress | None = None,
) -> PackResult:
    """Pack every item of ``dataset`` into one beton and its json, complete or not at all.

    An item is a tuple (image, value of each field in the order of ``fields``), or a dict of "image" and the names of the fields.
    An image is a path; the bytes of an image file, of which JPEG is encoded, kept or refused as a file's would be; a PIL image; or
    an array (H, W, 3) of uint8.

    If it is interrupted at any moment, even by SIGKILL, the same call resumes there and ends with the same bytes; if the file is
    finished, nothing is done.  For that the items have to be the same again: each is compared, by a digest of what it gave (of a
    path, by the file's size and time), so a dataset with a random transform is refused.

    It is read twice, by this process.  Paths and JPEG bytes cost least: for torchvision's ImageFolder give ``folder.samples``.

    Args:
        dataset: has a length and items 0, 1, ...: a list, a torch Dataset, a Hugging Face dataset.
        path: the file to write.
        fields: names and types of an item's values behind the image: "int", "float", "bytes", "json", or an array such as
            "float32[40]"; one is the "label", an int, a float or a vector.  None = ``{"label": "int"}``.
        classes: the names of labels 0, 1, ...; None = ``dataset.classes``, if it has them.
        encoding: how images are encoded; None = ``Encoding()``, the packer's defaults.
        workers: processes that encode (default: one for each core).
        shuffle_seed: of a random order in the file; None = the dataset's.
        on_error: what an unreadable image does: "raise" ends the packing, "skip" lists it in the json.
        on_corrupt: what happens to an image that its decoder reads with a warning: "pack", or "error", which makes it unreadable.
        fresh: start from scratch, even if a packing was interrupted or finished there.
        progress: called with the number of images done; None = a bar on a terminal, and a line now and then in a log.

    Raises:
        UserError: an item or an argument is not what is expected; it is named.
        PackingError: see ``writer.write_beton``.
    """
    target = path_of("path", path)
    encoding = Encoding() if encoding is None else instance("encoding", encoding, Encoding, "an Encoding")
    workers = (
        allowed_cores() if workers is None else whole("workers", workers, "at least 1", lambda n: n >= 1)
    )
    seed = None if shuffle_seed is None else seed_of("shuffle_seed", shuffle_seed)
    types = _checked(field_types({LABEL: "int"} if fields is None else fields, "fields"))
    source = _looked_at(dataset, types, classes, target.name if progress is None else "")
    if seed is not None:
        source = source.shuffled(seed)
    settings = {"source": FROM_CODE, "shuffle_seed": seed}
    with ExitStack() as stack:
        if progress is None:
            progress = stack.enter_context(progress_bar(f"packing {target.name}", len(source.keys)))
        try:
            return write_beton(
                source,
                target,
                encoding,
                workers=workers,
                on_error=on_error,
                on_corrupt=on_corrupt,
                settings=settings,
                fresh=fresh,
                progress=progress,
            )
        except PackingError as error:
            raise type(error)(_in_code(error.what), _in_code(error.remedy)) from error


class Given(NamedTuple):
    """The image of one item.

    Attributes:
        path: of its file; "" if there is none.
        item: its bytes, if it has no file.
        fault: why a PIL image cannot be read; "" if it can.
    """

    path: str = ""
    item: Item = Item(b"")
    fault: str = ""

    def identity(self) -> Identity:
        """By the file, or by a digest of the content, whose number stands in place of a size."""
        if self.path:
            return FILES.identity(self.path)
        content = self.item.image + self.item.made_of.encode() + self.fault.encode()
        digest = hashlib.blake2b(content, digest_size=8).digest()
        return Identity(int.from_bytes(digest, "big") >> 1, 0)


def given_image(value: Any) -> Given:
    """What an item has as its image.

    Raises:
        ValueError: it is nothing of the kind; the text says what it is.
    """
    if isinstance(value, (str, os.PathLike)):
        return Given(os.path.abspath(os.fsdecode(value)))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Given(item=Item(bytes(value), is_named=False))
    if isinstance(value, Pillow.Image):
        try:
            return Given(item=Item(*_file_of(value)))
        except (OSError, ValueError, SyntaxError) as error:  # a file that was not read before
            return Given(fault=str(error) or type(error).__name__)
    if hasattr(value, "__array__"):
        try:
            pixels = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a card
            raise ValueError(f"no array: {printable(str(error))}") from None
        if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
            return Given(item=Item(_ppm(pixels.shape[1], pixels.shape[0], pixels.tobytes()), "array"))
        shape = "x".join(map(str, pixels.shape))
        raise ValueError(f"an array of {pixels.dtype} of shape {shape}, expected uint8 of shape (H, W, 3)")
    raise ValueError(
        f"{printable(repr(value), 60)} ({type(value).__name__}), expected a path, the bytes of an image file, a PIL image or an array"
    )


def _file_of(image: Pillow.Image) -> tuple[bytes, str]:
    """A PIL image as a file without loss, which workers read as any other, and what it was."""
    what = f"PIL image {image.mode}"
    if is_deep_grey(image) or ";" in image.mode:
        buffer = io.BytesIO()
        image.save(buffer, "TIFF")
        return buffer.getvalue(), what
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return _ppm(*rgb.size, rgb.tobytes()), what


def _ppm(width: int, height: int, pixels: bytes) -> bytes:
    return b"P6 %d %d 255\n" % (width, height) + pixels


@dataclass(frozen=True)
class GivenReader:
    """Reads one item whose image was sent, or tells what items were when they were looked at.

    Attributes:
        identities: of each image by its key, or the path of its file.
        sent: the image.
    """

    identities: dict[str, Identity | str] = field(default_factory=dict)
    sent: Given | None = None

    place = "dataset"

    def name(self, key: str) -> str:
        known = self.identities.get(key)
        path = known if isinstance(known, str) else self.sent.path if self.sent else ""
        return path or f"dataset[{key}]"

    def identity(self, key: str) -> Identity:
        known = self.identities[key] if self.sent is None else self.sent.path or self.sent.identity()
        return FILES.identity(known) if isinstance(known, str) else known

    def read(self, key: str) -> Item:
        assert self.sent is not None
        if self.sent.fault:
            raise ValueError(self.sent.fault)
        if self.sent.path:
            return FILES.read(self.sent.path)
        return self.sent.item


@dataclass(frozen=True)
class GivenSource:
    """The items of a dataset, in the order in which they are packed; see ``sources.Source``."""

    dataset: Any
    types: FieldTypes
    keys: list[str]
    labels: Sequence[float]
    classes: list[str]
    columns: tuple[Column, ...]
    reader: GivenReader
    ignored: Ignored = field(default_factory=Ignored)
    in_several_classes: list[str] = field(default_factory=list)

    def shuffled(self, seed: int) -> GivenSource:
        order = list(range(len(self.keys)))
        Random(seed).shuffle(order)
        return self._reordered(order)

    def limited(self, count: int) -> GivenSource:
        return self._reordered(range(len(self.keys))[:count])

    def sent(self, images: Sequence[Image]) -> Sequence[Sent]:
        """These images, the last of the source, each read from the dataset when it is asked for."""
        return _Read(self, images)

    def _reordered(self, order: Sequence[int]) -> GivenSource:
        return replace(
            self,
            keys=[self.keys[i] for i in order],
            labels=[self.labels[i] for i in order] if len(self.labels) else [],
            columns=tuple(each.reordered(order) for each in self.columns),
        )

    def read_again(self, image: Image, place: int) -> Given:
        """The image of the item at a place of the source, which has to give what it gave before.

        Raises:
            InputChanged: it gives something else.
        """
        given, values = _item(self.dataset, int(image.key), self.types)
        known: list[float | bytes] = [self.labels[place]] if len(self.labels) else []
        known += [each.values[place] for each in self.columns]
        if given.identity() != image.identity or _stored(self.types, values) != known:
            what = "other values" if given.identity() == image.identity else "another image"
            raise InputChanged(
                f"dataset[{image.key}] gave {what} when it was read again: it was changed, or has a random transform",
                "give pack_dataset the dataset without it; what is packed already is kept",
            )
        return given


class _Read(Sequence[Sent]):
    """The rest of a source's images; an item is read from the dataset."""

    def __init__(self, source: GivenSource, images: Sequence[Image]) -> None:
        self._source, self._images = source, images
        self._first = len(source.keys) - len(images)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, at: int) -> Sent: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sent]: ...
    def __getitem__(self, at: int | slice) -> Sent | list[Sent]:
        if isinstance(at, slice):
            return [self[k] for k in range(*at.indices(len(self)))]
        image = self._images[at]
        return Sent(image.key, image, GivenReader(sent=self._source.read_again(image, self._first + at)))


def _looked_at(dataset: Any, types: FieldTypes, classes: Sequence[str] | None, shown: str) -> GivenSource:
    """Every item of a dataset, read once; shown: the name on a progress bar, "" for none."""
    try:
        count = len(dataset)
    except TypeError:
        raise UserError(
            f"the dataset is a {type(dataset).__name__} without a length; give one with items 0, 1, ..., or list(dataset)"
        ) from None
    if count == 0:
        raise UserError("the dataset is empty; expected at least one item")
    identities, values = dict[str, Identity | str](), {name: list[float | bytes]() for name in types}
    with ExitStack() as stack:
        bar = (
            stack.enter_context(progress_bar(f"looking at what {shown} is made of", count)) if shown else None
        )
        for index in range(count):
            given, found = _item(dataset, index, types)
            identities[str(index)] = given.path or given.identity()
            for name, stored in zip(types, _stored_or_refused(index, types, found)):
                values[name].append(stored)
            if bar is not None:
                bar(index + 1)
    is_number = types[LABEL].is_number
    labels = [value for value in values[LABEL] if not isinstance(value, bytes)]
    columns = tuple(
        Column(name, kind, values[name]) for name, kind in types.items() if name != LABEL or not is_number
    )
    names = _class_names(dataset, classes, labels)
    return GivenSource(dataset, types, list(identities), labels, names, columns, GivenReader(identities))


def _item(dataset: Any, index: int, types: FieldTypes) -> tuple[Given, list[Any]]:
    """The image and the values of one item."""
    try:
        item = dataset[index]
    except Exception as error:
        raise UserError(
            f"dataset[{index}] raised {type(error).__name__}: {printable(str(error))}; correct it, or pack without it"
        ) from error
    names = ("image", *types)
    expected = f"({', '.join(names)}), or a dict of these"
    if isinstance(item, Mapping):
        if missing := [name for name in names if name not in item]:
            raise UserError(f"dataset[{index}] is a dict without {missing[0]!r}; expected {expected}")
        parts = [item[name] for name in names]
    elif isinstance(item, (tuple, list)) and len(item) == len(names):
        parts = list(item)
    else:
        size = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
        raise UserError(f"dataset[{index}] is a {type(item).__name__}{size}; expected {expected}")
    try:
        return given_image(parts[0]), parts[1:]
    except ValueError as error:
        raise UserError(f"dataset[{index}]: its image is {error}") from None


def _stored(types: FieldTypes, values: Sequence[Any]) -> list[float | bytes]:
    """Values as they are stored, the label first if it is a number; raises ValueError for one of another type."""
    stored = {name: kind.pack(value) for (name, kind), value in zip(types.items(), values, strict=True)}
    if types[LABEL].is_number:
        stored = {LABEL: stored[LABEL], **stored}
    return list(stored.values())


def _stored_or_refused(index: int, types: FieldTypes, values: Sequence[Any]) -> Iterator[float | bytes]:
    for (name, kind), value in zip(types.items(), values, strict=True):
        try:
            yield kind.pack(value)
        except ValueError as error:
            raise UserError(f"dataset[{index}]: the field {name!r} is {kind}, but {error}") from None


def _checked(types: FieldTypes) -> FieldTypes:
    """Types of which one is the label's."""
    label = types.get(LABEL)
    if label is None or not (label.is_number or (label.is_array and len(label.shape) == 1)):
        what = "no field 'label'" if label is None else f"the field 'label' of type {label}"
        raise UserError(
            f"fields has {what}; call the field that is the label so: an int, a float or a vector such as float32[40]"
        )
    return types


def _class_names(dataset: Any, given: Sequence[str] | None, labels: Sequence[float]) -> list[str]:
    """What labels mean; empty if it is not known, or if they are no classes."""
    names: Any = getattr(dataset, "classes", None) if given is None else given
    is_list = (
        isinstance(names, (list, tuple)) and len(names) > 0 and all(isinstance(name, str) for name in names)
    )
    fit = bool(labels) and all(isinstance(label, int) for label in labels)
    fit = fit and is_list and min(labels) >= 0 and max(labels) < len(names)
    if given is not None and not fit:
        span = f"{min(labels):g} to {max(labels):g}" if labels else "vectors"
        raise UserError(
            f"classes are {len(names)} names, but labels are {span}; give a name for each label from 0 on"
        )
    return list(names) if fit else []


def _in_code(text: str) -> str:
    for flag, here in IN_CODE.items():
        text = text.replace(flag, here)
    return text
