"""Samples that are timed as read from memory have been read into memory before."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.beton.reader import Beton, BetonError
from alexnet_fast.common.page_cache import PAGE, _resident
from alexnet_fast.profile.storage import touch
from betons import Entry, picture, write


def pages_of(path: Path) -> np.ndarray:
    return np.concatenate([pages for _, pages in _resident(path)])


@pytest.mark.parametrize("width", [1, 100, 1365, 1366])
def test_every_page_of_a_touched_sample_is_in_memory(tmp_path: Path, width: int) -> None:
    """Also its last page, if the sample fills less of it than a step from page to page."""
    before, sample = Entry.raw(picture(1300, 1)), Entry.raw(picture(width, 1))  # 3,900 bytes before it
    path = write(tmp_path / "a.beton", [before, sample])
    with Beton(path) as beton:
        beton.expect_random_access()
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        first = int(beton.images["data_ptr"][1])
        own = slice(first // PAGE, (first + 3 * width - 1) // PAGE + 1)
        if pages_of(path)[own].any():
            pytest.skip("this file system keeps its files in memory")
        touch(beton, np.array([1]))
        assert pages_of(path)[own].all()


def test_a_file_that_is_cut_while_it_is_read_is_an_error_and_does_not_end_the_process(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.beton", [Entry.raw(picture(200, 100))] * 3)
    with Beton(path) as beton:
        os.truncate(path, 0)
        with pytest.raises(BetonError, match=f"{path} was shortened while it was open"):
            touch(beton, np.arange(3))
