"""One thread's working memory, for images up to a size and crops that become one size."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from ..kernel_cache import kernel
from .entropy import STREAMS
from .planes import ALIGN
from .resample import Output, max_taps
from .simd import VECTOR_PIXELS
from .workspace import make_workspace

U8, U64, I32, I64 = np.uint8, np.uint64, np.int32, np.int64

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
        "workspace",
        "output",
    ),
)
"""One thread's working memory."""

TAP_TABLES = 4  # horizontal: luma, chroma; vertical: luma, chroma
MAX_TILES = 1 << 16
MAX_STREAM_BYTES = 8 << 20
"""Planes of such a sample; a larger one is decoded alone. The memory is touched by files that have such samples only."""


def padded(n: Any) -> Any:
    """``n``, a number or an array, rounded up to whole vectors."""
    return -(-n // VECTOR_PIXELS) * VECTOR_PIXELS


def plane_bytes(width: Any, height: Any) -> Any:
    """The room that a scratch needs for a plane of an image; numbers or arrays."""
    # A sliced or decoded rectangle is a whole number of MCUs (32 pixels at most) larger than its image;
    # the transpose reads up to one square beyond a plane's last row and column.
    return (padded(width) + 64) * (padded(height) + 64 + VECTOR_PIXELS) + ALIGN


def make_scratch(
    handle: int,
    payload_bytes: int,
    width: int,
    height: int,
    output: Output,
    *,
    at_least: Scratch | None = None,
) -> Scratch:
    """Working memory for one thread that decodes crops of images of up to ``width`` x ``height``.

    About 4 bytes a pixel of the largest image, and 4 a pixel of its height times the output's width.

    Args:
        at_least: another for the same ``output``; whatever fits that will fit the new one.  So a wide image and a high one
            take the memory of the larger of the two, not of an image that is as wide as the one and as high as the other.
    """
    plane, high = plane_bytes(width, height), padded(height) + 64
    taps = most_taps(width, height, output)
    longest = max(output.height, output.width)
    if at_least is not None:
        payload_bytes = max(payload_bytes, len(at_least.jpeg) - 16)
        plane, high = max(plane, len(at_least.turned)), max(high, at_least.narrowed.shape[1])
        taps = max(taps, at_least.weights.shape[2])
    return Scratch(
        handle=np.uint64(handle),
        jpeg=np.empty(payload_bytes + 16, U8),
        ends=np.empty(MAX_TILES, I64),
        planes=np.empty(3 * plane + STREAMS * min(3 * plane, MAX_STREAM_BYTES), U8),
        pointers=np.empty(3, U64),
        strides=np.empty(3, I32),
        turned=np.empty(plane, U8),
        filtered=np.empty(padded(output.width) * high, U8),
        narrowed=np.empty((3, high, padded(output.width)), U8),
        first=np.empty((TAP_TABLES, longest), I32),
        count=np.empty((TAP_TABLES, longest), I32),
        spans=np.empty((TAP_TABLES, 2), I64),
        weights=np.empty((TAP_TABLES, longest, taps), np.uint16),
        workspace=make_workspace() if at_least is None else at_least.workspace,
        output=output,
    )


def most_taps(width: int, height: int, output: Output) -> int:
    """The most taps one output pixel can have of an image's crops."""
    across = max_taps(width, output.width, output.cubic)
    return max(across, max_taps(height, output.height, output.cubic))


@kernel
def fits(scratch, width, height):
    """Whether an image of this size can be decoded in this scratch."""
    high = (height + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS + 64
    wide = (width + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS + 64
    output = scratch.output
    # max_taps, in the kernel's words.
    across = (width + output.width - 1) // output.width
    down = (height + output.height - 1) // output.height
    taps = (4 if output.cubic else 2) * max(1, across, down) + 2
    return (
        wide * (high + VECTOR_PIXELS) + ALIGN <= len(scratch.turned)
        and high <= scratch.narrowed.shape[1]
        and taps <= scratch.weights.shape[2]
    )
