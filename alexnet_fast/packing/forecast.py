"""How much of the disk a packing will take, before it begins: by a few of its images, encoded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..beton import format as fmt
from ..common.text import size
from .encode import Encoding, encode_item
from .errors import InputUnreadable, UnreadableImage
from .partial_file import partial_path
from .sources import Source

SAMPLED = 16  # their mean is within a tenth of that of all, nearly always
BYTES_A_RECORD = 24  # and as many in the table of payloads


class Forecast(NamedTuple):
    """What a packing will take.

    Attributes:
        needed: bytes of the disk, without those that an interrupted packing has written.
        free: bytes that are free there.
        before: bytes that others will take there first.
    """

    path: Path
    images: int
    needed: int
    free: int
    before: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.path} will take about {size(self.needed)} of the disk for {self.images:,} images; "
            f"{size(self.free)} are free"
        )
        if self.needed + self.before <= self.free:
            return text
        return f"warning: {text}: make room, or it stops when the disk is full, and the same command resumes there"


def forecast(split: Source, path: Path, encoding: Encoding, before: int = 0) -> Forecast | None:
    """What the packing of ``split`` into ``path`` will take; None if none of the images that were tried is readable.

    Args:
        before: bytes that others will take there first.
    """
    tried, reader = _tried(split), split.reader
    sizes = []
    for key in tried:
        try:
            sizes.append(len(encode_item(reader, key, encoding).payload))
        except (UnreadableImage, InputUnreadable):  # the packing says what is wrong with it
            continue
    if not sizes:
        return None
    mean = sum(sizes) / len(sizes)
    count, page = len(split.keys), fmt.DEFAULT_PAGE_SIZE
    total = (
        sum(fmt.page_align(int(part), page) for part in (count * BYTES_A_RECORD, count * mean))
        + count * BYTES_A_RECORD
    )
    there = next(parent for parent in path.absolute().parents if parent.exists())
    system = os.statvfs(there)
    needed = max(0, total - _written(path))
    return Forecast(path, count, needed, system.f_bavail * system.f_frsize, before)


def _tried(split: Source) -> list[str]:
    """A few keys: from everywhere or, where images are unpacked in groups, the first, which are in one group."""
    keys = split.keys
    step = 1 if getattr(split, "groups", ()) else max(1, len(keys) // SAMPLED)
    return keys[::step][:SAMPLED]


def _written(path: Path) -> int:
    """Bytes that an interrupted packing into ``path`` takes already."""
    try:
        return os.stat(partial_path(path)).st_blocks * 512
    except OSError:
        return 0
