"""One thread's decoder: its libjpeg handle, and working memory that grows with the images it meets."""

from __future__ import annotations

import weakref
from types import TracebackType

import numpy as np

from ..kernel_cache import kernel
from . import turbojpeg
from .crop import CROP_DTYPE, CropOptions, draw_crops
from .kernel import Scratch, decode_chunk, make_scratch, padded, plane_bytes
from .resample import max_taps

CHUNK = 32  # samples a call: about 14 ms at 500 px, which hides the call and the lock
START_PX = 512  # working memory fits this side at first
START_BYTES = 1 << 16  # and this payload
MAX_PIXELS = 1 << 28  # of one image; more is a lying header, or needs another tool


class Decoder:
    """Decodes samples to squares of one size. For one thread at a time; one that is dropped or closed frees its handle.

    Args:
        size: side of the decoded images, in pixels.

    Attributes:
        scratch: the working memory, for kernels that are called with it; another one after it has grown.

    Raises:
        TurboJpegMissing: libturbojpeg is not installed.
        MemoryError: libjpeg-turbo has none for another handle.
    """

    scratch: Scratch

    def __init__(self, size: int) -> None:
        turbojpeg.load()
        self.size = size
        handle = open_handle()
        self._free = weakref.finalize(self, close_handle, handle)
        # At the interpreter's end a daemon thread may still be inside libjpeg; the system frees everything anyway.
        self._free.atexit = False
        self.scratch = make_scratch(handle, START_BYTES, START_PX, START_PX, size)

    def decode_batch(
        self,
        file: np.ndarray,
        samples: np.ndarray,
        epoch: int,
        crop_options: CropOptions,
        images: np.ndarray,
        statuses: np.ndarray,
    ) -> None:
        """Draw the crops of a batch of samples, and decode them.

        Args:
            file: (bytes,) uint8, the beton; read-only.
            samples: (n,) kernel.SAMPLE_DTYPE.
            crop_options: for ``size`` pixels.
            images: (n, 3, size, size) uint8, out.
            statuses: (n,) uint8, out: what became of each sample.
        """
        boxes = np.empty(len(samples), CROP_DTYPE)
        draw_crops(samples, np.uint64(epoch), crop_options, boxes)
        self.decode(file, samples, boxes, images, statuses)

    def decode(
        self,
        file: np.ndarray,
        samples: np.ndarray,
        boxes: np.ndarray,
        images: np.ndarray,
        statuses: np.ndarray,
    ) -> None:
        """Decode these crops: as ``decode_batch``, with ``boxes`` (n,) crop.CROP_DTYPE inside their images."""
        at = 0
        while True:
            at += decode_chunk(
                file, samples[at:], boxes[at:], self.size, self.scratch, images[at:], statuses[at:]
            )
            if at == len(samples):
                return
            sample = samples[at]
            if int(sample["width"]) * int(sample["height"]) > MAX_PIXELS:
                at += 1  # its status TOO_LARGE stays and tells the consumer
            else:
                self._grow(*(int(sample[name]) for name in ("size", "width", "height")))

    def decode_one(
        self, file: np.ndarray, sample: np.ndarray, crop_options: CropOptions | None = None, epoch: int = 0
    ) -> tuple[np.ndarray, int]:
        """One sample's pixels, (3, size, size) uint8, and its status.

        Args:
            file: (bytes,) uint8, the beton; read-only.
            sample: (1,) kernel.SAMPLE_DTYPE.
            crop_options: of the crop that is drawn in ``epoch``; None = the whole image, squeezed into a square, so that
                every tile of it is decoded.
        """
        boxes = np.zeros(1, CROP_DTYPE)
        if crop_options is None:
            boxes["height"] = boxes["high_y"] = sample["height"]
            boxes["width"] = boxes["high_x"] = sample["width"]
        else:
            draw_crops(sample, np.uint64(epoch), crop_options, boxes)
        images, statuses = np.zeros((1, 3, self.size, self.size), np.uint8), np.zeros(1, np.uint8)
        self.decode(file, sample, boxes, images, statuses)
        return images[0], int(statuses[0])

    def reserve(self, samples: np.ndarray, stretch: float = 1.0) -> None:
        """Grow until samples fit whose images are ``stretch`` times as large as they are, or boxes as much beyond them.

        ``decode`` grows by itself, but only for boxes inside their images.
        """
        width, height = (np.ceil(samples[side] * stretch).astype(np.int64) for side in ("width", "height"))
        has = self.scratch
        if (
            samples["size"].max() + 16 > len(has.jpeg)
            or plane_bytes(width, height).max() > len(has.turned)
            or padded(height).max() + 64 > has.narrowed.shape[1]
            or max_taps(int(max(width.max(), height.max())), self.size) > has.weights.shape[2]
        ):
            for room in zip(samples["size"].tolist(), width.tolist(), height.tolist()):
                self._grow(*room)

    def _grow(self, payload_bytes: int, width: int, height: int) -> None:
        """Take memory that fits such an image and all that fitted before."""
        self.scratch = make_scratch(
            int(self.scratch.handle), payload_bytes, width, height, self.size, at_least=self.scratch
        )

    def close(self) -> None:
        """Free the handle and the memory; the decoder cannot be used after that."""
        vars(self).pop("scratch", None)  # so that a use is an AttributeError, and no pointer to what is freed
        self._free()

    def __enter__(self) -> Decoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@kernel
def init_handle():
    return turbojpeg.init_decompress()


def open_handle() -> int:
    """A libjpeg-turbo decompressor; one for each thread.

    Raises:
        MemoryError: there is none to be had.
    """
    handle = int(init_handle())
    if handle == 0:
        raise MemoryError("libjpeg-turbo has no memory for another decompressor")
    return handle


@kernel
def close_handle(handle):
    """Free a decompressor."""
    return turbojpeg.destroy(handle)
