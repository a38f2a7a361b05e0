"""Betons that are given by a URL: where a path enters, it becomes the path of a local copy."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..common.arguments import path_of
from ..common.urls import url_of
from . import format as fmt
from .errors import BetonError, FieldError

SIDECAR = ".json"
LARGEST_RECORD_BYTES = 64 * 24
"""Of one sample's metadata: as many fields as a header may count."""


def localized(path: Any) -> Path:
    """The local path of a beton: the given one or, for a URL, that of a copy in the cache, which is fetched now if it is not there.

    For code that opens a file itself, as FFCV's Loader does; ``Loader`` and ``Beton`` take URLs.  The copy is kept while this process
    lives.  ``remote.cached_copy`` says how a copy is checked, and which variables there are.

    Raises:
        UserError: it cannot be fetched.
    """
    return local_file("path", path, None)


def local_file(name: str, given: Any, keeper: object) -> Path:
    """As ``localized``, for an argument; the copy is kept in the cache while ``keeper`` lives."""
    url = url_of(given)
    if url is None:
        return path_of(name, given)
    from ..remote.cached_copy import cached_copy  # imported here: local files need none of it

    return cached_copy(url, SIDECAR, wrong_bytes, keeper)


def wrong_bytes(path: Path) -> tuple[list[tuple[int, int]], str]:
    """The bytes (start, end) of a fetched file that are not as its sidecar says, and what is wrong, in words; none and "" if all are right.

    Without a sidecar only the file's structure is checked.
    """
    from .reader import Beton
    from .sidecar import checksums

    try:
        with Beton(path) as beton:
            sidecar = beton.read_sidecar()
            expected = None if sidecar is None else checksums(sidecar, beton)
            if expected is None:
                return [], ""
            wrong = [
                index
                for index in range(len(beton))
                if zlib.crc32(beton.payload(index).data) != expected[index]
            ]
            spans = [(int(beton.images["data_ptr"][k]), int(beton.sizes[k])) for k in wrong]
    except FieldError:  # several images or labels: not a file of ours, so without checksums
        return [], ""
    except BetonError as error:
        return _of_the_index(path), str(error).replace(str(path), path.name)
    what = (
        f"{len(wrong):,} of its samples, sample {wrong[0]} first, do not match their checksums"
        if wrong
        else ""
    )
    return [(start, start + size) for start, size in spans], what


def _of_the_index(path: Path) -> list[tuple[int, int]]:
    """The bytes of a file that are not payloads, as far as its header says."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(fmt.HEADER.itemsize).ljust(fmt.HEADER.itemsize, b"\0")
    header = np.frombuffer(head, fmt.HEADER)[0]
    samples, fields = min(int(header["num_samples"]), size), min(int(header["num_fields"]), 64)
    begin = fmt.metadata_offset(fields) + samples * LARGEST_RECORD_BYTES
    table = int(header["alloc_table_ptr"])
    return [(0, min(begin, size)), (table if 0 < table < size else size - 1, size)]
