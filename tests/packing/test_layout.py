"""Where payloads are: in pages, none across a page boundary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import UserError
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import picture
from folders import listed


def test_samples_never_cross_a_page(tmp_path: Path) -> None:
    """Fourteen raw images of 750 kB: eleven fill a page, and the twelfth starts the next."""
    (tmp_path / "images").mkdir()
    for k in range(14):
        picture(500, 500, k % 3).save(tmp_path / f"images/{k}.bmp")
    split = ImageFolder(tmp_path / "images", [f"{k}.bmp" for k in range(14)], [0] * 14, ["only"])
    write_beton(split, tmp_path / "a.beton", Encoding(mode="raw"), workers=1)
    with Beton(tmp_path / "a.beton") as beton:
        start = beton.images["data_ptr"].astype(np.int64)
        end = start + beton.sizes.astype(np.int64)
        assert (start // beton.page_size == (end - 1) // beton.page_size).all()
        assert len(set((start // beton.page_size).tolist())) == 2
        assert (
            start[0] % beton.page_size == 0
            and (len(beton.map) - 14 * fmt.ALLOCATION.itemsize) % beton.page_size == 0
        )
        for k in range(14):
            assert beton.payload(k).tobytes() == picture(500, 500, k % 3).tobytes()


def test_pages_grow_for_an_image_that_is_larger_than_one(tmp_path: Path) -> None:
    """Samples of 0.75, 9, 0.75 ... 27 and 0.75 MB: the pages become 16 MiB, then 32, and no sample crosses a boundary of those."""
    small, large, huge = (picture(100, 75).resize(size) for size in ((500, 500), (2000, 1500), (4000, 2250)))
    images = [small, large, *[small] * 20, huge, small]
    for k, image in enumerate(images):
        image.save(tmp_path / f"{k}.bmp")
    split = ImageFolder(tmp_path, [f"{k}.bmp" for k in range(len(images))], [0] * len(images), ["only"])
    write_beton(split, tmp_path / "a.beton", Encoding(mode="raw", max_resolution=0), workers=1)
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.page_size == 1 << 25
        start = beton.images["data_ptr"].astype(np.int64)
        end = start + beton.sizes.astype(np.int64)
        assert (start // beton.page_size == (end - 1) // beton.page_size).all() and (
            end[:-1] <= start[1:]
        ).all()
        assert (len(beton.map) - len(images) * fmt.ALLOCATION.itemsize) % beton.page_size == 0
        for k, image in enumerate(images):
            assert beton.payload(k).tobytes() == image.tobytes(), k


def test_an_image_larger_than_the_largest_page_is_refused_with_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fmt, "MAX_PAGE_SIZE", fmt.DEFAULT_PAGE_SIZE)
    picture(100, 75).resize((2000, 1500)).save(tmp_path / "large.bmp")
    split = ImageFolder(tmp_path, ["large.bmp"], [0], ["only"])
    with pytest.raises(
        UserError,
        match=r"2000 x 1500 pixels takes 9000000 bytes, more than the largest page .*; lower --max-resolution",
    ):
        write_beton(split, tmp_path / "out/a.beton", Encoding(mode="raw", max_resolution=0), workers=1)
    assert listed(tmp_path / "out") == []
