"""The beton file, version 2, as numpy dtypes: these dtypes *are* the format (everything little-endian).

The layout is FFCV's; ffcv 1.0.2 reads what we write, and we read its image + int files.

====================  ==================  =====================================================
region                offset              content
====================  ==================  =====================================================
header                0                   one ``HEADER`` (24 bytes)
field descriptors     24                  ``num_fields`` x ``FIELD`` (1041 bytes each)
metadata              24 + 1041 F         ``num_samples`` records of ``record_dtype(type_ids)``
padding                                   zeros up to a multiple of ``page_size``
pages                                     complete pages of payloads, the last one zero-filled
allocation table      ``alloc_table_ptr``  ``ALLOCATION`` entries up to the end of the file
====================  ==================  =====================================================

- A payload's ``ptr`` is an offset from the start of the file.  Payloads follow each other without padding and never
  cross a page boundary, so no sample is larger than a page.  Pages are counted from the start of the file: if a writer
  doubled the page size for a large sample, the first payload need not be at the start of a page.
- Only the allocation table holds a payload's size.  FFCV writes it in the order in which its
  workers ended: join it on ``ptr``.  Ours is in file order.
- ``alloc_table_ptr == 0`` marks a file whose writing was interrupted.

**Tile table.**  A JPEG that we pack has a restart marker every n MCUs, n a divisor of the MCUs in
a row, so that its restart intervals are a grid of independent *tiles* (ITU-T T.81, E.1.4).  The
byte length of each is stored in the JPEG itself, in an application segment directly after SOI that
other readers skip::

    FF EA | length, 2 bytes, big-endian | "TILES" 00 | version 01 | entry size 02 | u2 x tiles

An entry counts the tile's entropy-coded bytes and the two bytes of the marker that ends it (RSTm,
or EOI for the last), so the entries sum to the bytes from the end of the SOS segment to the end of the JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VERSION = 2
MIN_PAGE_SIZE = 1 << 21
DEFAULT_PAGE_SIZE = 1 << 23
MAX_PAGE_SIZE = 1 << 31  # the largest power of two that the header's u4 holds

MAX_PIXELS = 1 << 28  # of one image: the loader's maximum (decode.decoder)
MAX_SAMPLES = (1 << 31) - 1  # the kernels count them in int32

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)

FIELD = np.dtype([("type_id", "u1"), ("name", "u1", 16), ("args", "u1", 1024)])

ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

# Without align=True FFCV's image record is packed: its 13 bytes put data_ptr at offset 5.
RGB_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])

FLOAT_ID, INT_ID, RGB_IMAGE_ID, BYTES_ID, NDARRAY_ID, JSON_ID, TENSOR_ID = range(7)

METADATA = {
    FLOAT_ID: np.dtype("<f8"),
    INT_ID: np.dtype("<i8"),
    RGB_IMAGE_ID: RGB_IMAGE,
    BYTES_ID: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    NDARRAY_ID: np.dtype("<u8"),
    JSON_ID: np.dtype([("ptr", "<u8"), ("size", "<u8")]),
    TENSOR_ID: np.dtype("<u8"),
}

IS_LABEL = b"AFLABEL\x00"
"""The last bytes of a descriptor's arguments, in a file of more fields than an image and a label: this field is the label.

FFCV reads none of them; a file of two fields has none, as version 0.1 wrote it.
"""

# RGB_IMAGE.mode
JPEG, RAW = 0, 1

TILE_MARKER = 0xEA  # APP10
TILE_MAGIC = b"TILES\x00\x01\x02"
MAX_TILES = (0xFFFF - 2 - len(TILE_MAGIC)) // 2


def record_dtype(type_ids: Sequence[int]) -> np.dtype:
    """The dtype of one sample's metadata: the fields' records as FFCV's compiler-aligned struct f0, f1, ..."""
    return np.dtype([(f"f{k}", METADATA[type_id]) for k, type_id in enumerate(type_ids)], align=True)


def metadata_offset(num_fields: int) -> int:
    """Offset in bytes of the first metadata record."""
    return HEADER.itemsize + num_fields * FIELD.itemsize


def page_align(offset: int, page_size: int) -> int:
    """The first multiple of ``page_size`` at or after ``offset``."""
    return -(-offset // page_size) * page_size


def field_name(raw: np.ndarray) -> str:
    """A descriptor's NUL-padded ASCII name."""
    return raw.tobytes().split(b"\x00")[0].decode("ascii", "replace")
