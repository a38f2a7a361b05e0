"""Where in the file each payload goes, and the header, metadata and table that say so.

A pure function of the payloads' sizes in order: whoever knows these can go on where another stopped.
"""

from __future__ import annotations

import numpy as np

from ..beton import format as fmt
from ..beton.target_fields import INT, TargetField
from .errors import PackingError

ENTRY = np.dtype([("size", "<u4"), ("checksum", "<u4"), ("width", "<u2"), ("height", "<u2"), ("mode", "u1")])
"""One image of the folder as it was packed: payload bytes, their CRC-32, pixels, ``format.RGB_IMAGE.mode``. size 0: left out."""


class BetonLayout:
    """Lays payloads out in pages, behind a header and metadata that are known last.

    Args:
        max_samples: as many as there may be.
        target: what a label is.

    Attributes:
        page_size: in bytes; grows with the largest sample.
        at: offset behind the last payload.
        count: payloads so far.
        payload_bytes: their sum.
    """

    def __init__(self, max_samples: int, target: TargetField = INT) -> None:
        self._type_ids = (fmt.RGB_IMAGE_ID, target.type_id)
        self.page_size = fmt.DEFAULT_PAGE_SIZE
        self.count = self.payload_bytes = 0
        self._records = np.zeros(max_samples, fmt.record_dtype(self._type_ids))
        self._table = np.zeros(max_samples, fmt.ALLOCATION)
        self.at = fmt.page_align(self.data_start, self.page_size)

    def add(self, entry: np.void, label: float) -> int:
        """Find the place of one more payload: its offset.  One that does not fit into the rest of its page begins the next.

        For one that is larger than a page, pages double until it fits.  What lies in the file already still crosses
        none: every edge of the new pages was one of the old.
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
        """Have the samples so far stand for ``samples`` in all, again and again in their order: their payloads are stored once."""
        for rows in (self._records, self._table):
            rows[self.count : samples] = np.resize(rows[: self.count], samples - self.count)
        self._table["sample_id"] = np.arange(len(self._table))
        self.count = samples

    def ptr(self, k: int) -> int:
        """Offset of the k-th payload."""
        return int(self._table["ptr"][k])

    @property
    def data_start(self) -> int:
        """Offset behind the metadata of all samples that there may be: no payload lies before it."""
        return fmt.metadata_offset(2) + self._records.nbytes

    @property
    def file_bytes(self) -> int:
        """Length of the file, were this the last payload."""
        return fmt.page_align(self.at, self.page_size) + self.count * fmt.ALLOCATION.itemsize

    def ends(self) -> list[tuple[int, bytes]]:
        """What remains to be written, as (offset, bytes): the fill of the last page and the table; metadata; last of all the header."""
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
