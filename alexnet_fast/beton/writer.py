"""An image folder -> a beton file and its sidecar, by worker processes, whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from .. import __version__
from ..errors import UserError
from . import format as fmt
from .encode import Encoding, Sample, UnreadableImage, encode_file
from .lossless import jpegtran
from .reader import sidecar_path

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
)
CHUNK = 8  # images a task: large enough to hide the queue, small enough that all workers end together
PARTIAL = ".partial"


class FolderError(UserError):
    """A folder that is not what the packer expects."""


@dataclass(frozen=True)
class Split:
    """The images of one split: paths relative to ``root``, their labels, and the names of the classes."""

    root: Path
    paths: list[str]
    labels: list[int]
    classes: list[str]

    def shuffled(self, seed: int) -> Split:
        """The same images in an order of mixed classes."""
        order = list(range(len(self.paths)))
        random.Random(seed).shuffle(order)
        return Split(self.root, [self.paths[i] for i in order], [self.labels[i] for i in order], self.classes)

    def limited(self, count: int) -> Split:
        """The first ``count`` images."""
        return Split(self.root, self.paths[:count], self.labels[:count], self.classes)


@dataclass
class Packed:
    """What a finished packing tells."""

    path: Path
    samples: int = 0
    payload_bytes: int = 0
    file_bytes: int = 0
    seconds: float = 0.0
    converted: dict[str, str] = field(default_factory=dict)
    """Path of each image that was not what it is stored as -> what it was (``Sample.converted_from``)."""
    skipped: list[str] = field(default_factory=list)


def scan_folder(root: Path, classes: list[str] | None = None) -> Split:
    """List ``root/<class>/*`` as torchvision's ImageFolder does: classes in sorted order are labels 0, 1, ...

    Args:
        classes: the labels to use, where another split has named them; a class beyond them is an error.

    Raises:
        FolderError: no folder, no class in it, a class without images or one that is not in ``classes``.
    """
    if not root.is_dir():
        raise FolderError(
            f"{root} is not a folder; expected one folder per class in it, each with that class's images"
        )
    found = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
    )
    if not found:
        raise FolderError(f"{root} has no class folders; expected {root}/<class>/<image>")
    classes = classes or found
    if unknown := sorted(set(found) - set(classes)):
        raise FolderError(
            f"{root} has the class {unknown[0]!r}, which the training split does not have; remove or rename it"
        )
    paths, labels = [], []
    for name in found:
        images = sorted(_images_below(root / name))
        if not images:
            raise FolderError(
                f"{root / name} holds no image; expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        paths += [f"{name}/{image}" for image in images]
        labels += [classes.index(name)] * len(images)
    return Split(root, paths, labels, classes)


def _images_below(folder: Path) -> Iterator[str]:
    for directory, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield os.path.relpath(os.path.join(directory, name), folder)


def write_beton(
    split: Split,
    path: Path,
    encoding: Encoding,
    *,
    workers: int,
    on_error: Literal["raise", "skip"] = "raise",
    settings: dict[str, object] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Packed:
    """Encode every image of ``split`` and write them, in its order, to ``path`` and its sidecar.

    The bytes depend on the split and the encoding alone, not on the number of workers.  Until it is
    whole the file is called ``<name>.partial``.

    Args:
        workers: processes that decode and encode.
        on_error: what an unreadable image does: end the packing, or be listed in the sidecar.
        settings: more settings to record in the sidecar.
        progress: called with the number of images done so far.

    Raises:
        UnreadableImage: with on_error "raise", naming the file.
        UserError: the disk is full or not writable, a worker died, no image was readable, or one takes more than 2 GiB.
        JpegtranMissing: mode lossless without the program that it needs.
    """
    started = time.perf_counter()
    if encoding.mode == "lossless":
        jpegtran()  # before anything is written
    packed = Packed(path)
    partial = path.with_name(path.name + PARTIAL)
    kept_paths: list[str] = []
    class_counts: Counter[int] = Counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            pages = _Pages(file, len(split.paths))
            for i, outcome in enumerate(_encoded(split, encoding, workers)):
                if isinstance(outcome, UnreadableImage):
                    if on_error == "raise":
                        raise outcome
                    packed.skipped.append(split.paths[i])
                else:
                    pages.add(outcome, split.labels[i])
                    kept_paths.append(split.paths[i])
                    class_counts[split.labels[i]] += 1
                    if outcome.converted_from:
                        packed.converted[split.paths[i]] = outcome.converted_from
                progress(i + 1)
            if not kept_paths:
                raise UserError(
                    f"none of the {len(split.paths)} images below {split.root} could be read; nothing was written"
                )
            pages.finish()
            packed.samples, packed.payload_bytes = len(kept_paths), pages.payload_bytes
            packed.file_bytes = file.tell()
            os.fsync(file.fileno())
        document = {
            "packer": f"alexnet_fast {__version__}",
            "classes": split.classes,
            "settings": {**asdict(encoding), **(settings or {})},
            "counts": {
                "samples": packed.samples,
                "payload_bytes": packed.payload_bytes,
                "per_class": {name: class_counts[k] for k, name in enumerate(split.classes)},
                "converted": dict(sorted(Counter(packed.converted.values()).items())),
            },
            "converted": packed.converted,
            "skipped": packed.skipped,
            "paths": kept_paths,
        }
        _write_whole(sidecar_path(path), json.dumps(document, indent=1))
        os.replace(partial, path)
    except BrokenProcessPool as error:
        raise UserError(
            f"a packing worker died while packing {path} (killed, or out of memory); free memory or use fewer --workers, and start again"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another --out or make room"
        ) from error
    finally:
        with suppress(OSError):  # none there, or no folder that could hold it: the error above says so
            partial.unlink()
    packed.seconds = time.perf_counter() - started
    return packed


class _Pages:
    """Lays payloads out in pages behind a header and metadata that are written last."""

    def __init__(self, file: BinaryIO, most_samples: int) -> None:
        self.file = file
        self.page_size = fmt.DEFAULT_PAGE_SIZE
        self.dtype = fmt.record_dtype([fmt.RGB_IMAGE_ID, fmt.INT_ID])
        self.records = np.zeros(most_samples, self.dtype)
        self.table = np.zeros(most_samples, fmt.ALLOCATION)
        self.count = 0
        self.payload_bytes = 0
        self.at = fmt.page_align(fmt.metadata_offset(2) + self.records.nbytes, self.page_size)
        file.seek(self.at)

    def add(self, sample: Sample, label: int) -> None:
        """Append one sample; one that does not fit into the rest of its page begins the next.

        For one that is larger than a page, pages double until it fits.  What lies in the file already still crosses
        none: every edge of the new pages was one of the old.
        """
        size = len(sample.payload)
        while size > self.page_size:
            if self.page_size == fmt.MAX_PAGE_SIZE:
                raise UserError(
                    f"an image of {sample.width} x {sample.height} pixels takes {size} bytes, more than the largest page "
                    f"({fmt.MAX_PAGE_SIZE}); lower --max-resolution or --quality"
                )
            self.page_size *= 2
        left = -self.at % self.page_size
        if 0 < left < size:
            self._pad(left)
        self.file.write(sample.payload)
        self.records[self.count] = ((sample.mode, sample.width, sample.height, self.at), label)
        self.table[self.count] = (self.count, self.at, size)
        self.at += size
        self.payload_bytes += size
        self.count += 1

    def finish(self) -> None:
        """Fill the last page, write the allocation table, then the metadata and, last of all, the header."""
        self._pad(-self.at % self.page_size)
        self.file.write(self.table[: self.count].tobytes())
        end = self.file.tell()
        fields = np.zeros(2, fmt.FIELD)
        for descriptor, name, type_id in zip(fields, (b"image", b"label"), (fmt.RGB_IMAGE_ID, fmt.INT_ID)):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = np.frombuffer(name, np.uint8)
        self.file.seek(fmt.HEADER.itemsize)
        self.file.write(fields.tobytes() + self.records[: self.count].tobytes())
        header = np.array([(fmt.VERSION, 2, self.page_size, self.count, self.at)], fmt.HEADER)
        self.file.seek(0)
        self.file.write(header.tobytes())
        self.file.seek(end)
        self.file.flush()

    def _pad(self, size: int) -> None:
        self.file.write(bytes(size))
        self.at += size


def _encoded(split: Split, encoding: Encoding, workers: int) -> Iterator[Sample | UnreadableImage]:
    """The split's samples in order, encoded ahead by ``workers`` processes."""
    chunks = [split.paths[i : i + CHUNK] for i in range(0, len(split.paths), CHUNK)]
    if workers <= 1:
        yield from (outcome for chunk in chunks for outcome in _encode_chunk(split.root, chunk, encoding))
        return
    # forkserver: a fork of this process would copy the locks of the progress bar's thread.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.encode"])
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        ahead: deque[Future[list[Sample | UnreadableImage]]] = deque()
        waiting: Iterable[list[str]] = iter(chunks)
        for chunk in waiting:
            ahead.append(pool.submit(_encode_chunk, split.root, chunk, encoding))
            if len(ahead) > 3 * workers:  # bounds memory to a few chunks a worker, however slow the disk
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _encode_chunk(root: Path, paths: list[str], encoding: Encoding) -> list[Sample | UnreadableImage]:
    outcomes: list[Sample | UnreadableImage] = []
    for path in paths:
        try:
            outcomes.append(encode_file(root / path, encoding))
        except UnreadableImage as error:
            outcomes.append(error)
    return outcomes


def _write_whole(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``, at once or not at all."""
    partial = path.with_name(path.name + PARTIAL)
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
