"""Betons larger than the images that are there: the same payloads many times, or only the metadata."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import Beton

IMAGENET = 1_281_167  # images of its training set
SLOT_BYTES = 1 << 16  # room for a payload in a sparse file, about what a 500 px image takes


def write_repeated(source: Path, path: Path, times: int) -> Path:
    """The samples of ``source`` ``times`` times, each with its own payload bytes, as a new file.

    Raises:
        OSError: the disk is full, or the folder not writable.
    """
    with Beton(source) as beton:
        header = beton.map[: fmt.HEADER.itemsize].view(fmt.HEADER)[0]
        fields = beton.map[fmt.HEADER.itemsize : fmt.metadata_offset(int(header["num_fields"]))]
        dtype = fmt.record_dtype(fields.view(fmt.FIELD)["type_id"].tolist())
        start, table_ptr = fmt.metadata_offset(int(header["num_fields"])), int(header["alloc_table_ptr"])
        records = beton.map[start : start + len(beton) * dtype.itemsize].view(dtype)
        table = beton.map[table_ptr:].view(fmt.ALLOCATION)
        image = next(name for name in dtype.names or () if dtype[name] == fmt.RGB_IMAGE)
        pages_from = fmt.page_align(start + records.nbytes, beton.page_size)
        pages_to = fmt.page_align(start + times * records.nbytes, beton.page_size)
        many_records, many_table = np.tile(records, times), np.tile(table, times)
        shift = np.repeat(np.arange(times, dtype=np.uint64) * (table_ptr - pages_from), len(beton))
        shift += np.uint64(pages_to - pages_from)
        many_records[image]["data_ptr"] += shift
        many_table["ptr"] += shift
        many_table["sample_id"] = np.arange(len(many_table))
        header = header.copy()
        header["num_samples"] = len(many_records)
        header["alloc_table_ptr"] = pages_to + times * (table_ptr - pages_from)
        with open(path, "wb") as file:
            file.write(header.tobytes() + fields.tobytes() + many_records.tobytes())
            file.seek(pages_to)
            for _ in range(times):
                file.write(beton.map[pages_from:table_ptr].data)
            file.write(many_table.tobytes())
            os.fsync(file.fileno())
    return path


def write_sparse(path: Path, count: int = IMAGENET, *, shuffled_table: bool = False) -> Path:
    """A file of ``count`` samples whose metadata and allocation table are real and whose pages are a hole of zeros.

    Args:
        shuffled_table: the allocation table out of order, as FFCV's writers leave it.
    """
    rng = np.random.default_rng(0)
    page_size = fmt.DEFAULT_PAGE_SIZE
    dtype = fmt.record_dtype([fmt.RGB_IMAGE_ID, fmt.INT_ID])
    pages_from = fmt.page_align(fmt.metadata_offset(2) + count * dtype.itemsize, page_size)
    table = np.zeros(count, fmt.ALLOCATION)
    table["sample_id"] = np.arange(count)
    table["ptr"] = pages_from + np.arange(count) * SLOT_BYTES
    table["size"] = rng.integers(SLOT_BYTES // 2, SLOT_BYTES, count, endpoint=True)
    table_ptr = fmt.page_align(pages_from + count * SLOT_BYTES, page_size)
    records = np.zeros(count, dtype)
    records["f0"]["width"], records["f0"]["height"] = 500, 375
    records["f0"]["data_ptr"] = table["ptr"]
    records["f1"] = rng.integers(0, 1000, count)
    fields = np.zeros(2, fmt.FIELD)
    for field, type_id, name in zip(fields, (fmt.RGB_IMAGE_ID, fmt.INT_ID), (b"image", b"label")):
        field["type_id"] = type_id
        field["name"][: len(name)] = np.frombuffer(name, np.uint8)
    with open(path, "wb") as file:
        file.write(np.array([(fmt.VERSION, 2, page_size, count, table_ptr)], fmt.HEADER).tobytes())
        file.write(fields.tobytes() + records.tobytes())
        file.seek(table_ptr)
        file.write((rng.permutation(table) if shuffled_table else table).tobytes())
        os.fsync(file.fileno())
    return path
