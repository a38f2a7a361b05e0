"""The offset of each payload in the file, and the header, metadata and allocation table.

A pure function of the payload sizes and of the values of the fields, in order: with these, an interrupted packing can resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..beton import format as fmt
from ..beton.columns import INT_TYPE, NUL, ColumnType
from .errors import PackingError

ENTRY = np.dtype([("size", "<u4"), ("checksum", "<u4"), ("width", "<u2"), ("height", "<u2"), ("mode", "u1")])
"""One packed image: payload bytes, their CRC-32, width and height in pixels, ``format.RGB_IMAGE.mode``. size 0: skipped."""


Fields = Sequence[tuple[str, ColumnType]]
"""Names and types of the fields behind the image, in the file's order."""
LABEL = "label"
LABEL_ONLY: Fields = ((LABEL, INT_TYPE),)


def following(values: Sequence[float | bytes]) -> bytes:
    """The bytes of a sample that follow its image: the payloads of its other fields.

    An empty one takes a byte, so that it has an offset of its own: FFCV looks up a payload's size by its offset, and would read the
    next payload in its place.
    """
    return b"".join(value or NUL for value in values if isinstance(value, bytes))


class BetonLayout:
    """Lays out samples in pages, after room for the header and the metadata, which are written last.

    A sample's image is followed by the payloads of its other fields, in the same page.

    Args:
        max_samples: the maximum number of samples.
        fields: those behind the image.

    Attributes:
        page_size: in bytes; grows with the largest sample.
        at: offset of the end of the last sample.
        count: samples so far.
        payload_bytes: the sum of their images' sizes.
    """

    def __init__(self, max_samples: int, fields: Fields = LABEL_ONLY) -> None:
        self._fields = fields
        type_ids = [fmt.RGB_IMAGE_ID, *(kind.type_id for _, kind in fields)]
        self.page_size = fmt.DEFAULT_PAGE_SIZE
        self.count = self.payload_bytes = 0
        self._records = np.zeros(max_samples, fmt.record_dtype(type_ids))
        payloads = 1 + sum(not kind.is_number for _, kind in fields)
        self._table = np.zeros((max_samples, payloads), fmt.ALLOCATION)
        self.at = fmt.page_align(self.data_start, self.page_size)

    def add(self, entry: np.void, *values: float | bytes) -> int:
        """Place one more sample, its image and what is ``following``; returns its offset.

        values: of the fields, numbers or payloads (``ColumnType.pack``).

        One that does not fit into the rest of its page starts the next page.  If it is larger than a page, the page size doubles until it fits.  Earlier payloads still cross no page boundary, since
        every boundary of the larger pages was one of the smaller pages too.
        """
        image_bytes = int(entry["size"])
        size = image_bytes + sum(len(value) or 1 for value in values if isinstance(value, bytes))
        while size > self.page_size:
            if self.page_size == fmt.MAX_PAGE_SIZE:
                raise PackingError(
                    f"an image of {entry['width']} x {entry['height']} pixels takes {size} bytes"
                    f"{' with its fields' * (size > image_bytes)}, more than the largest page ({fmt.MAX_PAGE_SIZE})",
                    "lower --max-resolution or --quality",
                )
            self.page_size *= 2
        left = -self.at % self.page_size
        ptr = self.at + (left if left < size else 0)
        places, at = [(self.count, ptr, image_bytes)], ptr + image_bytes
        record: list[object] = [(entry["mode"], entry["width"], entry["height"], ptr)]
        for (_, kind), value in zip(self._fields, values, strict=True):
            if not isinstance(value, bytes):
                record.append(value)
                continue
            record.append(at if kind.is_array else (at, len(value)))
            places.append((self.count, at, len(value) or 1))
            at += len(value) or 1
        self._records[self.count] = tuple(record)
        self._table[self.count] = places
        self.at = at
        self.payload_bytes += image_bytes
        self.count += 1
        return ptr

    def repeat(self, samples: int) -> None:
        """Fill the file up to ``samples`` samples by repeating those so far in their order; their payloads are stored once."""
        again = np.arange(self.count, samples) % self.count
        for rows in (self._records, self._table):
            rows[self.count : samples] = rows[again]
        self._table["sample_id"] = np.arange(len(self._table))[:, None]
        self.count = samples

    def ptr(self, k: int) -> int:
        """Offset of the k-th sample."""
        return int(self._table["ptr"][k, 0])

    @property
    def data_start(self) -> int:
        """Offset of the end of the metadata of ``max_samples`` samples: all payloads come after it."""
        return fmt.metadata_offset(1 + len(self._fields)) + self._records.nbytes

    @property
    def file_bytes(self) -> int:
        """Length of the file in bytes if no sample is added."""
        return fmt.page_align(self.at, self.page_size) + self._table[: self.count].nbytes

    def ends(self) -> list[tuple[int, bytes]]:
        """What must still be written, as (offset, bytes) in order: padding of the last page and the table; the metadata; the header last."""
        fill = -self.at % self.page_size
        table = self._table[: self.count].tobytes()
        return [(self.at, bytes(fill) + table), (fmt.HEADER.itemsize, self._metadata()), (0, self._header())]

    def _metadata(self) -> bytes:
        fields = np.zeros(1 + len(self._fields), fmt.FIELD)
        described = [
            ("image", fmt.RGB_IMAGE_ID, b""),
            *((n, kind.type_id, kind.args) for n, kind in self._fields),
        ]
        for descriptor, (name, type_id, args) in zip(fields, described):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
            descriptor["args"][: len(args)] = np.frombuffer(args, np.uint8)
            if name == LABEL and len(fields) > 2:
                descriptor["args"][-len(fmt.IS_LABEL) :] = np.frombuffer(fmt.IS_LABEL, np.uint8)
        return fields.tobytes() + self._records[: self.count].tobytes()

    def _header(self) -> bytes:
        table_ptr = fmt.page_align(self.at, self.page_size)
        num_fields = 1 + len(self._fields)
        header = np.array([(fmt.VERSION, num_fields, self.page_size, self.count, table_ptr)], fmt.HEADER)
        return header.tobytes()
