"""One thread's decoder: its libjpeg handle, and working memory that grows with the images it meets."""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Literal, NamedTuple

import numpy as np

from ..common.sizes import Size, sides
from ..kernel_cache import kernel
from . import turbojpeg
from .crop import CROP_DTYPE, CropOptions, draw_crops
from .kernel import decode_chunk
from .resample import Output
from .scratch import Scratch, make_scratch, most_taps, padded, plane_bytes
from .status import DECODER, NO_LIBRARY, TOO_LARGE
from .workspace import COUNT, ENABLED, PATHS, PENDING, shared_fields

START_PX = 512  # working memory fits this side at first
START_BYTES = 1 << 16  # and this payload
MAX_PIXELS = 1 << 28  # of one image; more is a lying header, or needs another tool


DecoderName = Literal["auto", "libjpeg"]


class DecodePaths(NamedTuple):
    """How many JPEGs each decoder has decoded.

    Attributes:
        own: our own decoder.
        unusual: libjpeg-turbo, since the JPEG is of a kind that ours does not know: progressive, several scans, 16-bit quantisers ...
        amiss: libjpeg-turbo, since ours found something amiss: a corrupt JPEG, or coefficients that no 8-bit image has.
    """

    own: int = 0
    unusual: int = 0
    amiss: int = 0

    def __add__(self, other: tuple[int, ...]) -> DecodePaths:  # type: ignore[override]
        return DecodePaths(*(mine + theirs for mine, theirs in zip(self, other)))


class Decoder:
    """Decodes crops of samples to images of one size. For one thread at a time; one that is dropped or closed frees its handle.

    Args:
        size: side of the decoded images, in pixels; or their (height, width).
        use: "auto" = our own decoder for baseline JPEGs, libjpeg-turbo for all others, which without it have the status NO_LIBRARY;
            "libjpeg" = libjpeg-turbo for all.
        cubic: whether crops are resized by Pillow's bicubic filter; else by its bilinear one.

    Attributes:
        scratch: the working memory, for kernels that are called with it; another one after it has grown.

    Raises:
        TurboJpegMissing: "libjpeg" where libturbojpeg is not installed.
        MemoryError: libjpeg-turbo has none for another handle.
    """

    scratch: Scratch

    def __init__(
        self,
        size: Size,
        use: DecoderName = "auto",
        cubic: bool = False,
    ) -> None:
        self._has_libjpeg = turbojpeg.load_if_there()
        if use == "libjpeg" and not self._has_libjpeg:
            turbojpeg.load()  # for its error
        self.height, self.width = sides(size)
        output = Output(self.height, self.width, int(cubic))
        handle = open_handle() if self._has_libjpeg else 0
        self._free = weakref.finalize(self, close_handle, handle) if handle else weakref.finalize(self, int)
        # At the interpreter's end a daemon thread may still be inside libjpeg; the system frees everything anyway.
        self._free.atexit = False
        self.scratch = make_scratch(handle, START_BYTES, START_PX, START_PX, output)
        shared_fields(self.scratch.workspace)[ENABLED] = use == "auto"

    def decode(
        self,
        file: np.ndarray,
        samples: np.ndarray,
        boxes: np.ndarray,
        images: np.ndarray,
        statuses: np.ndarray,
        progress: np.ndarray | None = None,
    ) -> np.ndarray:
        """Decode crops of samples, alone or together with other threads' decoders.

        It is one call into compiled code (one more whenever memory must grow), which takes sample after sample until none is
        left: however many threads work on a batch, each takes the interpreter's lock once.

        Args:
            file: (bytes,) uint8, the beton; read-only.
            samples: (n,) kernel.SAMPLE_DTYPE.
            boxes: (n,) crop.CROP_DTYPE inside their images; or (views, n), several of each sample, which is then decoded once.
            images: (n or more, 3, height, width) uint8, out; or (views, n or more, 3, height, width).
            statuses: (n,) uint8, out: what became of each sample, in all of its views.
            progress: (2,) int64, which all threads that work on these samples share: samples that were taken, and that
                are done. Zeros at first. None = this decoder works alone.

        Returns:
            The places of the samples that this call has decoded. (m,) int64

        Raises:
            ValueError: the arrays are not of the same samples and views.
        """
        if progress is None:
            progress = np.zeros(2, np.int64)
        if boxes.ndim == 1:
            boxes, images = boxes[None], images[None]
        if boxes.shape != (len(images), len(samples)) or min(images.shape[1], len(statuses)) < len(samples):
            raise ValueError(  # compiled code would write elsewhere
                f"boxes {boxes.shape}, images {images.shape} and statuses {statuses.shape} are not those of {len(samples)} samples"
            )
        shared = shared_fields(self.scratch.workspace)  # it stays when the scratch grows
        done = np.empty(len(samples), np.int64)
        shared[COUNT], shared[PENDING] = 0, -1  # an earlier call may have been interrupted while memory grew
        while True:
            pending = decode_chunk(file, samples, boxes, self.scratch, images, statuses, progress, done)
            if pending < 0:
                done = done[: shared[COUNT]]
                if not self._has_libjpeg:
                    found = statuses[done]
                    statuses[done] = np.where(found == DECODER, NO_LIBRARY, found)
                return done
            sample = samples[pending]
            if int(sample["width"]) * int(sample["height"]) > MAX_PIXELS:
                statuses[pending], shared[PENDING] = TOO_LARGE, -1
                done[shared[COUNT]] = pending
                shared[COUNT] += 1
                progress[1] += 1  # not atomic: it is for the watchdog only
            else:
                self._grow(*(int(sample[name]) for name in ("size", "width", "height")))

    def decode_one(
        self, file: np.ndarray, sample: np.ndarray, crop_options: CropOptions | None = None, epoch: int = 0
    ) -> tuple[np.ndarray, int]:
        """One sample's pixels, (3, height, width) uint8, and its status.

        Args:
            file: (bytes,) uint8, the beton; read-only.
            sample: (1,) kernel.SAMPLE_DTYPE.
            crop_options: of the crop that is drawn in ``epoch``; None = the whole image, squeezed into the size, so that
                every tile of it is decoded.
        """
        boxes = np.zeros(1, CROP_DTYPE)
        if crop_options is None:
            boxes["height"] = boxes["high_y"] = sample["height"]
            boxes["width"] = boxes["high_x"] = sample["width"]
        else:
            draw_crops(sample, np.uint64(epoch), crop_options, boxes)
        images, statuses = np.zeros((1, 3, self.height, self.width), np.uint8), np.zeros(1, np.uint8)
        self.decode(file, sample, boxes, images, statuses)
        return images[0], int(statuses[0])

    @property
    def paths(self) -> DecodePaths:
        """Which decoder the JPEGs so far took."""
        counts = shared_fields(self.scratch.workspace)[PATHS : PATHS + 3].tolist()
        return DecodePaths(*counts)

    def reserve(self, samples: np.ndarray) -> None:
        """Grow until these samples fit; ``decode`` would do so by itself."""
        width, height = (samples[side].astype(np.int64) for side in ("width", "height"))
        has = self.scratch
        if (
            samples["size"].max() + 16 > len(has.jpeg)
            or plane_bytes(width, height).max() > len(has.turned)
            or padded(height).max() + 64 > has.narrowed.shape[1]
            or most_taps(int(width.max()), int(height.max()), has.output) > has.weights.shape[2]
        ):
            for room in zip(samples["size"].tolist(), width.tolist(), height.tolist()):
                self._grow(*room)

    def _grow(self, payload_bytes: int, width: int, height: int) -> None:
        """Take memory that fits such an image and all that fitted before."""
        self.scratch = make_scratch(
            int(self.scratch.handle),
            payload_bytes,
            width,
            height,
            self.scratch.output,
            at_least=self.scratch,
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
        MemoryError: libjpeg-turbo has no memory for another one.
    """
    handle = int(init_handle())
    if handle == 0:
        raise MemoryError("libjpeg-turbo has no memory for another decompressor")
    return handle


@kernel
def close_handle(handle):
    """Free a decompressor."""
    return turbojpeg.destroy(handle)
