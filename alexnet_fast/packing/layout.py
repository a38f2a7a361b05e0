"""The offset of each payload in the file, and the header, metadata and allocation table.

A pure function of the payload sizes in order: with these, an interrupted packing can resume.
"""

from __future__ import annotations

import numpy as np

from ..beton import format as fmt
from ..beton.target_fields import INT, TargetField
from .errors import PackingError

ENTRY = np.dtype([("size", "<u4"), ("checksum", "<u4"), ("width", "<u2"), ("height", "<u2"), ("mode", "u1")])
"""One packed image: payload bytes, their CRC-32, width and height in pixels, ``format.RGB_IMAGE.mode``. size 0: skipped."""


class BetonLayout:
    """Lays out payloads in pages, after room for the header and the metadata, which are written last.

    Args:
        max_samples: the maximum number of payloads.
        target: what a label is.

    Attributes:
        page_size: in bytes; grows with the largest sample.
        at: offset of the end of the last payload.
        count: payloads so far.
        payload_bytes: the sum of their sizes.
    """

    def __init__(self, max_samples: int, target: TargetField = INT) -> None:
        self._type_ids = (fmt.RGB_IMAGE_ID, target.type_id)
        self.page_size = fmt.DEFAULT_PAGE_SIZE
        self.count = self.payload_bytes = 0
        self._records = np.zeros(max_samples, fmt.record_dtype(self._type_ids))
        self._table = np.zeros(max_samples, fmt.ALLOCATION)
        self.at = fmt.page_align(self.data_start, self.page_size)

    def add(self, entry: np.void, label: float) -> int:
        """Place one more payload; returns its offset.  One that does not fit into the rest of its page starts the next page.

        If it is larger than a page, the page size doubles until it fits.  Earlier payloads still cross no page boundary, since
        every boundary of the larger pages was one of the smaller pages too.
        """
        size = int(entry["size"])
        while size > self.page_size:
            if self.page_size == fmt.MAX_PAGE_SIZE:
                raise PackingError(
                    f"an image of {entry['width']} x {entry['height']} pixels takes {size} bytes, more than the largest page "
                    f"({fmt.MAX_PAGE_SIZE})",
                    "lower --max-resolution or --quality",
                )
            self.page_size *= 2
        left = -self.at % self.page_size
        ptr = self.at + (left if left < size else 0)
        self._records[self.count] = ((entry["mode"], entry["width"], entry["height"], ptr), label)
        self._table[self.count] = (self.count, ptr, size)
        self.at = ptr + size
        self.payload_bytes += size
        self.count += 1
        return ptr

    def repeat(self, samples: int) -> None:
        """Fill the file up to ``samples`` samples by repeating those so far in their order; their payloads are stored once."""
        for rows in (self._records, self._table):
            rows[self.count : samples] = np.resize(rows[: self.count], samples - self.count)
        self._table["sample_id"] = np.arange(len(self._table))
        self.count = samples

    def ptr(self, k: int) -> int:
        """Offset of the k-th payload."""
        return int(self._table["ptr"][k])

    @property
    def data_start(self) -> int:
        """Offset of the end of the metadata of ``max_samples`` samples: all payloads come after it."""
        return fmt.metadata_offset(2) + self._records.nbytes

    @property
    def file_bytes(self) -> int:
        """Length of the file in bytes if no payload is added."""
        return fmt.page_align(self.at, self.page_size) + self.count * fmt.ALLOCATION.itemsize

    def ends(self) -> list[tuple[int, bytes]]:
        """What must still be written, as (offset, bytes) in order: padding of the last page and the table; the metadata; the header last."""
        fill = -self.at % self.page_size
        table = self._table[: self.count].tobytes()
        return [(self.at, bytes(fill) + table), (fmt.HEADER.itemsize, self._metadata()), (0, self._header())]

    def _metadata(self) -> bytes:
        fields = np.zeros(2, fmt.FIELD)
        for descriptor, name, type_id in zip(fields, (b"image", b"label"), self._type_ids):
            descriptor["type_id"] = type_id
            descriptor["name"][: len(name)] = np.frombuffer(name, np.uint8)
        return fields.tobytes() + self._records[: self.count].tobytes()

    def _header(self) -> bytes:
        table_ptr = fmt.page_align(self.at, self.page_size)
        header = np.array([(fmt.VERSION, 2, self.page_size, self.count, table_ptr)], fmt.HEADER)
        return header.tobytes()
