"""A chunk of samples on one thread: the boxes drawn, and a scratch that grows with what it meets."""

from __future__ import annotations

import numpy as np

from ..kernel_cache import kernel
from . import turbojpeg
from .crop import CROP_DTYPE, CropOptions, draw_crops
from .kernel import Scratch, decode_chunk, make_scratch

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
