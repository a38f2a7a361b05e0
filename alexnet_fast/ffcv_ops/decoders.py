"""Our decoder inside FFCV's Loader: the same two operations, by name and arguments, so that a line of import is all.

    from alexnet_fast.ffcv_ops import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder

They read betons packed by ``python -m alexnet_fast.pack``, of which they decode only the tiles that a crop touches, and
those that FFCV wrote.  What changes beside the speed:

- Crops are a function of (seed, epoch, sample): not of threads, batches or ranks.  Where FFCV's ``indices`` repeat a
  sample, each copy has a crop and a flip of its own, as in the package's own loader.
- Pixels are antialiased as Pillow's and torchvision's bilinear filter makes them.
- A sample that cannot be decoded raises ``BrokenSample``, naming it, where the batch would have come.  FFCV drops its
  decoder's return code and delivers stale pixels; an exception in its thread would leave the consumer waiting for ever.
- A file that is written over in place or cut short while it is read is an error, as with the package's own loader.
- No memory for decoded images but one a thread; FFCV takes the largest image's for each sample of each batch ahead.

**How.** FFCV compiles every decoder anew at every start and calls it in its EpochIterator, a thread.  So what FFCV
compiles here is a loop that looks up where the batch's payloads lie, and one call back into Python, which runs the
kernels of the package's own loader from their cache on disk.  The GIL is held for some microseconds a chunk.
"""

from __future__ import annotations

import copy
import ctypes
import operator
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..beton.format import HEADER, RAW
from ..beton.mapped import Witness
from ..beton.reader import Beton, BetonError
from ..common.arguments import crop_ratio, crop_scale, number, pair, probability, seed_of
from ..common.settled import Setting, Settled
from ..decode import turbojpeg
from ..decode.counter_rng import occurrences
from ..decode.crop import CROP_DTYPE, CropOptions, draw_crops
from ..decode.decoder import MAX_PIXELS
from ..decode.kernel import SAMPLE_DTYPE
from ..decode.status import MEANING, TOO_LARGE, BrokenSample
from ..errors import UserError
from .decode_pool import DecodePool


class FfcvMissing(UserError, ImportError):
    """ffcv is not installed, or does not load."""


try:
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.pipeline.allocation_query import AllocationQuery
except (ImportError, OSError) as error:  # OSError: a shared library that it needs
    raise FfcvMissing(
        f"alexnet_fast.ffcv_ops works inside FFCV's Loader, and ffcv cannot be imported ({error}); 'pip install ffcv==1.0.2' "
        "after 'apt-get install libopencv-dev libturbojpeg0-dev pkg-config' (Debian, Ubuntu)"
    ) from None

__all__ = ["CenterCropRGBImageDecoder", "FfcvMissing", "RandomResizedCropRGBImageDecoder"]

MAX_PX = 4096  # of a side of the output
COLUMNS = ("ptr", "size", "width", "height", "raw", "index")  # of the table that FFCV's jitted code fills


def _sides(name: str, given: object) -> tuple[int, int]:
    expected = f"(height, width) of 1 to {MAX_PX} pixels"
    height, width = pair(
        name, given, expected, lambda *both: all(side % 1 == 0 and 1 <= side <= MAX_PX for side in both)
    )
    return int(height), int(width)


def _share(name: str, given: object) -> float:
    return number(name, given, "0 < ratio <= 1", lambda ratio: 0 < ratio <= 1)


def _as_it_is(name: str, given: object) -> object:
    return given


class CropDecoder(Settled, SimpleRGBImageDecoder):  # type: ignore[misc]  # FFCV knows a decoder by this base
    """What the two decoders share: a crop of each image as interleaved RGB of one size.

    Attributes:
        output_size: (height, width) in pixels.  A new one counts from the next epoch on, as with FFCV's operations.

    Raises:
        UserError: an argument out of range or of a wrong type, where it is given or set later; an attribute that nobody reads.
        TurboJpegMissing: libturbojpeg is not installed.
    """

    output_size = Setting(_sides)
    # What FFCV sets.
    field, metadata, memory_read = Setting(_as_it_is), Setting(_as_it_is), Setting(_as_it_is)

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        turbojpeg.load()
        self.output_size = output_size
        self._begin()

    def _begin(self) -> None:
        """Make what belongs to this process and this object alone."""
        self._settled = True
        self._epochs: weakref.WeakKeyDictionary[EpochIterator, Epoch] = weakref.WeakKeyDictionary()
        self._team = DecodePool()
        # Weakly: what compiled code calls is never freed, and would keep this operation's threads and scratch.
        called: Any = weakref.WeakMethod(self._called)
        self._call = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 8)(lambda *arguments: called()(*arguments))

    def __getstate__(self) -> dict[str, Any]:
        """The settings, for a process or a copy that has threads of its own; FFCV sets the rest when it opens a Loader."""
        theirs = ("field", "metadata", "memory_read")
        return {name: given for name, given in vars(self).items() if name[0] != "_" and name not in theirs}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        turbojpeg.load()
        super().__init__()
        self.__dict__.update(settings)
        self._begin()

    def boxes(self, samples: np.ndarray, epoch: int) -> np.ndarray:
        """The crops of samples, whose height and width are their images'. (n,) decode.SAMPLE -> (n,) crop.BOX"""
        raise NotImplementedError

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, tuple[AllocationQuery, ...]]:
        """FFCV asks at construction and before each epoch: the output's shape, and the memory for each sample."""
        shape, pixel = (*self.output_size, 3), np.dtype("u1")
        return (
            replace(previous_state, jit_mode=True, shape=shape, dtype=pixel),
            (AllocationQuery(shape, pixel), AllocationQuery((len(COLUMNS),), np.dtype("<i8"))),
        )

    def generate_code(self) -> Callable[..., Any]:
        """What FFCV compiles."""
        memory_read, call = self.memory_read, self._call

        def decode(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, table = my_storage
            store = storage_state[0]  # the mapped file, or FFCV's own cache of its pages
            count = len(batch_indices)
            for k in range(count):
                index = batch_indices[k]
                field = metadata[index]
                payload = memory_read(field["data_ptr"], storage_state)
                table[k, 0] = np.int64(payload.ctypes.data) - np.int64(store.ctypes.data)
                table[k, 1] = payload.size
                table[k, 2] = field["width"]
                table[k, 3] = field["height"]
                table[k, 4] = field["mode"]
                table[k, 5] = index
            done = call(
                store.ctypes.data,
                store.size,
                table.ctypes.data,
                destination.ctypes.data,
                count,
                destination.shape[1],
                destination.shape[2],
            )
            if not done:
                raise StopIteration  # ends FFCV's thread without noise; the consumer has been told why
            return destination[:count]

        return decode

    def _called(
        self, store_at: int, store_bytes: int, table_at: int, out_at: int, count: int, height: int, width: int
    ) -> int:
        """The jitted code's call, in FFCV's thread. -> 1 when ``out`` is filled, 0 when the consumer was told why not"""
        try:
            iterator: Any = threading.current_thread()
            if (epoch := self._epochs.get(iterator)) is None:
                epoch = self._epochs[iterator] = Epoch(iterator)
            # Read-only, as the package's own loader maps its file: the same types mean the same compiled code.
            store = np.asarray(Memory(store_at, (store_bytes,), "|u1", readonly=True))
            table = np.asarray(Memory(table_at, (count, len(COLUMNS)), "<i8"))
            out = np.asarray(Memory(out_at, (count, height, width, 3), "|u1"))
            samples = np.empty(count, SAMPLE_DTYPE)
            for column, name in zip(table.T, COLUMNS):
                samples[name] = column
            samples["occurrence"] = epoch.occurrences(samples["index"])
            with _reading(iterator):
                check_samples(samples, iterator.loader.fname)
                boxes = self.boxes(samples, epoch.number)
                statuses = self._team.decode(store, samples, boxes, out, iterator.loader.num_workers)
            if len(broken := np.flatnonzero(statuses)):
                status, index = int(statuses[broken[0]]), int(samples["index"][broken[0]])
                raise broken_sample(iterator.loader.fname, index, MEANING[status])
            return 1
        except BaseException as error:  # whatever it is, the consumer must hear of it
            send_error(error)
            return 0


class Epoch:
    """One of FFCV's epochs.

    Attributes:
        number: FFCV's own count.
    """

    def __init__(self, iterator: Any) -> None:
        loader = iterator.loader
        self.number = loader.next_epoch - 1
        self._batches, self._batch_size = iterator.iter_ixes, loader.batch_size
        self._count = operator.length_hint(self._batches) + 1  # of its batches: the first was taken
        self._order = np.asarray(iterator.order)
        copies = occurrences(loader.indices)
        self._copies = self._in_order(copies, loader.traversal_order.sampler) if copies.any() else None

    def _in_order(self, copies: np.ndarray, sampler: Any) -> np.ndarray:
        """Which copy of its sample each place of the order holds, (n,) int32."""
        if sampler is None:  # the order has all places of ``indices``
            return occurrences(self._order)
        # It has one rank's, which FFCV's sampler gives as places in ``indices``: no two ranks have the same copy.
        sampler = copy.copy(sampler)
        sampler.set_epoch(self.number)
        return copies[np.array(list(sampler))[: len(self._order)]]

    def occurrences(self, indices: np.ndarray) -> np.ndarray | int:
        """Which copies of their samples the batch in hand holds, whose ``indices`` are known."""
        if self._copies is None:
            return 0
        begin = (self._count - operator.length_hint(self._batches) - 1) * self._batch_size
        part = slice(begin, begin + len(indices))
        assert np.array_equal(self._order[part], indices), "FFCV's batch is not where its order has it"
        return self._copies[part]


class RandomResizedCropRGBImageDecoder(CropDecoder):
    """A random crop, resized: FFCV's operation of this name.

    Crops are drawn as torchvision's RandomResizedCrop draws them, from (seed, epoch, sample index), and are those of
    ``alexnet_fast.Loader`` with the same seed.  The epoch is FFCV's own count, ``Loader.next_epoch``, from which it
    draws its order too: set that to go on where a run stopped.

    Args:
        output_size: (height, width) in pixels.
        scale: (least, most) share of the image's area.
        ratio: (least, most) width / height.
        seed: of the crops and flips.  None draws one from numpy's global generator, as FFCV's Loader does for its order;
            then runs differ, as they do with FFCV's operation, unless ``numpy.random.seed`` was called.
        flip: probability of a mirrored image, in place of FFCV's RandomHorizontalFlip: seeded, and without its pass over
            all pixels, which takes as long as half of our decoding.

    Attributes:
        scale, ratio, seed, flip: as given, the seed also where it was drawn.  A new one counts from the next batch that is
            decoded on: set them between epochs.
    """

    scale, ratio, seed, flip = (
        Setting(crop_scale),
        Setting(crop_ratio),
        Setting(seed_of),
        Setting(probability),
    )

    def __init__(
        self,
        output_size: tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
        *,
        seed: int | None = None,
        flip: float = 0.0,
    ) -> None:
        super().__init__(output_size)
        self.scale, self.ratio, self.flip = scale, ratio, flip
        self.seed = np.random.randint(0, np.iinfo(np.int32).max) if seed is None else seed  # noqa: NPY002

    def boxes(self, samples: np.ndarray, epoch: int) -> np.ndarray:
        cropping = CropOptions(True, 0, 0, np.uint64(self.seed), self.scale, self.ratio, self.flip)
        boxes = np.empty(len(samples), CROP_DTYPE)
        draw_crops(samples, np.uint64(epoch), cropping, boxes)
        return boxes


class CenterCropRGBImageDecoder(CropDecoder):
    """The middle of an image, resized: FFCV's operation of this name.

    The crop is FFCV's: a square of ``int(ratio * shorter side)`` pixels.  Its filter sees nothing beyond the crop, where
    ``alexnet_fast.Loader``, as torchvision's Resize + CenterCrop, looks a pixel or two over its edge.

    Args:
        output_size: (height, width) in pixels.
        ratio: the crop's side over the image's shorter side; a new one counts from the next batch that is decoded on.
    """

    ratio = Setting(_share)

    def __init__(self, output_size: tuple[int, int], ratio: float) -> None:
        super().__init__(output_size)
        self.ratio = ratio

    def boxes(self, samples: np.ndarray, epoch: int) -> np.ndarray:
        boxes = np.zeros(len(samples), CROP_DTYPE)
        height, width = samples["height"], samples["width"]
        side = np.maximum((self.ratio * np.minimum(height, width)).astype(np.int64), 1)
        boxes["height"] = boxes["width"] = side
        boxes["top"] = boxes["low_y"] = (height - side) // 2
        boxes["left"] = boxes["low_x"] = (width - side) // 2
        boxes["high_y"], boxes["high_x"] = boxes["low_y"] + side, boxes["low_x"] + side
        return boxes


class Failure:
    """Goes to the consumer in place of a batch: FFCV's iterator takes it apart as a pair, and that raises.

    FFCV has no word for an error in its thread: the thread would die, and the consumer wait for ever.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        raise self._error


@contextmanager
def _reading(iterator: Any) -> Iterator[None]:
    """A block that decodes a batch of an EpochIterator; BetonError where its file is not what it was at its Loader's first batch."""
    loader, store = iterator.loader, iterator.storage_state[0]
    with _witnesses_lock:
        if (witness := _witnesses.get(loader)) is None:
            witness = _witnesses[loader] = _witness(loader, store)
    with witness.unchanged:
        yield
    if witness.lost_its_name and not isinstance(store, np.memmap):
        raise BetonError(
            f"{loader.fname} was replaced or deleted while FFCV read it without os_cache: it opens the file by its name for every "
            "epoch, and keeps the old one's metadata; make a new Loader"
        )


def _witness(loader: Any, store: np.ndarray) -> Witness:
    """FFCV read the metadata when the Loader was made, and opened the file again for its pixels: it has to be the same one."""
    try:
        witness = Witness(Path(loader.fname))
    except (OSError, ValueError) as error:
        raise BetonError(f"cannot read {loader.fname}: {error}; make a new Loader") from error
    reader = loader.reader
    with witness.unchanged:
        at = HEADER.itemsize + reader.field_descriptors.nbytes
        found = np.fromfile(loader.fname, np.uint8, reader.metadata.nbytes, offset=at)
    if found.tobytes() != reader.metadata.tobytes():
        raise BetonError(
            f"{loader.fname} was changed since FFCV read its metadata, or another file has its name; make a new Loader"
        )
    if isinstance(store, np.memmap):
        witness.watch(store, store.ctypes.data, store.size)
    return witness


_witnesses: weakref.WeakKeyDictionary[Any, Witness] = weakref.WeakKeyDictionary()
_witnesses_lock = threading.Lock()


def send_error(error: BaseException) -> None:
    """Let the consumer of the EpochIterator whose thread this is raise ``error``, behind the batches that are ready."""
    iterator: Any = threading.current_thread()
    assert isinstance(iterator, EpochIterator), iterator
    while not iterator.terminate_event.is_set():
        try:
            iterator.output_queue.put(Failure(error), timeout=0.5)
            return
        except queue.Full:
            continue


def check_samples(samples: np.ndarray, path: str) -> None:
    """Raise for the first sample whose metadata cannot be true, or asks for too much; what remains the kernels may trust."""
    pixels = samples["width"].astype(np.int64) * samples["height"]
    mode = samples["raw"]
    lies = (pixels == 0) | (mode > RAW) | ((mode == RAW) & (samples["size"] != 3 * pixels))
    if len(found := np.flatnonzero(lies | (pixels > MAX_PIXELS))):
        width, height, size = (int(samples[name][found[0]]) for name in ("width", "height", "size"))
        why = (
            f"the file's metadata gives it mode {mode[found[0]]} and {width} x {height} pixels, and its payload {size} bytes"
            if lies[found[0]]
            else MEANING[TOO_LARGE]
        )
        raise broken_sample(path, int(samples["index"][found[0]]), why)


def broken_sample(path: str, index: int, why: str) -> BrokenSample:
    """The error for a sample, with its source file where the packer's sidecar tells it."""
    try:
        with Beton(path) as beton:
            name = beton.source(index)
    except BetonError:  # FFCV reads files of other fields than the package's own loader
        name = f"sample {index} of {path}"
    return BrokenSample(f"{name} cannot be decoded: {why}; pack it again or leave it out")


class Memory:
    """Memory that somebody else keeps, as numpy takes it: ``np.asarray(Memory(...))`` copies nothing."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str, readonly: bool = False) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, readonly),
            "shape": shape,
            "typestr": typestr,
        }
