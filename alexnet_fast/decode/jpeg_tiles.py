"""A crop -> its tiles; and, for libjpeg-turbo, the small JPEG that holds them.

A restart interval begins on a byte and with fresh DC predictors (ITU-T T.81, F.1.1.5), so intervals that
line up in columns are independent tiles.  To decode a crop: the header with the tiles' rectangle
patched into SOF, the tiles that it touches with their markers renumbered from RST0, and EOI.  That is a
valid baseline JPEG, and cutting it takes 9 us of a 500 px photo's 333 (Zen 4), nearly all of them the first touch of its bytes.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from ..kernel_cache import kernel
from .jpeg_header import MAX_PX, TABLE_FIRST
from .simd import copy_bytes
from .status import BAD_TABLE, BAD_TILES, OK

U = np.uintp
I64 = np.int64  # a uint8 must become signed first: numba makes uint64 + int64 a float

JpegSlice = namedtuple("JpegSlice", ("status", "bytes", "ends_early", "top", "left", "height", "width"))
"""A small JPEG: its length (0 with status OK: the whole JPEG is to be decoded), whether entropy-coded data follows its last row,
and the rectangle of the image that it holds, in pixels."""

TileGrid = namedtuple(
    "TileGrid", ("status", "tiles", "columns", "mcus", "rows", "mcu_rows", "y0", "y1", "x0", "x1")
)
"""Tiles of an image: whether their ends were found, how many there are, how many to a row, MCUs across and down each, the image's rows of MCUs, and
the rows and columns of tiles that a crop touches."""


@kernel
def find_tile_ends(jpeg, header, tiles, wanted, ends):
    """Where tiles end, as offsets from the scan's start; from the table, else from the markers themselves.

    Args:
        tiles: tiles of the whole image.
        wanted: how many ends are needed, counted from the first tile.
        ends: (at least tiles,) int64, out.

    Returns:
        A status.  The ends are rising and inside the JPEG; that a marker is at each is for the
        caller to check, who reads that place anyway.
    """
    scan_bytes = len(jpeg) - header.scan
    if header.table:
        if header.table_tiles != tiles:
            return BAD_TABLE
        at, total = header.table, 0
        for k in range(tiles):
            total += I64(jpeg[at]) | (I64(jpeg[at + 1]) << 8)
            ends[k] = total
            at += 2
        return OK if total == scan_bytes else BAD_TABLE
    found = 0
    at = header.scan
    while found < wanted and at + 1 < len(jpeg):
        if jpeg[at] != 0xFF:
            at += 1
            continue
        marker = jpeg[at + 1]
        at += 1 if marker == 0xFF else 2  # a fill byte may come before a marker
        if 0xD0 <= marker <= 0xD7 or marker == 0xD9:
            ends[found] = at - header.scan
            found += 1
            if marker == 0xD9:
                break
    return OK if found == wanted else BAD_TILES


@kernel
def tile_shape(header):
    """A tile's MCUs and rows of MCUs, and how many tiles there are to a row: 0 where restart intervals make no grid."""
    mcu_width = 8 * header.across
    per_row = (header.width + mcu_width - 1) // mcu_width
    if header.interval and per_row % header.interval == 0:
        return header.interval, 1, per_row // header.interval
    if header.interval and header.interval % per_row == 0:
        return per_row, header.interval // per_row, 1
    return 0, 1, 0


@kernel
def has_grid(header, capacity):
    """Whether a JPEG's restart intervals are a grid of tiles, ``capacity`` at most."""
    mcu_height = 8 * header.down
    _, tile_rows, columns = tile_shape(header)
    rows = (header.height + mcu_height - 1) // mcu_height
    return 0 < (rows + tile_rows - 1) // tile_rows * columns <= capacity


@kernel
def find_tiles(jpeg, header, top, left, bottom, right, ends):
    """The tiles that hold the pixels [top, bottom) x [left, right) of a JPEG that ``has_grid``. -> TileGrid

    Args:
        ends: (capacity,) int64, out: see ``find_tile_ends``.
    """
    # In a scan of one component an MCU is 8 x 8 whatever its sampling factors.
    mcu_width, mcu_height = 8 * header.across, 8 * header.down
    rows = (header.height + mcu_height - 1) // mcu_height
    tile_mcus, tile_rows, columns = tile_shape(header)
    tiles = (rows + tile_rows - 1) // tile_rows * columns
    y0, y1 = (
        top // (tile_rows * mcu_height),
        (bottom + tile_rows * mcu_height - 1) // (tile_rows * mcu_height),
    )
    x0, x1 = left // (tile_mcus * mcu_width), (right + tile_mcus * mcu_width - 1) // (tile_mcus * mcu_width)
    status = find_tile_ends(jpeg, header, tiles, (y1 - 1) * columns + x1, ends)
    return TileGrid(status, tiles, columns, tile_mcus, tile_rows, rows, y0, y1, x0, x1)


@kernel
def no_slice(status):
    """The JpegSlice with the reason why nothing can be cut."""
    return JpegSlice(status, 0, False, 0, 0, 0, 0)


@kernel
def whole_jpeg(header):
    """The JpegSlice that means: decode the JPEG as it is."""
    return JpegSlice(OK, 0, False, 0, 0, header.height, header.width)


@kernel
def truncate_rows(jpeg, header, bottom, out):
    """Where there are no markers: all bytes under a height that ends with the MCU row of pixel ``bottom`` - 1. -> JpegSlice

    The decoder then stops at that row.  It warns of left-over bytes, which is not corruption: without restart
    intervals it looks for a marker after the last row only.
    """
    mcu_width, mcu_height = 8 * header.across, 8 * header.down
    width = min((header.width + mcu_width - 1) // mcu_width * mcu_width, MAX_PX)
    height = min((bottom + mcu_height - 1) // mcu_height * mcu_height, MAX_PX)
    copy_bytes(U(jpeg.ctypes.data), U(out.ctypes.data), U(len(jpeg)))
    write_size(out, header.sof, height, width)
    return JpegSlice(OK, len(jpeg), height < header.height, 0, 0, height, width)


@kernel
def write_size(jpeg, sof, height, width):
    """Write an image's size into the frame header at offset ``sof``."""
    jpeg[sof + 5], jpeg[sof + 6] = height >> 8, height & 0xFF
    jpeg[sof + 7], jpeg[sof + 8] = width >> 8, width & 0xFF


@kernel
def slice_jpeg(jpeg, header, top, left, bottom, right, out, ends):
    """Write the small JPEG that holds the pixels [top, bottom) x [left, right) of the image.

    Args:
        jpeg: (n,) uint8, one sample's payload.
        header: its JpegHeader, of status OK.
        top, left, bottom, right: the crop, in pixels, inside the image.
        out: (at least n + 2,) uint8, the small JPEG.
        ends: (capacity,) int64 scratch; a JPEG of more tiles is not cut.

    Returns:
        A JpegSlice.
    """
    mcu_width, mcu_height = 8 * header.across, 8 * header.down
    if not header.cuttable:
        return whole_jpeg(header)
    if header.interval == 0:
        return truncate_rows(jpeg, header, bottom, out)
    if not has_grid(header, len(ends)):
        return whole_jpeg(header)
    grid = find_tiles(jpeg, header, top, left, bottom, right, ends)
    if grid.status != OK:
        return no_slice(grid.status)
    tile_width, tile_height = grid.mcus * mcu_width, grid.rows * mcu_height
    y0, y1, x0, x1, columns, tiles = grid.y0, grid.y1, grid.x0, grid.x1, grid.columns, grid.tiles

    # Whole MCUs, beyond the image's edge too: libjpeg then writes the planes with no copy of its own.
    width = min((x1 - x0) * tile_width, MAX_PX)
    height = min((min(y1 * grid.rows, grid.mcu_rows) - y0 * grid.rows) * mcu_height, MAX_PX)
    out[0], out[1] = 0xFF, 0xD8
    begin = (
        header.table_end if header.table == TABLE_FIRST else 2
    )  # leave the table out, where it comes first
    size = 2 + header.scan - begin
    out[2:size] = jpeg[begin : header.scan]
    write_size(out, 2 + header.sof - begin, height, width)
    number = 0
    for y in range(y0, y1):
        first = y * columns + x0
        from_ = header.scan + (ends[first - 1] if first else 0)
        to = header.scan + ends[first + x1 - x0 - 1]
        if from_ + 2 > to or to > len(jpeg):
            return no_slice(BAD_TABLE)
        if first and (jpeg[from_ - 2] != 0xFF or jpeg[from_ - 1] != 0xD0 + ((first - 1) & 7)):
            return no_slice(BAD_TILES)
        copy_bytes(U(jpeg.ctypes.data) + U(from_), U(out.ctypes.data) + U(size), U(to - from_))
        for tile in range(first, first + x1 - x0):
            mark = header.scan + ends[tile] - 2
            last = 0xD9 if tile == tiles - 1 else 0xD0 + (tile & 7)
            if mark < from_ or jpeg[mark] != 0xFF or jpeg[mark + 1] != last:
                return no_slice(BAD_TILES)
            out[size + mark + 1 - from_] = 0xD0 + (number & 7)
            number += 1
        size += to - from_
    out[size - 1] = 0xD9
    return JpegSlice(OK, size, False, y0 * tile_height, x0 * tile_width, height, width)
