"""What a JPEG says of itself, in memory that ends where the JPEG does: nothing beyond is read, and a lie is a status."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast import Loader
from alexnet_fast.decode import planes
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.decode.entropy import STREAMS
from alexnet_fast.decode.jpeg_header import read_header
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.decode.resample import Output
from alexnet_fast.decode.scratch import MAX_STREAM_BYTES, fits, plane_bytes
from alexnet_fast.decode.status import (
    DECODER,
    NO_TABLE,
    NOT_JPEG,
    OK,
    TOO_SMALL,
    UNSUPPORTED,
    WRONG_SIZE,
    BrokenSample,
)
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, jpeg, jpegtran, marks, picture, segments, write
from stress.guard_pages import fill, guarded_bytes, guarded_scratch
from stress.jpeg_mutations import frame_at, replaced

SIZE = (256, 192)


@pytest.fixture(scope="module", autouse=True)
def library(require: Callable[[str], Any]) -> None:
    require("turbojpeg")


def decoded(
    payload: bytes, size: tuple[int, int] = SIZE, room: tuple[int, int] | None = None, rows: int = 0
) -> planes.Planes:
    """The planes of an image, or of its upper rows, decoded in guarded memory full of another's leavings, with room for no larger one."""
    decoder = Decoder(64)
    scratch = guarded_scratch(decoder.scratch.handle, len(payload) + 2, *(room or size), Output(64, 64, 0))
    fill(scratch, 0xAA)
    y, x = (planes.CropAxis(0.0, float(side), 0, side) for side in (rows or size[1], size[0]))
    return planes.decode_jpeg_planes(guarded_bytes(payload), *size, y, x, scratch)


def progressive(size: tuple[int, int] = SIZE) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


def status(payload: bytes) -> int:
    return int(read_header(guarded_bytes(payload)).status)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5])
def test_a_scan_header_at_the_very_end_is_not_read_beyond(length: int) -> None:
    payload = encode_jpeg(picture(*SIZE), Encoding())
    at = payload.index(b"\xff\xda")
    ends_there = payload[: at + 2] + length.to_bytes(2, "big") + bytes(max(0, length - 2))
    assert status(ends_there) in (NOT_JPEG, NO_TABLE)


def test_no_prefix_of_a_jpeg_is_read_beyond() -> None:
    for payload in (encode_jpeg(picture(40, 30), Encoding()), progressive((40, 30))):
        found = [status(payload[:length]) for length in range(len(payload))]
        assert OK not in found[: payload.index(b"\xff\xda") + 2]


@pytest.mark.parametrize("marker", [0x01, *range(0xD0, 0xD8)])
def test_a_frame_cannot_be_hidden_behind_a_marker_without_a_length(marker: int) -> None:
    """Taken for a segment's length, the next marker leads to a small frame, while libjpeg finds a large one: it would write beyond all memory."""
    large, small = (
        jpeg(Image.new("RGB", (2000, 2000), (90, 120, 150))),
        encode_jpeg(picture(*SIZE), Encoding(restart_mcus=0)),
    )
    hidden = bytes([0xFF, 0xD8, 0xFF, marker]) + b"\xff\xfe\x00\x02" + large[2:]
    payload = hidden[: 4 + 0xFFFE].ljust(4 + 0xFFFE, b"\x00") + small[2:]
    header = read_header(guarded_bytes(payload))
    assert (header.status, header.width) == (OK, 2000), "what libjpeg finds too"
    assert decoded(payload).status == WRONG_SIZE


@pytest.mark.parametrize("marker", [0x00, 0x02, 0xBF, 0xD8, 0xD9])
def test_a_marker_that_no_header_has_ends_it(marker: int) -> None:
    payload = encode_jpeg(picture(*SIZE), Encoding())
    assert status(payload[:2] + bytes([0xFF, marker, 0, 4, 0, 0]) + payload[2:]) == NOT_JPEG


@pytest.mark.parametrize("extra", [1, 40, 400])
def test_bytes_between_restart_intervals_leave_no_row_unwritten(extra: int) -> None:
    """libjpeg words them as it words the bytes behind a part of an image, and stops there: the rows below are another image's."""
    payload = jpegtran(jpeg(picture(*SIZE)), "-restart", "7B")  # 16 MCUs a row: 7 make no columns
    at, scan = segments(payload)[0]
    place = at + marks(scan)[2] - 2
    damaged = payload[:place] + bytes(extra) + payload[place:]
    assert decoded(payload, rows=100).status == OK and decoded(damaged, rows=100).status == DECODER


def test_a_side_that_libjpeg_does_not_take_is_refused() -> None:
    """65,535 px a row would be decoded as 65,500, and the rest of the crop read from what lies behind."""
    payload = encode_jpeg(Image.new("RGB", (64, 16)), Encoding(restart_mcus=4))
    at = frame_at(payload)
    for side, expected in ((65_500, OK), (65_501, UNSUPPORTED), (65_535, UNSUPPORTED)):
        for place in (5, 7):
            assert status(replaced(payload, at + place, side.to_bytes(2, "big"))) == expected, side


def test_scans_that_would_take_hours_are_refused() -> None:
    """A scan of six bytes may say that nothing changes in millions of blocks."""
    payload = progressive()
    at = payload.rindex(b"\xff\xda")
    last = payload[at:-2]
    assert status(payload[:-2] + last * 500 + b"\xff\xd9") == OK, "small images may"
    frame = frame_at(payload)
    huge = replaced(payload, frame + 5, (65_500).to_bytes(2, "big") * 2)
    assert status(huge[:-2] + last * 20 + b"\xff\xd9") == UNSUPPORTED


@pytest.mark.parametrize("size", [(4096, 4096), (16_384, 16_384), (65_500, 4000)])
def test_a_size_that_the_bytes_cannot_hold_takes_no_memory(size: tuple[int, int], tmp_path: Path) -> None:
    payload = encode_jpeg(picture(64, 48), Encoding(restart_mcus=0))
    at = frame_at(payload)
    payload = replaced(payload, at + 5, size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big"))
    assert decoded(payload, size, room=(64, 48)).status == TOO_SMALL
    path = write(tmp_path / "a.beton", [Entry(payload, *size)])
    with (
        Loader(path, 1, train=False) as loader,
        pytest.raises(BrokenSample, match="fewer bytes than the smallest"),
    ):
        list(loader)


def test_a_jpeg_of_one_colour_is_not_too_small() -> None:
    """Few bytes for many pixels: the least that a real image takes."""
    for size in ((2000, 2000), (1, 1), (65_495, 8)):
        for payload in (jpeg(Image.new("RGB", size), quality=1, optimize=True), progressive(size)):
            assert decoded(payload, size).status == OK


def test_a_scratch_grows_by_area_not_by_each_side_alone() -> None:
    """A wide image and a high one, each within bounds, would ask for the memory of one that is neither."""
    decoder = Decoder(64)
    for width, height in ((64, 60_000), (60_000, 64), (700, 600), (60_000, 64), (64, 60_000)):
        sample = np.array([(0, 100_000, width, height, 0, 0, 0)], SAMPLE_DTYPE)
        decoder.reserve(sample)
        scratch = decoder.scratch
        assert fits(scratch, width, height) and fits(scratch, 512, 512)
    largest = 3 * max(plane_bytes(64, 60_000), plane_bytes(60_000, 64))
    assert len(scratch.planes) == largest + STREAMS * MAX_STREAM_BYTES
    assert fits(scratch, 64, 60_000) and fits(scratch, 60_000, 64) and len(scratch.jpeg) >= 100_000
