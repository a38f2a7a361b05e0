"""What is cut out of a JPEG for a crop, seen by the decoder that gets it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.decode.jpeg_header import read_header
from alexnet_fast.decode.jpeg_tiles import slice_jpeg
from alexnet_fast.decode.status import OK
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import jpeg, jpegtran, picture

SIZE = (320, 240)
CROP = (40, 70, 90, 130)  # top, left, bottom, right


def cut_out(payload: bytes, crop: tuple[int, int, int, int] = CROP) -> tuple:
    """(the Slice, the small JPEG)"""
    data, out = np.frombuffer(payload, np.uint8), np.zeros(len(payload) + 16, np.uint8)
    small = slice_jpeg(data, read_header(data), *crop, out, np.zeros(1 << 12, np.int64))
    assert small.status == OK
    return small, out[: small.bytes].tobytes()


def luma(payload: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(payload))
    image.draft("L", image.size)  # libjpeg's own luma plane, before any colour
    return np.asarray(image)


@pytest.mark.parametrize("mcus", [1, 2, 4, 20])
def test_a_tiled_jpeg_gives_the_tiles_that_the_crop_touches_and_no_more(mcus: int) -> None:
    payload = encode_jpeg(picture(*SIZE), Encoding(restart_mcus=mcus))
    small, part = cut_out(payload)
    tile = 16 * mcus
    assert (small.top, small.left) == (32, 70 // tile * tile)
    assert (small.height, small.width) == (64, (130 + tile - 1) // tile * tile - small.left)
    whole = luma(payload)[small.top : small.top + 64, small.left : small.left + small.width]
    assert np.array_equal(luma(part)[: whole.shape[0]], whole)
    assert len(part) < len(payload) / 2


@pytest.mark.parametrize("restart", ["7B", "13B"])
def test_without_tiles_in_columns_the_jpeg_is_decoded_whole(restart: str) -> None:
    """20 MCUs a row: neither 7 nor 13 make columns."""
    small, _ = cut_out(jpegtran(jpeg(picture(*SIZE)), "-restart", restart))
    assert (small.bytes, small.height, small.width) == (0, 240, 320)


def test_without_markers_the_jpeg_ends_with_the_crops_last_mcu_row() -> None:
    payload = jpeg(picture(*SIZE))
    small, part = cut_out(payload)
    assert (small.top, small.left, small.height, small.width, small.ends_early) == (0, 0, 96, 320, True)
    assert np.array_equal(luma(part), luma(payload)[:96])


def test_a_crop_that_reaches_the_last_row_leaves_no_bytes_over() -> None:
    small, part = cut_out(jpeg(picture(*SIZE)), (100, 0, 239, 10))
    assert (small.height, small.ends_early) == (240, False)
    assert np.array_equal(luma(part), luma(jpeg(picture(*SIZE))))


def test_a_progressive_jpeg_is_decoded_whole() -> None:
    data = io.BytesIO()
    picture(*SIZE).save(data, "JPEG", progressive=True)
    small, _ = cut_out(data.getvalue())
    assert (small.bytes, small.height, small.width) == (0, 240, 320)
