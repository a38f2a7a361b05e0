"""Where images to be packed come from: what the packer asks of a source, and the sources that there are.

A ``Dataset`` is what a user names: a folder, a list file.  Each of its splits is a ``Source``: images, by keys, and their
labels.  A ``Reader`` reads images by key in worker processes.  A new kind of source is a module with these three, and a
line in ``SOURCES``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from ...common.untrusted import open_regular
from ..errors import InputUnreadable
from .listing import Ignored

if TYPE_CHECKING:
    from ..columns import FieldTypes
    from ..manifest import Image

FOLDER = "folder"  # the source where no other is named; sidecars of version 0.1 name none
# Nothing is there that could be read later.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


LabelType = Literal["auto", "class", "float"]
"""What the labels of a file are: classes, floats, or (auto) floats if all are numbers and one has a decimal point, else classes."""


class Identity(NamedTuple):
    """What an image was when it was looked at: an interrupted packing resumes only where these are the same."""

    size: int
    """In bytes; -1 where there is no such image, which ``Reader.read`` reports."""
    changed_ns: int
    """When it was last modified, in ns since 1970; -1 where there is none."""


class Item(NamedTuple):
    """What a source stores of one image."""

    image: bytes
    """An image file: JPEG, PNG, ..."""
    made_of: str = ""
    """What it was made of, if it was no file: "array"."""
    is_named: bool = True
    """Whether its name says of which format it is."""


class Reader(Protocol):
    """Reads the images of one split.  Pickled to each worker process, so it holds no list of the images: of ImageNet that is 50 MB."""

    @property
    def place(self) -> str:
        """What messages call the split: the path of its folder."""

    def name(self, key: str) -> str:
        """What messages call an image: its path.  A suffix at its end is the file's."""

    def identity(self, key: str) -> Identity:
        """What the image is now.

        Raises:
            InputUnreadable: the disk or network does not say.
        """

    def read(self, key: str) -> Item:
        """The image.

        Raises:
            OSError: it cannot be read; with an errno in ``NO_FILE`` because there is none.
            ValueError: what is there is no file.
        """


class Sent(NamedTuple):
    """An image that this process has read for a worker process."""

    key: str
    image: Image
    reader: Reader
    """Reads it, and nothing else."""


@runtime_checkable
class SendsImages(Protocol):
    """A source whose images this process reads, since no worker process can."""

    def sent(self, images: Sequence[Image]) -> Sequence[Sent]:
        """These images, the last of the source, each read when it is asked for."""


class Source(Protocol):
    """The images of one split, in the order in which they are packed."""

    @property
    def keys(self) -> list[str]:
        """A name of each image that is unique in the split and stays the same: in sidecars and messages."""

    @property
    def labels(self) -> Sequence[float]:
        """The label of each image: ints, or floats, which the file stores as floats."""

    @property
    def classes(self) -> list[str]:
        """What labels 0, 1, ... mean; empty if they are numbers."""

    @property
    def reader(self) -> Reader:
        """Reads them."""

    @property
    def ignored(self) -> Ignored:
        """What else is there and is not packed."""

    @property
    def in_several_classes(self) -> list[str]:
        """Keys of images that are in more than one class."""

    def shuffled(self, seed: int) -> Source:
        """The same images in a random order."""

    def limited(self, count: int) -> Source:
        """The first ``count`` images."""


class Dataset(Protocol):
    """What a user names to be packed.  Pickled to worker processes; it holds paths, and looks at them when it is asked."""

    @property
    def kind(self) -> str:
        """Which of the ``SOURCES`` it is; sidecars name it."""

    @property
    def without_train(self) -> str:
        """In words, that it has no training split to number classes by."""

    def splits(self) -> list[str]:
        """The splits that it has, if any: one beton each.

        Raises:
            FolderError: it cannot be looked at.
        """

    def class_names(self, split: str) -> list[str]:
        """What labels 0, 1, ... of a split mean by itself; empty if they are numbers.

        Raises:
            FolderError: they cannot be listed.
        """

    def open(self, split: str, classes: list[str] | None = None) -> Source:
        """List the images of a split.

        Args:
            classes: what labels mean, where another split decides it; empty if they are numbers.

        Raises:
            FolderError: the split is not what is expected, or has a class that is not in ``classes``.
        """

    def reader(self, split: str) -> Reader:
        """Reads the images of a split, without listing them."""

    def class_of(self, split: str, key: str) -> str | None:
        """The class that an image is in; None where the split has no such image."""

    def packed_split(self, split: str) -> str:
        """What the split of a packed file is called here: a folder may also be that of the split itself, called "".

        Raises:
            UserError: there is nothing of the kind.
        """


@runtime_checkable
class Described(Protocol):
    """A dataset that has more to say of a split than its kind."""

    def described(self, split: str) -> dict[str, Any]:
        """Settings to record in the sidecar: where the order of the classes came from, and on what a resume depends."""


class Choices(NamedTuple):
    """What a user decides of a dataset that a file names."""

    label_type: LabelType = "auto"
    columns: tuple[str, str] | None = None
    """Names of the columns of the images and of the labels; None: the usual ones."""
    val_labels: Path | None = None
    """Of ImageNet: the list of the classes of its validation images."""


@runtime_checkable
class TakesFields(Protocol):
    """A dataset that has further fields if it is told which, and of which types."""

    def with_fields(self, types: FieldTypes) -> Dataset:
        """The same with these fields."""


@dataclass(frozen=True)
class SourceKind:
    """A kind of dataset, as the command line opens it."""

    opens: str
    """module:function, imported when it is used; called with the folder, the file and the ``Choices``, it returns the ``Dataset``."""
    flag_help: str = ""
    """Of the flag with the kind's name, which takes the file; a kind without one needs no flag."""
    metavar: str = "FILE"
    """What that flag takes."""
    recognises: str = ""
    """module:function, called with a folder; whether it is of this kind.  Without one, only the flag says so."""
    alone: bool = False
    """Whether the flag names all there is, so that no folder is needed to verify."""


SOURCES = {
    FOLDER: SourceKind("alexnet_fast.packing.sources.image_folder:opened"),
    "list": SourceKind(
        "alexnet_fast.packing.sources.list_file:opened",
        "list of the images, in place of folders of classes: lines 'relative/path label', or CSV, TSV or JSON lines whose columns have "
        "names, as 'path,label'; paths are relative to the folder of the images (--data, by default that of FILE); see --label-type",
    ),
    "imagenet": SourceKind(
        "alexnet_fast.packing.sources.imagenet:opened",
        "folder with ImageNet's tars as they were downloaded, read where they are; --data recognises it too",
        "DIR",
        "alexnet_fast.packing.sources.imagenet:recognises",
        alone=True,
    ),
    "tiny-imagenet": SourceKind(
        "alexnet_fast.packing.sources.tiny_imagenet:opened",
        metavar="DIR",
        recognises="alexnet_fast.packing.sources.tiny_imagenet:recognises",
    ),
    "webdataset": SourceKind(
        "alexnet_fast.packing.sources.webdataset:opened",
        "webdataset's shards (.tar, .tar.gz): a folder, a file, or a pattern as 'train-{000..146}.tar'; images as 0001.jpg, their "
        "labels in 0001.cls or 0001.json",
        "DIR|PATTERN",
        "alexnet_fast.packing.sources.webdataset:recognises",
        alone=True,
    ),
    "parquet": SourceKind(
        "alexnet_fast.packing.sources.parquet:opened",
        "parquet or arrow files, as the Hugging Face Hub has them: a folder, a file, or a pattern; needs pyarrow",
        "DIR|PATTERN",
        "alexnet_fast.packing.sources.parquet:recognises",
        alone=True,
    ),
}


def open_dataset(
    kind: str, folder: Path, file: Path | None = None, label_type: LabelType = "auto", **choices: Any
) -> Dataset:
    """A dataset of one of the ``SOURCES``.

    Args:
        folder: where the images are.
        file: what the kind's flag was given.
        label_type: what the file's labels are.
        choices: others of ``Choices``.
    """
    opens: Callable[[Path, Path | None, Choices], Dataset] = _imported(SOURCES[kind].opens)
    return opens(folder, file, Choices(label_type, **choices))


def kind_of_folder(folder: Path) -> str:
    """Which of the ``SOURCES`` a folder is, by what is in it; ``FOLDER`` if it is no other."""
    recognising = ((kind, source.recognises) for kind, source in SOURCES.items() if source.recognises)
    return next((kind for kind, recognises in recognising if _imported(recognises)(folder)), FOLDER)


def described(dataset: Dataset, split: str) -> dict[str, Any]:
    """What the sidecar says of a split's source: for a folder nothing, as in version 0.1."""
    more = dataset.described(split) if isinstance(dataset, Described) else {}
    return ({} if dataset.kind == FOLDER else {"source": dataset.kind}) | more


def _imported(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


@dataclass(frozen=True)
class FileReader:
    """Reads images that are files below a folder; a key is a path relative to it."""

    root: Path
    place: str

    def name(self, key: str) -> str:
        return str(self.root / key)

    def identity(self, key: str) -> Identity:
        path = f"{self.root}/{key}"
        try:
            status = os.stat(path)
        except OSError as error:
            if error.errno not in NO_FILE:
                raise InputUnreadable(f"cannot read the image {path}: {error.strerror}") from error
            return Identity(-1, -1)
        return Identity(status.st_size, status.st_mtime_ns)

    def read(self, key: str) -> Item:
        with open_regular(self.root / key) as file:  # a pipe would be waited for
            return Item(file.read())  # Pillow reads a file in forty small pieces
