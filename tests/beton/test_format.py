"""The dtypes that are the format, against the offsets that ffcv 1.0.2 writes."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.beton import format as fmt


@pytest.mark.parametrize(
    ("dtype", "size"), [(fmt.HEADER, 24), (fmt.FIELD, 1041), (fmt.RGB_IMAGE, 13), (fmt.ALLOCATION, 24)]
)
def test_records_have_the_sizes_of_the_format(dtype: np.dtype, size: int) -> None:
    assert dtype.itemsize == size


@pytest.mark.parametrize(
    ("fields", "offsets", "size"),
    [
        ((fmt.RGB_IMAGE_ID, fmt.INT_ID), (0, 16), 24),
        ((fmt.INT_ID, fmt.RGB_IMAGE_ID), (0, 8), 24),
        ((fmt.RGB_IMAGE_ID,), (0,), 13),
        ((fmt.RGB_IMAGE_ID, fmt.INT_ID, fmt.FLOAT_ID), (0, 16, 24), 32),
    ],
)
def test_metadata_is_laid_out_as_ffcv_compiles_it(
    fields: tuple[int, ...], offsets: tuple[int, ...], size: int
) -> None:
    dtype = fmt.record_dtype(fields)
    assert dtype.itemsize == size
    assert dtype.fields is not None
    assert tuple(dtype.fields[f"f{k}"][1] for k in range(len(fields))) == offsets


def test_every_dtype_is_little_endian() -> None:
    for dtype in (fmt.HEADER, fmt.FIELD, fmt.RGB_IMAGE, fmt.ALLOCATION):
        for name in dtype.names or ():
            assert dtype[name].base.newbyteorder("<") == dtype[name].base


def test_pages_start_at_the_next_multiple_and_not_one_later() -> None:
    assert [fmt.page_align(at, 8) for at in (0, 1, 7, 8, 9)] == [0, 8, 8, 8, 16]
