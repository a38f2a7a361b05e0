"""Our decoder inside FFCV's Loader: the same two operations by name and arguments, so that only an import changes.

    from alexnet_fast.ffcv_ops import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder

They read betons packed by ``python -m alexnet_fast.pack``, of which they decode only the tiles that a crop touches, and
those that FFCV wrote.  What changes, besides the speed:

- Crops depend only on (seed, epoch, sample), not on threads, batches or ranks.  If FFCV's ``indices`` repeat a
  sample, each copy has its own crop and flip, as in the package's own loader.
- Pixels are antialiased, as by Pillow's and torchvision's bilinear filter.
- A sample that cannot be decoded raises ``BrokenSample``, which names it, in place of its batch.  FFCV ignores its
  decoder's return code and delivers stale pixels; an exception in its thread would leave the consumer waiting for ever.
- A file that is written over in place or truncated while it is read is an error, as with the package's own loader.
- Memory for decoded images is one image a thread; FFCV allocates the largest image's for each sample of each batch ahead.

**How.** FFCV compiles every decoder again at every start and calls it in its EpochIterator, a thread.  So what FFCV
compiles here is a loop that looks up the batch's payloads, and one call back into Python, which runs the
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
except (ImportError, OSError) as error:  # OSError: a missing shared library
    raise FfcvMissing(
        f"alexnet_fast.ffcv_ops works inside FFCV's Loader, and ffcv cannot be imported ({error}); 'pip install ffcv==1.0.2' "
        "after 'apt-get install libopencv-dev libturbojpeg0-dev pkg-config' (Debian, Ubuntu)"
    ) from None

__all__ = ["CenterCropRGBImageDecoder", "FfcvMissing", "RandomResizedCropRGBImageDecoder"]

MAX_PX = 4096  # maximum side of the output
COLUMNS = ("ptr", "size", "width", "height", "raw", "index")  # of the table that FFCV's jitted code fills


def _sides(name: str, given: object) -> tuple[int, int]:
    expected = f"(height, width) of 1 to {MAX_PX} pixels"
    height, width = pair(
        name, given, expected, lambda *both: all(side % 1 == 0 and 1 <= side <= MAX_PX for side in both)
    )
    return int(height), int(width)


def _share(name: str, given: object) -> float:
    return number(name, given, "0 < ratio <= 1", lambda ratio: 0 < ratio <= 1)


def _unchecked(name: str, given: object) -> object:
    return given


class CropDecoder(Settled, SimpleRGBImageDecoder):  # type: ignore[misc]  # FFCV recognises a decoder by this base
    """What the two decoders share: a crop of each image as interleaved RGB of one size.

    Attributes:
        output_size: (height, width) in pixels.  A new value applies from the next epoch on, as with FFCV's operations.

    Raises:
        UserError: an argument, given or set later, is out of range or of a wrong type; or an attribute that nothing reads is set.
        TurboJpegMissing: libturbojpeg is not installed.
    """

    output_size = Setting(_sides)
    # FFCV sets these.
    field, metadata, memory_read = Setting(_unchecked), Setting(_unchecked), Setting(_unchecked)

    def __init__(self, output_size: tuple[int, int]) -> None:
        super().__init__()
        turbojpeg.load()
        self.output_size = output_size
        self._set_up()

    def _set_up(self) -> None:
        """Create what belongs to this process and this object only."""
        self._settled = True
        self._epochs: weakref.WeakKeyDictionary[EpochIterator, Epoch] = weakref.WeakKeyDictionary()
        self._pool = DecodePool()
        # A weak reference: a callback of compiled code is never freed, and would keep this operation's threads and buffers.
        called: Any = weakref.WeakMethod(self._called)
        self._call = ctypes.CFUNCTYPE(*[ctypes.c_uint64] * 8)(lambda *arguments: called()(*arguments))

    def __getstate__(self) -> dict[str, Any]:
        """The settings, for a pickle or copy, which gets its own threads; FFCV sets the rest when it opens a Loader."""
        theirs = ("field", "metadata", "memory_read")
        return {name: given for name, given in vars(self).items() if name[0] != "_" and name not in theirs}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        turbojpeg.load()
        super().__init__()
        self.__dict__.update(settings)
        self._set_up()

    def boxes(self, samples: np.ndarray, epoch: int) -> np.ndarray:
        """The crops of samples with their images' height and width. (n,) kernel.SAMPLE_DTYPE -> (n,) crop.CROP_DTYPE"""
        raise NotImplementedError

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, tuple[AllocationQuery, ...]]:
        """FFCV calls this at construction and before each epoch: returns the output's shape, and the memory for each sample."""
        shape, pixel = (*self.output_size, 3), np.dtype("u1")
        return (
            replace(previous_state, jit_mode=True, shape=shape, dtype=pixel),
            (AllocationQuery(shape, pixel), AllocationQuery((len(COLUMNS),), np.dtype("<i8"))),
        )

    def generate_code(self) -> Callable[..., Any]:
        """Returns the function that FFCV compiles."""
        memory_read, call = self.memory_read, self._call

        def decode(batch_indices, my_storage, metadata, storage_state):  # type: ignore[no-untyped-def]
            destination, table = my_storage
            store = storage_state[0]  # the mapped file, or FFCV's cache of its pages
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
                raise StopIteration  # ends FFCV's thread silently; the consumer has received the error
            return destination[:count]

        return decode

    def _called(
        self, store_at: int, store_bytes: int, table_at: int, out_at: int, count: int, height: int, width: int
    ) -> int:
        """The compiled code calls this in FFCV's thread. Returns 1 if ``out`` is filled, 0 if an error was sent to the consumer."""
        try:
            iterator: Any = threading.current_thread()
            if (epoch := self._epochs.get(iterator)) is None:
                epoch = self._epochs[iterator] = Epoch(iterator)
            # Read-only, like the map of the package's own loader: with the same types, the same compiled code is used.
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
                statuses = self._pool.decode(store, samples, boxes, out, iterator.loader.num_workers)
            if len(broken := np.flatnonzero(statuses)):
                status, index = int(statuses[broken[0]]), int(samples["index"][broken[0]])
                raise broken_sample(iterator.loader.fname, index, MEANING[status])
            return 1
        except BaseException as error:  # every error must reach the consumer
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
        self._count = (
            operator.length_hint(self._batches) + 1
        )  # batches of the epoch; the first was taken already
        self._order = np.asarray(iterator.order)
        copies = occurrences(loader.indices)
        self._copies = self._in_order(copies, loader.traversal_order.sampler) if copies.any() else None

    def _in_order(self, copies: np.ndarray, sampler: Any) -> np.ndarray:
        """For each position of the order, which copy of its sample it is, (n,) int32."""
        if sampler is None:  # the order has all positions of ``indices``
            return occurrences(self._order)
        # The order has one rank's samples, and FFCV's sampler gives their positions in ``indices``: no two ranks have the same copy.
        sampler = copy.copy(sampler)
        sampler.set_epoch(self.number)
        return copies[np.array(list(sampler))[: len(self._order)]]

    def occurrences(self, indices: np.ndarray) -> np.ndarray | int:
        """For each sample of the current batch, which copy it is; ``indices`` are the batch's."""
        if self._copies is None:
            return 0
        start = (self._count - operator.length_hint(self._batches) - 1) * self._batch_size
        part = slice(start, start + len(indices))
        assert np.array_equal(self._order[part], indices), "FFCV's batch does not match its order"
        return self._copies[part]


class RandomResizedCropRGBImageDecoder(CropDecoder):
    """A random crop, resized: FFCV's operation of this name.

    Crops are distributed as in torchvision's RandomResizedCrop, drawn from (seed, epoch, sample index), and equal those of
    ``alexnet_fast.Loader`` with the same seed.  The epoch is FFCV's own count, ``Loader.next_epoch``, from which it
    draws its order too: set that to resume a run.

    Args:
        output_size: (height, width) in pixels.
        scale: (minimum, maximum) share of the image's area.
        ratio: (minimum, maximum) width / height.
        seed: of the crops and flips.  None draws one from numpy's global generator, as FFCV's Loader does for its order;
            then runs differ, as they do with FFCV's operation, unless ``numpy.random.seed`` was called.
        flip: probability of a mirrored image, in place of FFCV's RandomHorizontalFlip: seeded, and without its pass over
            all pixels, which takes as long as half of our decoding.

    Attributes:
        scale, ratio, seed, flip: as given, or the seed that was drawn.  A new value applies from the next decoded batch on: set
            them between epochs.
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

    The crop is FFCV's: a square of ``int(ratio * shorter side)`` pixels.  Its filter uses only pixels of the crop, while
    ``alexnet_fast.Loader``, like torchvision's Resize + CenterCrop, uses a pixel or two beyond its edge.

    Args:
        output_size: (height, width) in pixels.
        ratio: the crop's side / the image's shorter side; a new value applies from the next decoded batch on.
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
    """Sent to the consumer in place of a batch: FFCV's iterator unpacks it as a pair, which raises the error.

    FFCV has no other way to report an error of its thread: the thread would die, and the consumer would wait for ever.
    """

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        raise self._error


@contextmanager
def _reading(iterator: Any) -> Iterator[None]:
    """Around code that decodes a batch of an EpochIterator; raises BetonError if its file has changed since its Loader's first batch."""
    loader, store = iterator.loader, iterator.storage_state[0]
    with _witnesses_lock:
        if (witness := _witnesses.get(loader)) is None:
            witness = _witnesses[loader] = _witness(loader, store)
    with witness.unchanged:
        yield
    if witness.lost_its_name and not isinstance(store, np.memmap):
        raise BetonError(
            f"{loader.fname} was replaced or deleted while FFCV read it without os_cache: FFCV opens the file by its name for every "
            "epoch, and keeps the old file's metadata; make a new Loader"
        )


def _witness(loader: Any, store: np.ndarray) -> Witness:
    """A Witness of a Loader's file.  Checks that it still has the metadata that FFCV read when the Loader was made, since FFCV opens the
    file again for the pixels.
    """
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
    """In an EpochIterator's thread: make its consumer raise ``error``, after the batches that are ready."""
    iterator: Any = threading.current_thread()
    assert isinstance(iterator, EpochIterator), iterator
    while not iterator.terminate_event.is_set():
        try:
            iterator.output_queue.put(Failure(error), timeout=0.5)
            return
        except queue.Full:
            continue


def check_samples(samples: np.ndarray, path: str) -> None:
    """Raise BrokenSample for the first sample whose metadata is impossible or asks for too much; the kernels rely on this check."""
    pixels = samples["width"].astype(np.int64) * samples["height"]
    mode = samples["raw"]
    impossible = (pixels == 0) | (mode > RAW) | ((mode == RAW) & (samples["size"] != 3 * pixels))
    if len(found := np.flatnonzero(impossible | (pixels > MAX_PIXELS))):
        width, height, size = (int(samples[name][found[0]]) for name in ("width", "height", "size"))
        why = (
            f"the file's metadata gives it mode {mode[found[0]]} and {width} x {height} pixels, and its payload {size} bytes"
            if impossible[found[0]]
            else MEANING[TOO_LARGE]
        )
        raise broken_sample(path, int(samples["index"][found[0]]), why)


def broken_sample(path: str, index: int, why: str) -> BrokenSample:
    """The error for a sample, with its source file if the packer's sidecar names it."""
    try:
        with Beton(path) as beton:
            name = beton.source(index)
    except BetonError:  # FFCV also reads files with fields that the package's own loader does not
        name = f"sample {index} of {path}"
    return BrokenSample(f"{name} cannot be decoded: {why}; pack it again or skip it")


class Memory:
    """Memory that another object owns, for numpy: ``np.asarray(Memory(...))`` copies nothing."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str, readonly: bool = False) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, readonly),
            "shape": shape,
            "typestr": typestr,
        }
