"""Opening a file of ImageNet's size: its metadata is real, its pages are a hole in a sparse file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import Beton, BetonError
from bench import open_cost
from bench.large_files import IMAGENET, write_sparse

MAX_BYTES = 200_000_000


@pytest.mark.parametrize("shuffled_table", [False, True])
def test_opening_a_file_of_imagenets_size_takes_little_memory(tmp_path: Path, shuffled_table: bool) -> None:
    path = write_sparse(tmp_path / "large.beton", shuffled_table=shuffled_table)
    assert path.stat().st_size > 80e9
    for what, cost in open_cost.measure(path).items():
        assert 0 < cost["peak_bytes"] < MAX_BYTES, what


def test_every_sample_of_a_large_file_is_checked(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "large.beton", shuffled_table=True)
    with Beton(path) as beton:
        assert len(beton) == IMAGENET
        assert np.all(np.diff(beton.images["data_ptr"].astype(np.int64)) > 0)
        assert 2**15 <= beton.sizes.min() <= beton.sizes.max() <= 2**16
        dtype = fmt.record_dtype([fmt.RGB_IMAGE_ID, fmt.INT_ID])
        last = fmt.metadata_offset(2) + (IMAGENET - 1) * dtype.itemsize
    with open(path, "r+b") as file:
        file.seek(last + 5)
        file.write(b"\xff" * 8)  # its pointer
    with pytest.raises(BetonError, match=f"does not contain sample {IMAGENET - 1}"):
        Beton(path)
