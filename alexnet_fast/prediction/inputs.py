"""The images that a model is to judge, in batches: those of a beton, or files in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..beton.classes import class_names
from ..beton.format import RAW
from ..common.cpus import allowed_cores
from ..decode.crop import CROP_DTYPE, draw_crops
from ..decode.decoder import Decoder
from ..decode.kernel import SAMPLE_DTYPE
from ..decode.status import MEANING
from ..errors import UserError, escaped
from ..loader.buffer_pool import Batch
from ..loader.loader import Loader
from ..loader.options import LoaderOptions
from ..packing.encode import Encoding, Sample, encode_item
from ..packing.errors import PackingError
from ..packing.kinds import image_suffixes
from ..packing.sources import FileReader

PIXELS = Encoding(mode="raw", max_resolution=0)
"""Files are read as packing reads them, to all of their pixels."""
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Image:
    """One image that is judged.

    path: in a beton that does not know it, its number.
    label: its own, as the file has it; "" where it has none.
    is_read: False for a file that is no readable image.
    """

    path: str
    label: str = ""
    is_read: bool = True


class Images(Protocol):
    """Iterating gives the images batch by batch, each with the pixels of those that could be read."""

    has_labels: bool

    def __len__(self) -> int:
        """How many images."""

    def __iter__(self) -> Iterator[tuple[list[Image], Batch]]: ...


class BetonImages:
    """The images of a beton, in its order.  Raises UserError for a file that cannot be read."""

    has_labels = True

    def __init__(self, path: Path | str, batch_size: int, options: LoaderOptions) -> None:
        self._open: Callable[[], Loader] = lambda: Loader(path, batch_size, options)
        with closing(self._open()) as loader:
            self._count = loader.num_samples

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[list[Image], Batch]]:
        with closing(self._open()) as loader:
            beton = loader.beton
            names = class_names(beton, beton.sidecar)
            for batch in loader:
                yield (
                    [
                        Image(beton.source_path(index) or str(index), _label(label, names))
                        for index, label in zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
                    ],
                    batch,
                )


def _label(label: float | list[float], names: Sequence[str]) -> str:
    if isinstance(label, list):
        return " ".join(f"{number:g}" for number in label)
    return names[label] if isinstance(label, int) and label < len(names) else f"{label:g}"


class FileImages:
    """The images below a folder, sorted by their paths in it, or one image file.

    A file that is no readable image is named on stderr, and is in no batch's pixels.
    Raises UserError where there is none.
    """

    has_labels = False

    def __init__(self, given: Path | str, batch_size: int, options: LoaderOptions) -> None:
        given = Path(given)
        if given.is_file():
            root, self._keys = given.parent, [given.name]
        else:
            root, self._keys = given, found_below(given)
        self._reader, self._batch_size, self._crop_options = (
            FileReader(root, str(root)),
            batch_size,
            options.crop_options,
        )

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[list[Image], Batch]]:
        keys, reading = iter(self._keys), list[tuple[str, Future[Sample]]]()
        with ThreadPoolExecutor(allowed_cores()) as pool, self._decoder() as decoder:

            def read(count: int) -> None:
                for key in islice(keys, count):
                    reading.append((key, pool.submit(encode_item, self._reader, key, PIXELS)))

            read(BATCHES_AHEAD * self._batch_size)
            while reading:
                part, reading[:] = reading[: self._batch_size], reading[self._batch_size :]
                read(self._batch_size)
                yield self._batch(part, decoder)

    def _decoder(self) -> Decoder:
        return Decoder(self._crop_options.size, cubic=self._crop_options.cubic)

    def _batch(
        self, part: Sequence[tuple[str, Future[Sample]]], decoder: Decoder
    ) -> tuple[list[Image], Batch]:
        images, samples = list[Image](), list[Sample]()
        for key, future in part:
            try:
                samples.append(future.result())
            except PackingError as error:
                print(escaped(f"error: {error}"), file=sys.stderr)
                images.append(Image(key, is_read=False))
            else:
                images.append(Image(key))
        return images, self._cropped(samples, decoder)

    def _cropped(self, samples: Sequence[Sample], decoder: Decoder) -> Batch:
        """What the loader would make of these images in an evaluation."""
        table, begin = np.zeros(len(samples), SAMPLE_DTYPE), 0
        for row, sample in zip(table, samples, strict=True):
            row["ptr"], row["size"], row["raw"] = begin, len(sample.payload), RAW
            row["width"], row["height"] = sample.width, sample.height
            begin += len(sample.payload)
        boxes, (height, width) = np.empty(len(samples), CROP_DTYPE), self._crop_options.size
        draw_crops(table, np.uint64(0), self._crop_options, boxes)
        pixels, statuses = (
            np.empty((len(samples), 3, height, width), np.uint8),
            np.zeros(len(samples), np.uint8),
        )
        file = np.frombuffer(b"".join(sample.payload for sample in samples), np.uint8)
        decoder.decode(file, table, boxes, pixels, statuses)
        if statuses.any():
            raise UserError(f"an image cannot be decoded: {MEANING[int(statuses[statuses != 0][0])]}")
        return Batch(torch.from_numpy(pixels), torch.zeros(len(samples), dtype=torch.int64))


def found_below(folder: Path) -> list[str]:
    """Paths of the image files below a folder, sorted; hidden files and folders are not looked at.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder, no image and no .beton: give the images that are to be judged"
        )
    suffixes, found = image_suffixes(), list[str]()
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                found.append(os.path.relpath(os.path.join(place, name), folder))
    if not found:
        raise UserError(f"{folder} contains no image; expected files ending in {', '.join(sorted(suffixes))}")
    return sorted(found)
