"""Baseline JPEGs -> planes, by entropy decoding and an inverse DCT of our own; all that is unusual is for libjpeg-turbo.

Every sample that is decoded here has libjpeg-turbo's pixels to the bit.  One in which anything is amiss, whatever it
is, is left to libjpeg-turbo, which decides: so nothing is accepted here that it refuses (tests/stress/fuzz_decoder.py compares the two).
"""

from __future__ import annotations

import numpy as np

from ..kernel_cache import kernel
from .entropy import STREAMS, run_stream, run_streams
from .huffman import MAX_AC_BITS, TABLE_WORDS, build_table
from .idct import GROUP_BYTES, MAX_COEFFICIENT
from .jpeg_header import ADOBE, JFIF, big_endian, has_length, matches
from .memory import get, load8, load16, put, store8, store16
from .simd import VECTOR_PIXELS
from .units import COMPLETE, FAILED, GOES_ON, advance, begin_picture, begin_stream, begin_unit, flush
from .workspace import (
    A_TILE,
    ACROSS,
    AN_IMAGE,
    CHROMA,
    CHROMA_BLOCKS,
    CHROMA_GROUPS,
    COMPONENTS,
    DEFINITION_BYTES,
    DEFINITIONS_AT,
    DOWN,
    GROUPS_AT,
    KEPT_TABLES,
    KINDS_AT,
    LAYOUT,
    LIVE,
    LUMA,
    LUMA_BLOCKS,
    LUMA_GROUPS,
    NEXT_TABLE,
    NOTHING,
    PLACES_AT,
    PLANE,
    QUANTISERS_AT,
    SHARED_AT,
    STREAM_BYTES,
    STRIDE,
    TABLES,
    TABLES_AT,
)

U64, I64 = np.uint64, np.int64
ALIGN = 64


@kernel
def find_table(shared, jpeg, at, is_dc, max_bits):
    """The address of the Huffman table that is defined at offset ``at``; made, if it is none of those that are kept. 0 = unsound."""
    length = 16
    for k in range(16):
        length += I64(jpeg[at + k])
    kind = length << 8 | is_dc << 7 | max_bits
    tables, kinds = get(shared, TABLES_AT), get(shared, KINDS_AT)
    for number in range(KEPT_TABLES):
        if get(kinds, number) == kind:
            definition, same = get(shared, DEFINITIONS_AT) + number * DEFINITION_BYTES, True
            for k in range(length):
                if load8(definition + k) != U64(jpeg[at + k]):
                    same = False
                    break
            if same:
                return tables + 4 * TABLE_WORDS * number
    number = get(shared, NEXT_TABLE)
    while is_used(shared, tables + 4 * TABLE_WORDS * number):
        number = (number + 1) % KEPT_TABLES
    put(shared, NEXT_TABLE, (number + 1) % KEPT_TABLES)
    put(kinds, number, 0)
    if not build_table(jpeg, at, is_dc, max_bits, tables + 4 * TABLE_WORDS * number):
        return 0
    definition = get(shared, DEFINITIONS_AT) + number * DEFINITION_BYTES
    for k in range(length):
        store8(definition + k, I64(jpeg[at + k]))
    put(kinds, number, kind)
    return tables + 4 * TABLE_WORDS * number


@kernel
def is_used(shared, table):
    """Whether a stream has a table."""
    for k in range(1, STREAMS + 1):
        for field in range(TABLES, TABLES + 6):
            if get(shared - k * STREAM_BYTES, field) == table:
                return True
    return False


@kernel
def read_tables(stream, jpeg, header):
    """Take a JPEG's components and tables into a stream's picture; whether they are of the usual kind. ``header`` is cuttable."""
    shared = get(stream, SHARED_AT)
    places, quantisers = get(shared, PLACES_AT), get(stream, QUANTISERS_AT)
    for k in range(6):
        put(stream, TABLES + k, 0)
    for k in range(12):
        put(places, k, 0)
    at = 2
    while True:
        marker = jpeg[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if not has_length(marker):
            at += 2
            continue
        end = at + 2 + big_endian(jpeg, at + 2)
        if marker == 0xDA:
            break
        # libjpeg refuses other segments, or their lengths, and we know neither which nor why.
        frame = 0xC0 <= marker <= 0xC1 and end - at == 10 + 3 * header.components
        interval = marker == 0xDD and end - at == 6
        tables = marker == 0xC4 or marker == 0xDB
        if not (frame or interval or tables or 0xE0 <= marker <= 0xEF or marker == 0xFE):
            return False
        at += 4
        # It warns of these, and a warning counts as corrupt.
        if marker == 0xE0 and matches(jpeg, at, JFIF) and end - at >= 14 and jpeg[at + 5] != 1:
            return False
        if marker == 0xEE and matches(jpeg, at, ADOBE) and end - at >= 12 and jpeg[at + 11] > 1:
            return False
        if marker == 0xDB:
            while at < end:
                number = I64(jpeg[at])
                if number > 3 or at + 65 > end:
                    return False
                put(places, number, at + 1)
                at += 65
        elif marker == 0xC4:
            while at < end:
                number = I64(jpeg[at]) & 15
                if jpeg[at] > 0x1F or number > 3 or at + 17 > end:
                    return False
                symbols = 0
                for count in range(at + 1, at + 17):
                    symbols += I64(jpeg[count])
                if symbols > 256 or at + 17 + symbols > end:
                    return False
                put(places, 4 + 4 * (I64(jpeg[at]) >> 4) + number, at + 1)
                at += 17 + symbols
        at = end
    components = header.components
    if end != at + 8 + 2 * components or I64(jpeg[at + 4]) != components:
        return False
    if jpeg[end - 3] != 0 or jpeg[end - 2] != 63 or jpeg[end - 1] != 0:
        return False
    sof = header.sof
    across, down = I64(jpeg[sof + 11]) >> 4, I64(jpeg[sof + 11]) & 15
    if not (1 <= across <= 4 and 1 <= down <= 4):
        return False
    if components == 3:
        if (
            jpeg[sof + 10] == jpeg[sof + 13]
            or jpeg[sof + 10] == jpeg[sof + 16]
            or jpeg[sof + 13] == jpeg[sof + 16]
        ):
            return False
        if jpeg[sof + 15] != jpeg[sof + 18]:
            return False  # blue and red share groups, and so their quantisers
    put(stream, COMPONENTS, components)
    put(stream, ACROSS, header.across)
    put(stream, DOWN, header.down)
    for component in range(components):
        if jpeg[at + 5 + 2 * component] != jpeg[sof + 10 + 3 * component]:
            return False
        quantiser = get(places, I64(jpeg[sof + 12 + 3 * component]) & 3)
        dc = get(places, 4 + (I64(jpeg[at + 6 + 2 * component]) >> 4 & 3))
        ac = get(places, 8 + (I64(jpeg[at + 6 + 2 * component]) & 3))
        if (
            jpeg[sof + 12 + 3 * component] > 3
            or jpeg[at + 6 + 2 * component] & 0xCC
            or quantiser * dc * ac == 0
        ):
            return False
        most = 1
        for place in range(64):
            value = I64(jpeg[quantiser + place])
            store16(quantisers + 128 * min(component, 1) + 2 * place, value)
            if place:
                most = max(most, value)
        max_bits = MAX_AC_BITS
        while ((1 << max_bits) - 1) * most > MAX_COEFFICIENT:
            max_bits -= 1
        for kind in range(2):
            table = find_table(shared, jpeg, ac if kind else dc, 1 - kind, max_bits if kind else 0)
            if table == 0:
                return False
            put(stream, TABLES + 2 * component + kind, table)
    return True


@kernel
def lay_out(stream, header, top, left, bottom, right, planes):
    """Lay out the planes of the MCUs that hold the pixels [top, bottom) x [left, right) of a stream's picture, at an address."""
    across, down = header.across, header.down
    mcu_width, mcu_height = 8 * across, 8 * down
    origin_y, origin_x = top // mcu_height * mcu_height, left // mcu_width * mcu_width
    rows = (bottom + mcu_height - 1) // mcu_height * mcu_height - origin_y
    columns = (right + mcu_width - 1) // mcu_width * mcu_width - origin_x
    stride = (columns + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS
    chroma_rows, chroma_stride = 0, 0
    if header.components == 3:
        chroma_rows = rows // down
        chroma_stride = (columns // across + VECTOR_PIXELS - 1) // VECTOR_PIXELS * VECTOR_PIXELS
    at_blue = (stride * rows + ALIGN - 1) // ALIGN * ALIGN
    at_red = (at_blue + chroma_stride * chroma_rows + ALIGN - 1) // ALIGN * ALIGN
    described = (origin_y, origin_x, rows, stride, chroma_rows, chroma_stride, at_blue, at_red)
    for field in range(8):
        put(stream, LAYOUT + field, described[field])
    put(stream, STRIDE, stride)
    put(stream, STRIDE + 1, chroma_stride)
    put(stream, PLANE, planes - origin_y * stride - origin_x)
    before = origin_y // down * chroma_stride + origin_x // across
    put(stream, PLANE + 1, planes + at_blue - before)
    put(stream, PLANE + 2, planes + at_red - before)
    touched = (left // 8, (right + 7) // 8, top // 8, (bottom + 7) // 8)
    touched_chroma = (
        left // mcu_width,
        (right + mcu_width - 1) // mcu_width,
        top // mcu_height,
        (bottom + mcu_height - 1) // mcu_height,
    )
    for side in range(4):
        put(stream, LUMA_BLOCKS + side, touched[side])
        put(stream, CHROMA_BLOCKS + side, touched_chroma[side])


@kernel
def reset(stream):
    """Forget what a decoding that was given up has left."""
    groups = get(stream, GROUPS_AT)
    for k in range((LUMA_GROUPS + CHROMA_GROUPS) * GROUP_BYTES // 8):
        put(groups, k, 0)
    for field in (LIVE, LUMA, LUMA + 1, CHROMA, CHROMA + 1):
        put(stream, field, 0)


@kernel
def decode_tiles(streams, jpeg, header, grid, ends, spare):
    """Decode the tiles of a grid into the planes of stream 0's picture; whether all is well."""
    for k in range(1, STREAMS):
        stream = streams + k * STREAM_BYTES
        for field in range(COMPONENTS, TABLES + 6):
            put(stream, field, get(streams, field))
        for number in range(2 * 64 // 4):
            put(get(stream, QUANTISERS_AT), number, get(get(streams, QUANTISERS_AT), number))
    for k in range(STREAMS):
        begin_picture(streams + k * STREAM_BYTES)
    address = I64(jpeg.ctypes.data)
    return run_tiles(streams, address, len(jpeg), header.scan, grid, I64(ends.ctypes.data), spare)


@kernel
def run_tiles(streams, jpeg, size, scan, grid, ends, spare):
    tiles, next_tile, live = (grid.y1 - grid.y0) * (grid.x1 - grid.x0), 0, 0
    for k in range(STREAMS):
        if next_tile < tiles:
            if not begin_tile(streams + k * STREAM_BYTES, jpeg, size, scan, grid, ends, next_tile):
                return False
            next_tile += 1
            live += 1
    while live:
        if live == STREAMS:
            stream = streams + run_streams(streams, STREAM_BYTES) * STREAM_BYTES
        else:
            stream = streams
            while not get(stream, LIVE):
                stream += STREAM_BYTES
            run_stream(stream)
        state = advance(stream)
        if state == FAILED:
            return False
        if state == GOES_ON:
            continue
        if next_tile < tiles:
            if not begin_tile(stream, jpeg, size, scan, grid, ends, next_tile):
                return False
            next_tile += 1
        else:
            live -= 1
            if not flush(stream, spare):
                return False
    return True


@kernel
def begin_tile(stream, jpeg, size, scan, grid, ends, number):
    """Let a stream begin with tile ``number`` of those that the crop touches; whether its markers are in place."""
    across = grid.x1 - grid.x0
    y, x = grid.y0 + number // across, grid.x0 + number % across
    tile = y * grid.columns + x
    begin = scan + (get(ends, tile - 1) if tile else 0)
    end = scan + get(ends, tile)
    if begin + 2 > end or end > size:
        return False
    if tile and load16(jpeg + begin - 2) != U64(0xD0FF + (((tile - 1) & 7) << 8)):
        return False
    if load16(jpeg + end - 2) != U64(0xD9FF if tile == grid.tiles - 1 else 0xD0FF + ((tile & 7) << 8)):
        return False
    begin_stream(
        stream,
        jpeg + begin,
        jpeg + end - 2,
        jpeg + size,
        x * grid.mcus,
        (x + 1) * grid.mcus,
        y * grid.rows,
        min((y + 1) * grid.rows, grid.mcu_rows),
        A_TILE,
        0,
    )
    return begin_unit(stream)


@kernel
def begin_image(stream, jpeg, header, bottom):
    """Let a stream begin with an image, down to the row ``bottom`` of pixels; whether its bytes are in order.

    Between odd restart intervals libjpeg decodes all of the image, and so its verdict may be about rows below the crop.
    """
    mcu_width, mcu_height = 8 * header.across, 8 * header.down
    rows = (header.height + mcu_height - 1) // mcu_height
    needed = rows if header.interval else (bottom + mcu_height - 1) // mcu_height
    begin = I64(jpeg.ctypes.data)
    begin_picture(stream)
    begin_stream(
        stream,
        begin + header.scan,
        begin + len(jpeg),
        begin + len(jpeg),
        0,
        (header.width + mcu_width - 1) // mcu_width,
        0,
        needed,
        AN_IMAGE if needed == rows else NOTHING,
        header.interval,
    )
    return begin_unit(stream)


@kernel
def decode_image(stream, spare):
    """Decode what a stream has begun with, alone; whether all is well."""
    while True:
        run_stream(stream)
        state = advance(stream)
        if state != GOES_ON:
            return state == COMPLETE and flush(stream, spare)
