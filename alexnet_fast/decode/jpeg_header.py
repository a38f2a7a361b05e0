"""What a JPEG's segments say before its pixels are touched: its kind and size, its tiles, and that it has all of its tables."""

from __future__ import annotations

from collections import namedtuple

import numpy as np

from ..beton.format import TILE_MAGIC, TILE_MARKER
from ..kernel_cache import kernel
from .status import NO_TABLE, NOT_JPEG, OK, TOO_SMALL, UNSUPPORTED, WRONG_SIZE

MAGIC = np.frombuffer(TILE_MAGIC, np.uint8)
ADOBE = np.frombuffer(b"Adobe", np.uint8)
JFIF = np.frombuffer(b"JFIF\x00", np.uint8)
RGB_IDS = np.frombuffer(b"RGB", np.uint8)
TABLE_FIRST = 2 + 4 + len(MAGIC)
"""Where a tile table's entries begin when its segment is the first."""
MAX_PX = 65_500  # libjpeg refuses a longer side
MAX_SCANNED = 1 << 33
"""Pixels times scans: seconds. A scan may say of 32,767 blocks in two bytes that they stay as they are."""
MAX_PX_A_BYTE = 512
"""A block of luma, 64 pixels, takes a bit at the very least: any Huffman code does."""
I64 = np.int64  # a uint8 must become signed first: numba makes uint64 + int64 a float

JpegHeader = namedtuple(
    "JpegHeader",
    (
        "status",
        "width",  # pixels
        "height",
        "components",  # 1 or 3
        "across",  # luma samples for each chroma sample, horizontally: 1, 2 or 4
        "down",  # and vertically: 1 or 2
        "interval",  # MCUs between restart markers, 0 = none
        "cuttable",  # one sequential Huffman scan of all components
        "sof",  # offset of the frame header's marker
        "scan",  # offset of the first entropy-coded byte
        "table",  # offset of the tile table's first entry, 0 = none
        "table_tiles",  # its entries
        "table_end",  # offset of the end of its segment
    ),
)

Tables = namedtuple("Tables", ("quantisation", "dc", "ac"))
"""Which of the four tables of each kind a JPEG has defined: bit k for table k."""

NO_TABLES = Tables(0, 0, 0)


@kernel
def matches(data, at, wanted):
    """Whether ``data`` holds the bytes ``wanted`` at offset ``at``."""
    if at + len(wanted) > len(data):
        return False
    for k in range(len(wanted)):
        if data[at + k] != wanted[k]:
            return False
    return True


@kernel
def big_endian(data, at):
    """The 16-bit number at an offset, as int64."""
    return (I64(data[at]) << 8) | I64(data[at + 1])


@kernel
def has_length(marker):
    """Whether a segment follows a marker: not TEM or RSTm. A parser that jumped there would not see what libjpeg sees."""
    return marker != 0x01 and not 0xD0 <= marker <= 0xD7


@kernel
def read_header(jpeg):
    """Parse a JPEG's segments up to its first scan. (n,) uint8 -> JpegHeader.

    Whatever the planes' memory is laid out by must be what libjpeg finds too, so a JPEG in which it would look for
    markers in other places than we do is no JPEG here.
    """
    status, width, height, components, across, down = NOT_JPEG, 0, 0, 0, 1, 1
    interval, cuttable, sof, scan, table, table_tiles, table_end = 0, False, 0, 0, 0, 0, 0
    jfif, adobe, adobe_rgb, rgb_ids = False, False, False, False
    tables = NO_TABLES
    n = len(jpeg)
    at = 2
    if n < 4 or jpeg[0] != 0xFF or jpeg[1] != 0xD8:
        at = n
    while at + 4 <= n and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if not has_length(marker):
            at += 2
            continue
        length = big_endian(jpeg, at + 2)
        end = at + 2 + length
        if length < 2 or end > n or marker < 0xC0 or marker == 0xD8 or marker == 0xD9:
            break
        if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            if length < 11 or sof:
                break
            sof = at
            height = big_endian(jpeg, at + 5)
            width = big_endian(jpeg, at + 7)
            components = I64(jpeg[at + 9])
            huffman_8_bit = marker <= 0xC2 and jpeg[at + 4] == 8
            if not huffman_8_bit or (components != 1 and components != 3) or length < 8 + 3 * components:
                status = UNSUPPORTED
                break
            cuttable = marker <= 0xC1
            if components == 3:
                across, down = I64(jpeg[at + 11]) >> 4, I64(jpeg[at + 11]) & 15
                rgb_ids = (
                    jpeg[at + 10] == RGB_IDS[0]
                    and jpeg[at + 13] == RGB_IDS[1]
                    and jpeg[at + 16] == RGB_IDS[2]
                )
                chroma = I64(jpeg[at + 14])
                if chroma != I64(jpeg[at + 17]):
                    status = UNSUPPORTED
                    break
                if chroma == I64(jpeg[at + 11]):  # equal factors, however large, mean 4:4:4
                    cuttable = cuttable and chroma == 0x11
                    across, down = 1, 1
                elif (
                    chroma != 0x11
                    or across * down == 0
                    or across > 4
                    or down > 2
                    or across == 3
                    or across * down == 8
                ):
                    status = UNSUPPORTED
                    break
            else:
                # With one component an MCU is one block whatever its factors say (T.81, A.2.2).
                across, down = 1, 1
        elif marker == 0xDB or marker == 0xC4:
            tables = with_tables(jpeg, at, tables)
        elif marker == 0xDD and length >= 4:
            interval = big_endian(jpeg, at + 4)
        elif marker == TILE_MARKER and matches(jpeg, at + 4, MAGIC):
            table = at + 4 + len(MAGIC)
            table_tiles = (end - table) // 2
            table_end = end
        elif marker == 0xEE and length >= 14 and matches(jpeg, at + 4, ADOBE):
            adobe, adobe_rgb = True, jpeg[at + 15] == 0  # the transform byte: 0 = no YCbCr
        elif marker == 0xE0 and length >= 16 and matches(jpeg, at + 4, JFIF):
            jfif = True
        elif marker == 0xDA:
            if (
                components == 3 and not jfif and (adobe_rgb if adobe else rgb_ids)
            ):  # as libjpeg recognises stored RGB
                status = UNSUPPORTED
            elif width > MAX_PX or height > MAX_PX:
                status = UNSUPPORTED
            elif sof and width and height:
                scan = end
                status = OK if scan_has_tables(jpeg, at, sof, tables) else NO_TABLE
                if status == OK:
                    cuttable = cuttable and I64(jpeg[at + 4]) == components
                    if not cuttable:
                        status = later_scans(jpeg, scan, sof, tables, width * height)
            break
        at = end
    return JpegHeader(
        status,
        width,
        height,
        components,
        across,
        down,
        interval,
        cuttable,
        sof,
        scan,
        table,
        table_tiles,
        table_end,
    )


@kernel
def with_tables(jpeg, at, tables):
    """``tables`` and those that the DQT or DHT segment at offset ``at``, which is inside the JPEG, defines."""
    quantisation, dc, ac = tables
    end = at + 2 + big_endian(jpeg, at + 2)
    marker = jpeg[at + 1]
    at += 4
    while at < end:
        kind, number = I64(jpeg[at]) >> 4, I64(jpeg[at]) & 3
        at += 1
        if marker == 0xDB:
            quantisation |= 1 << number
            at += 128 if kind else 64
        else:
            if kind == 0:
                dc |= 1 << number
            else:
                ac |= 1 << number
            symbols = 0
            for k in range(at, min(at + 16, end)):
                symbols += I64(jpeg[k])
            at += 16 + symbols
    return Tables(quantisation, dc, ac)


@kernel
def scan_has_tables(jpeg, at, sof, tables):
    """Whether the scan whose SOS marker is at offset ``at`` finds its tables defined.

    A decoder keeps its tables from one JPEG to the next, and would take those of another image.
    """
    end = at + 2 + big_endian(jpeg, at + 2)
    if end < at + 5:
        return False
    listed, components = I64(jpeg[at + 4]), I64(jpeg[sof + 9])
    if at + 5 + 2 * listed + 3 > end:
        return False
    progressive = jpeg[sof + 1] == 0xC2
    first, refines = jpeg[end - 3], jpeg[end - 1] >> 4
    for k in range(listed):
        identity, numbers = jpeg[at + 5 + 2 * k], I64(jpeg[at + 6 + 2 * k])
        for component in range(components):
            if jpeg[sof + 10 + 3 * component] == identity:
                number = I64(jpeg[sof + 12 + 3 * component]) & 3
                if not tables.quantisation >> number & 1:
                    return False
        if (not progressive or (first == 0 and not refines)) and not tables.dc >> (numbers >> 4 & 3) & 1:
            return False
        if (not progressive or first != 0) and not tables.ac >> (numbers & 3) & 1:
            return False
    return True


@kernel
def later_scans(jpeg, at, sof, tables, pixels):
    """Check all scans after the first, whose entropy-coded data starts at offset ``at``, in the same way; and that they are not too many.

    -> OK, NO_TABLE or UNSUPPORTED
    """
    scans = 1
    while at + 4 <= len(jpeg):
        marker = jpeg[at + 1]
        if jpeg[at] != 0xFF or marker == 0 or marker == 0xFF or not has_length(marker):
            at += 1
            continue
        if marker == 0xD9:
            break
        end = at + 2 + big_endian(jpeg, at + 2)
        if end < at + 4 or end > len(jpeg):
            break
        if marker == 0xDB or marker == 0xC4:
            tables = with_tables(jpeg, at, tables)
        elif marker == 0xDA:
            scans += 1
            if not scan_has_tables(jpeg, at, sof, tables):
                return NO_TABLE
            if scans * pixels > MAX_SCANNED:
                return UNSUPPORTED
        at = end
    return OK


@kernel
def agrees(header, width, height, payload_bytes):
    """Whether a JPEG is as large as the file's metadata says, and can be: OK, WRONG_SIZE or TOO_SMALL."""
    if header.width != width or header.height != height:
        return WRONG_SIZE
    return TOO_SMALL if is_too_small(payload_bytes, width, height) else OK


@kernel
def is_too_small(payload_bytes, width, height):
    """Whether so few bytes cannot be a JPEG of this size."""
    return width * height > MAX_PX_A_BYTE * payload_bytes
