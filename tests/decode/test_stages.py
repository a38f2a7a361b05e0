"""The stages of decoding one by one: each goes over the bytes that the decoder goes over, for every kind of JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.beton.reader import Beton
from alexnet_fast.decode.crop import CropOptions
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.decode.stages import (
    ALL,
    CUT,
    HUFFMAN,
    LIBJPEG_CUT,
    LIBJPEG_PLANES,
    PLANES,
    UNSTUFF,
    DecodeStages,
)
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import cjpeg, jpeg, picture, write

PICTURES = [picture(200, 150, seed) for seed in range(13)]
RANDOM = CropOptions(True, 96, 96, np.uint64(0), (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
WHOLE = CropOptions(True, 96, 96, np.uint64(0), (1.0, 1.0), (4 / 3, 4 / 3), 0.0)


def stages_of(path: Path, jpegs: Sequence[bytes], cropping: CropOptions = RANDOM) -> DecodeStages:
    beton = Beton(write(path / "a.beton", jpegs))
    return DecodeStages(beton.map, sample_table(beton), cropping)


def taken(stages: DecodeStages, stage: int) -> int:
    return sum(stages.reach(number, stage) for number in range(len(stages.chunks)))


KINDS = {
    "tiles": [encode_jpeg(each, Encoding(restart_mcus=2)) for each in PICTURES],
    "one stream": [jpeg(each) for each in PICTURES],
    "restart markers at odd places": [cjpeg(each, "-restart", "5B") for each in PICTURES],
    "grey": [jpeg(each.convert("L")) for each in PICTURES],
    "4:4:4": [jpeg(each, subsampling=0) for each in PICTURES],
}


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_decoder_goes_through_every_stage_of_the_usual_kinds(kind: str, tmp_path: Path) -> None:
    stages = stages_of(tmp_path, KINDS[kind])
    for stage in (CUT, UNSTUFF, HUFFMAN, UNSTUFF):
        assert taken(stages, stage) == 13
    for number in range(len(stages.chunks)):
        for stage in (CUT, UNSTUFF, HUFFMAN, PLANES, ALL, LIBJPEG_CUT, LIBJPEG_PLANES):
            assert stages.time(number, stage) > 0


def test_kinds_that_are_mixed_in_a_chunk_are_all_counted(tmp_path: Path) -> None:
    mixed = [KINDS[kind][k] for k in range(3) for kind in KINDS]
    stages = stages_of(tmp_path, [*mixed, jpeg(PICTURES[0], progressive=True)])
    assert [taken(stages, stage) for stage in (HUFFMAN, CUT, HUFFMAN)] == [15, 15, 15]
    assert len(stages.sound()) == 16


def scan_bytes(payload: bytes) -> int:
    """Bytes from the scan's first one to the marker at its end."""
    at = payload.index(b"\xff\xda")
    return len(payload) - 2 - (at + 2 + int.from_bytes(payload[at + 2 : at + 4], "big"))


@pytest.mark.parametrize("kind", ["one stream", "restart markers at odd places", "grey", "4:4:4"])
def test_huffman_decoding_of_a_whole_image_takes_all_of_its_scan(kind: str, tmp_path: Path) -> None:
    stages = stages_of(tmp_path, KINDS[kind], WHOLE)
    assert taken(stages, HUFFMAN) == 13
    assert np.concatenate(stages._used).tolist() == [scan_bytes(each) for each in KINDS[kind]]


@pytest.mark.parametrize("kind", ["tiles", "one stream"])
def test_a_stream_that_is_corrupt_is_seen_by_huffman_decoding_alone(kind: str, tmp_path: Path) -> None:
    jpegs = [bytearray(each) for each in KINDS[kind]]
    middle = len(jpegs[4]) - scan_bytes(bytes(jpegs[4])) // 2
    jpegs[4][middle : middle + 40] = b"\x7f\xfe" * 20 if kind == "one stream" else b"\xff\xd9" * 20
    stages = stages_of(tmp_path, list(map(bytes, jpegs)), WHOLE)
    assert taken(stages, HUFFMAN) == 12
    assert taken(stages, HUFFMAN) == 12  # nothing of it is left behind for the others


def test_what_is_left_to_libjpeg_turbo_has_no_stages_of_ours(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, [jpeg(each, progressive=True) for each in PICTURES])
    assert [taken(stages, stage) for stage in (CUT, UNSTUFF, HUFFMAN)] == [0, 0, 0]
    assert len(stages.sound()) == 13


def test_the_pixels_after_the_stages_have_run_are_those_before_them(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, KINDS["one stream"][:5] + KINDS["tiles"][:5])
    stages.time(0, ALL)
    before = stages._out.copy()
    stages._out[:] = 0
    for stage in (CUT, UNSTUFF, HUFFMAN, PLANES, LIBJPEG_CUT, LIBJPEG_PLANES, ALL):
        stages.time(0, stage)
    assert np.array_equal(stages._out, before)
