"""A chunk of samples on one thread: the boxes drawn, a scratch that grows with what it meets, and the kernels loaded before."""

from __future__ import annotations

import numpy as np

from ..kernel_cache import kernel
from ..loader.preload import WarmUp
from ..loader.read_ahead import PAGE, WILLNEED, advise_willneed
from ..loader.sampler import epoch_permutation
from . import turbojpeg
from .crop import CROP_DTYPE, CropOptions, draw_crops
from .kernel import SAMPLE_DTYPE, Scratch, decode_chunk, make_scratch

CHUNK = 32  # samples a call: about 14 ms at 500 px, which hides the call and the lock
START_PX = 512  # a thread's scratch fits this side at first, and grows with its images
START_BYTES = 1 << 16  # and this payload
MAX_PIXELS = 1 << 28  # of one image; more is a lying header, or needs another tool


def decode(
    file: np.ndarray,
    samples: np.ndarray,
    epoch: int,
    cropping: CropOptions,
    handle: int,
    scratch: Scratch,
    images: np.ndarray,
    statuses: np.ndarray,
) -> Scratch:
    """Draw the crops of a chunk of samples and decode them; returns the scratch, grown where they needed a larger one.

    Args:
        file: (bytes,) uint8, the beton; read-only.
        samples: (n,) decode.SAMPLE.
        images: (n, 3, size, size) uint8, out.
        statuses: (n,) uint8, out.
    """
    boxes = np.empty(len(samples), CROP_DTYPE)
    draw_crops(samples, np.uint64(epoch), cropping, boxes)
    at = 0
    while True:
        size = cropping.size
        at += decode_chunk(file, samples[at:], boxes[at:], size, scratch, images[at:], statuses[at:])
        if at == len(samples):
            return scratch
        sample = samples[at]
        if int(sample["width"]) * int(sample["height"]) > MAX_PIXELS:
            at += 1  # its status TOO_LARGE stays and tells the consumer
        else:
            scratch = grown(scratch, sample, handle, size)


def first_scratch(handle: int, size: int) -> Scratch:
    """What a thread begins with."""
    return make_scratch(handle, START_BYTES, START_PX, START_PX, size)


def grown(scratch: Scratch, sample: np.void, handle: int, size: int) -> Scratch:
    """A scratch that fits ``sample`` and all that the old one fits."""
    payload_bytes, width, height = (int(sample[name]) for name in ("size", "width", "height"))
    return make_scratch(handle, payload_bytes, width, height, size, at_least=scratch)


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


def load_kernels() -> None:
    """Load whatever a decoding thread will call, or compile it, once on a machine: the threads' own way with no sample at all.

    A build of an image, say, that calls this leaves the machine code in the package, for processors of the same kind.

    Raises:
        TurboJpegMissing: libturbojpeg is not installed.
    """
    turbojpeg.load()
    nothing = np.frombuffer(b"", np.uint8)  # read-only, as a map of a file is
    cropping = CropOptions(True, 1, 1, np.uint64(0), (1.0, 1.0), (1.0, 1.0), 0.0)
    epoch_permutation(0, seed=0, epoch=0)
    advise_willneed(nothing, np.empty(0, SAMPLE_DTYPE), PAGE, WILLNEED)
    handle = open_handle()
    try:
        images, statuses = np.empty((0, 3, 1, 1), np.uint8), np.empty(0, np.uint8)
        decode(
            nothing,
            np.empty(0, SAMPLE_DTYPE),
            0,
            cropping,
            handle,
            first_scratch(handle, 1),
            images,
            statuses,
        )
    finally:
        close_handle(handle)


kernels = WarmUp(load_kernels, "load-kernels")
