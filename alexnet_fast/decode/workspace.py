"""The memory of our own JPEG decoder: one block for each thread, about 0.3 MiB, known by its address.

It begins with a row of int64 fields for each of the streams that are decoded in turn, and a row of what they share.  Kernels are given
addresses, not arrays: numba counts an array's references with an atomic instruction whenever a kernel hands it on, which took 15 % of the
decoding, and compiles seven arguments for each array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .entropy import SCRIPT_STRIDE, STREAMS, TO_MAGNITUDES, UNIT_BLOCKS, UNIT_BYTES
from .huffman import MAX_DEFINITION, TABLE_WORDS
from .idct import GROUP_BYTES, LANES
from .memory import STEP

BUFFER_BYTES = 32 << 10
"""Of a stream's bytes without stuffing, those that are decoded next; UNIT_BYTES more lie after them."""
LUMA_GROUPS, CHROMA_GROUPS = 3, 2
"""Groups of 16 blocks that a stream fills in turn: the part of one, and a unit's blocks (at most 32 of luma, 16 of chroma)."""
KEPT_TABLES = 24
"""Huffman tables that are kept from sample to sample: 18 may be in use."""

# Fields of a stream, after those of `entropy`.
END, SOURCE, SOURCE_END, LIMIT = range(4, 8)
"""Bit address of the end of the bytes in the buffer; addresses of the next byte with stuffing, of the stream's end, and of the end of what can be read."""
X, Y, LEFT, RIGHT, BOTTOM = range(8, 13)
"""The next unit's first MCU, and the MCUs that the stream holds, counted in the image."""
DC, DC_SEEN, LUMA, CHROMA, LIVE = 13, 16, 19, 21, 23
"""Three components' DC coefficients, and the bitwise or of the magnitudes so far; of luma's and of chroma's groups the blocks that wait, and the first one's group; whether it has a next unit."""
ENDS, INTERVAL, TO_RESTART, RESTARTS, MCUS, UNIT_END = range(24, 30)
"""What must follow the last bit (NOTHING, A_TILE, AN_IMAGE); MCUs between restart markers (0: none), until the next one, markers so far;
MCUs of the unit; address of the line after its script's last."""
assert 8 * (DC_SEEN - DC) == TO_MAGNITUDES
# Its picture: where its blocks' pixels go, and its tables.
COMPONENTS, ACROSS, DOWN = range(30, 33)
PLANE, STRIDE = 33, 36
"""Addresses of three planes' pixel (0, 0), which may lie before them, and bytes from row to row of luma and of chroma."""
LUMA_BLOCKS, CHROMA_BLOCKS = 38, 42
"""First and end of the blocks that the crop touches, across and down."""
TABLES = 46
"""Addresses of each component's DC and AC table."""
LAYOUT = 52
"""Of its planes: first row and column in the image, rows and stride of luma and of chroma, offsets of blue and of red."""
# Its memory, which stays.
SCRIPT_AT, BUFFER_AT, GROUPS_AT, TARGETS_AT, UNUSED_AT, QUANTISERS_AT = range(60, 66)
SHARED_AT = 66
"""Address of the fields that all streams share."""
FIELDS = 72
STREAM_BYTES = 8 * FIELDS
NOTHING, A_TILE, AN_IMAGE = range(3)

# Shared fields.
TABLES_AT, DEFINITIONS_AT, KINDS_AT, PLACES_AT, NEXT_TABLE = range(5)
ENABLED, PATHS = 6, 7
"""Whether JPEGs are decoded by our own decoder where it can; how many took each of the ways OWN, UNUSUAL and AMISS."""
OWN, UNUSUAL, AMISS = range(3)
"""Our own decoder; libjpeg-turbo, since the JPEG is of an unusual kind, or since ours found something amiss."""
RUNNING, HELD, PENDING, EXHAUSTED, COUNT, OWNERS = range(10, 16)
"""Of a chunk: streams that decode a sample of one stream now; a sample that waits until they are done, and one for which memory must grow
first (-1: none); whether there is none left to take; samples that are done; which sample each stream decodes (-1: none)."""

DEFINITION_BYTES = -(-MAX_DEFINITION // 8) * 8
_OF_STREAM = {
    SCRIPT_AT: (UNIT_BLOCKS + 1) * SCRIPT_STRIDE,
    BUFFER_AT: BUFFER_BYTES + UNIT_BYTES + 2 * STEP,
    GROUPS_AT: (LUMA_GROUPS + CHROMA_GROUPS) * GROUP_BYTES,
    TARGETS_AT: (LUMA_GROUPS + CHROMA_GROUPS) * LANES * 8,
    UNUSED_AT: UNIT_BLOCKS // LANES * GROUP_BYTES,
    QUANTISERS_AT: 2 * 64 * 2,
}
_SHARED = {
    TABLES_AT: KEPT_TABLES * TABLE_WORDS * 4,
    DEFINITIONS_AT: KEPT_TABLES * DEFINITION_BYTES,
    KINDS_AT: KEPT_TABLES * 8,
    PLACES_AT: 12 * 8,
}
ALIGNMENT = 64


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def make_workspace(allocate: Callable[[int], Any] | None = None) -> np.ndarray:
    """A thread's memory. (bytes,) uint8; its first byte's address is the streams'.

    Args:
        allocate: takes each part's memory apart from the others' (for tests, which put forbidden pages between them), given its bytes; returns
            its address, and keeps it. None = all of it in one block.
    """
    parts = [STREAMS * STREAM_BYTES + STREAM_BYTES]
    parts += [size for size in _OF_STREAM.values() for _ in range(STREAMS)] + [*_SHARED.values()]
    whole = np.zeros((sum(map(_rounded, parts)) if allocate is None else parts[0]) + ALIGNMENT, np.uint8)
    workspace = whole[-whole.ctypes.data % ALIGNMENT :]
    fields = workspace[: parts[0]].view(np.int64).reshape(STREAMS + 1, FIELDS)
    following = workspace.ctypes.data + _rounded(parts[0])

    def take(size: int) -> int:
        nonlocal following
        if allocate is not None:
            return int(allocate(size))
        address, following = following, following + _rounded(size)
        return address

    for field, size in _OF_STREAM.items():
        for stream in range(STREAMS):
            fields[stream, field] = take(size)
    for field, size in _SHARED.items():
        fields[STREAMS, field] = take(size)
    fields[:STREAMS, SHARED_AT] = fields[STREAMS:].ctypes.data
    fields[STREAMS, ENABLED] = 1
    fields[STREAMS, [HELD, PENDING, *range(OWNERS, OWNERS + STREAMS)]] = -1
    return workspace


def shared_fields(workspace: np.ndarray) -> np.ndarray:
    """The fields that a workspace's streams share. (FIELDS,) int64, a view"""
    fields: np.ndarray = workspace[STREAMS * STREAM_BYTES : (STREAMS + 1) * STREAM_BYTES].view(np.int64)
    return fields
