"""The fused kernel: for each sample of a chunk tiles, planes, pixels and a status, without the GIL."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from ..beton.format import RAW
from ..beton.reader import Beton
from ..kernel_cache import kernel
from .jpeg_header import is_too_small
from .planes import ALIGN, GREY, YCBCR, CropAxis, decode_jpeg_planes, raw_planes
from .resample import max_taps, resize_horizontally, support, triangle_taps, ycbcr_row
from .simd import VECTOR_PIXELS, copy_bytes, filter_rows
from .status import OK, TOO_LARGE

U8, U64, I32, I64 = np.uint8, np.uint64, np.int32, np.int64

SAMPLE_DTYPE = np.dtype(
    [
        ("ptr", "<i8"),
        ("size", "<i8"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("raw", "<i4"),
        ("index", "<i4"),
        ("occurrence", "<i4"),
    ],
    align=True,
)
"""What a kernel must know of one sample: where its payload lies in the file, its size in pixels, and which copy of it this is."""

Scratch = namedtuple(
    "Scratch",
    (
        "handle",
        "jpeg",
        "ends",
        "planes",
        "pointers",
        "strides",
        "turned",
        "filtered",
        "narrowed",
        "first",
        "count",
        "weights",
        "spans",
    ),
)
"""One thread's working memory."""

TAP_TABLES = 4  # horizontal: luma, chroma; vertical: luma, chroma
MAX_TILES = 1 << 16


def sample_table(beton: Beton) -> np.ndarray:
    """What the kernels need of every sample. (N,) decode.SAMPLE.

    Raises:
        BetonError: the file was changed since it was opened, and with it the metadata that was checked then.
    """
    samples = np.empty(beton.num_samples, SAMPLE_DTYPE)
    with beton.unchanged:
        samples["ptr"] = beton.images["data_ptr"]
        samples["size"] = beton.sizes
        samples["width"] = beton.images["width"]
        samples["height"] = beton.images["height"]
        samples["raw"] = beton.images["mode"]
        samples["index"] = np.arange(beton.num_samples)
        samples["occurrence"] = 0
    return samples


def padded(n: Any) -> Any:
    """``n``, a number or an array, rounded up to whole vectors."""
    return -(-n // VECTOR_PIXELS) * VECTOR_PIXELS


def plane_bytes(width: Any, height: Any) -> Any:
    """The room that a scratch needs for a plane of an image; numbers or arrays."""
    # A sliced or decoded rectangle is a whole number of MCUs (32 pixels at most) larger than its image;
    # the transpose reads up to one square beyond a plane's last row and column.
    return (padded(width) + 64) * (padded(height) + 64 + VECTOR_PIXELS) + ALIGN


def make_scratch(
    handle: int, payload_bytes: int, width: int, height: int, size: int, *, at_least: Scratch | None = None
) -> Scratch:
    """Working memory for one thread that decodes images of up to ``width`` x ``height`` to ``size`` pixels.

    About 4 bytes a pixel of the largest image, and 4 a pixel of its height times ``size``.

    Args:
        at_least: another for the same ``size``; whatever fits that will fit the new one.  So a wide image and a high one
            take the memory of the larger of the two, not of an image that is as wide as the one and as high as the other.
    """
    plane, high = plane_bytes(width, height), padded(height) + 64
    taps = max_taps(max(width, height), size)
    if at_least is not None:
        payload_bytes = max(payload_bytes, len(at_least.jpeg) - 16)
        plane, high = max(plane, len(at_least.turned)), max(high, at_least.narrowed.shape[1])
        taps = max(taps, at_least.weights.shape[2])
    return Scratch(
        handle=np.uint64(handle),
        jpeg=np.empty(payload_bytes + 16, U8),
        ends=np.empty(MAX_TILES, I64),
        planes=np.empty(3 * plane, U8),
        pointers=np.empty(3, U64),
        strides=np.empty(3, I32),
        turned=np.empty(plane, U8),
        filtered=np.empty(padded(size) * high, U8),
        narrowed=np.empty((3, high, padded(size)), U8),
        first=np.empty((TAP_TABLES, size), I32),
        count=np.empty((TAP_TABLES, size), I32),
        spans=np.empty((TAP_TABLES, 2), I64),
        weights=np.empty((TAP_TABLES, size, taps), np.uint16),
    )


@kernel
def fits(scratch, width, height):
    """Whether an image of this size can be decoded in this scratch."""
    high = (height + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS + 64
    wide = (width + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS + 64
    side = max(width, height)
    size = scratch.first.shape[1]
    return (
        wide * (high + VECTOR_PIXELS) + ALIGN <= len(scratch.turned)
        and high <= scratch.narrowed.shape[1]
        and 2 * max(1, (side + size - 1) // size) + 2 <= scratch.weights.shape[2]
    )


@kernel
def make_taps(axis, origin, factor, size, mirrored, table, scratch):
    """Fill tap table ``table`` for planes that begin at pixel ``origin``; returns the samples [a, b) that it reads."""
    start, length = (axis.start - origin) / factor, axis.length / factor
    # Not below the plane's first sample: counted from here, rounding may reach one further than in `reach` (with weight 0).
    low, high = max((axis.low - origin) // factor, 0), (axis.high - origin + factor - 1) // factor
    triangle_taps(
        start,
        length,
        size,
        low,
        high,
        mirrored,
        scratch.first[table],
        scratch.count[table],
        scratch.weights[table],
    )
    return support(start, length, size, low, high)


@kernel
def resample_to_rgb(planes, y, x, size, mirrored, scratch, out):
    """Resample planes to ``size`` x ``size`` and write them as RGB. out: (3, size, size) uint8.

    The horizontal pass goes through memory, the vertical one row by row straight into the colours.
    Each filter has one place in the source where it is called: LLVM inlines it, and every further
    copy would cost seconds of compiling.
    """
    for chroma in range(2):
        across, down = (planes.across, planes.down) if chroma else (1, 1)
        columns = make_taps(x, planes.left, across, size, mirrored, chroma, scratch)
        rows = make_taps(y, planes.top, down, size, False, 2 + chroma, scratch)
        scratch.spans[chroma, 0], scratch.spans[chroma, 1] = columns
        scratch.spans[2 + chroma, 0], scratch.spans[2 + chroma, 1] = rows

    channels = 1 if planes.colour == GREY else 3
    sources = (planes.luma, planes.blue, planes.red)
    for channel in range(channels):
        table = min(channel, 1)
        columns, rows = scratch.spans[table], scratch.spans[2 + table]
        taps = (scratch.first[table], scratch.count[table], scratch.weights[table])
        source = sources[channel][rows[0] :]
        resize_horizontally(
            source,
            rows[1] - rows[0],
            columns,
            taps,
            size,
            scratch.turned,
            scratch.filtered,
            scratch.narrowed[channel],
        )

    width = (size + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS
    rows_of = scratch.turned[: 3 * width].reshape(3, width)
    # Addresses, as in `resize_horizontally`.
    target, step = U64(rows_of.ctypes.data), U64(width)
    tables = U64(scratch.weights.ctypes.data)
    stride = U64(scratch.narrowed.strides[1])
    at = U64(out.ctypes.data)
    plane = U64(size * size)
    for row in range(size):
        for channel in range(channels):
            table = 2 + min(channel, 1)
            first = scratch.first[table, row] - scratch.spans[table, 0]
            filter_rows(
                U64(scratch.narrowed.ctypes.data)
                + U64(channel * scratch.narrowed.strides[0])
                + U64(first) * stride,
                stride,
                tables + U64(table * scratch.weights.strides[0] + row * scratch.weights.strides[1]),
                U64(scratch.count[table, row]),
                target + U64(channel) * step,
                step,
            )
        if planes.colour == YCBCR:
            ycbcr_row(rows_of, size, at, at + plane, at + plane + plane)
        else:
            for channel in range(3):
                source = target + U64(min(channel, channels - 1)) * step
                copy_bytes(source, at + U64(channel) * plane, U64(size))
        at += U64(size)


@kernel
def decode_chunk(file, samples, boxes, size, scratch, out, statuses):
    """Decode the crops of a chunk of samples.

    Args:
        file: (bytes,) uint8, the beton.
        samples: (n,) SAMPLE.
        boxes: (n,) crop.BOX, inside their images.
        size: side of the output, in pixels.
        scratch: this thread's Scratch.
        out: (n, 3, size, size) uint8, RGB.
        statuses: (n,) uint8, out.

    Returns:
        How many were done: n, or the place of the first that the scratch is too small for.
    """
    for q in range(len(samples)):
        s, box = samples[q], boxes[q]
        width, height = I64(s.width), I64(s.height)
        # Memory is taken for what the file can hold, not for what it says: such a sample fails before it needs any.
        fails = s.raw != RAW and is_too_small(s.size, width, height)
        if not fails and (not fits(scratch, width, height) or s.size + 2 > len(scratch.jpeg)):
            statuses[q] = TOO_LARGE
            return q
        y = CropAxis(box.top, box.height, box.low_y, box.high_y)
        x = CropAxis(box.left, box.width, box.low_x, box.high_x)
        payload = file[s.ptr : s.ptr + s.size]
        if s.raw == RAW:
            planes = raw_planes(payload, width, y, x, size, scratch)
        else:
            planes = decode_jpeg_planes(payload, width, height, y, x, size, scratch)
        if planes.status == OK:
            resample_to_rgb(planes, y, x, size, box.mirrored, scratch, out[q])
        statuses[q] = planes.status
    return len(samples)
