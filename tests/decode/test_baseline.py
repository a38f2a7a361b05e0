"""Our own decoder gives libjpeg-turbo's pixels to the bit, and leaves to it what it must decide."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.decode.crop import CROP_DTYPE, CropOptions, draw_crops
from alexnet_fast.decode.decoder import DecodePaths, Decoder
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.decode.status import DECODER, OK
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import cjpeg, jpeg, jpegtran, photo_paths, picture

SIZE = 64
EPOCHS = 6
TRAIN = CropOptions(True, SIZE, 73, np.uint64(1), (0.08, 1.0), (3 / 4, 4 / 3), 0.5)
VAL = TRAIN._replace(train=False)


@pytest.fixture(scope="module")
def decoders(require: Callable[[str], Any]) -> tuple[Decoder, Decoder]:
    """Ours, and libjpeg-turbo alone."""
    require("turbojpeg")
    return Decoder(SIZE), Decoder(SIZE, "libjpeg")


def decoded(
    decoder: Decoder, jpegs: list[bytes], options: CropOptions, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and statuses of JPEGs that are decoded in one call."""
    samples, begin = np.zeros(len(jpegs), SAMPLE_DTYPE), 0
    for k, each in enumerate(jpegs):
        at = each.index(b"\xff\xc0") if b"\xff\xc0\x00" in each else each.index(b"\xff\xc2")
        high, wide = (int.from_bytes(each[at + 5 + n : at + 7 + n], "big") for n in (0, 2))
        samples[k] = (begin, len(each), wide, high, 0, k, 0)
        begin += len(each)
    boxes = np.empty(len(samples), CROP_DTYPE)
    draw_crops(samples, np.uint64(epoch), options, boxes)
    images, statuses = np.zeros((len(jpegs), 3, SIZE, SIZE), np.uint8), np.full(len(jpegs), 255, np.uint8)
    decoder.decode(np.frombuffer(b"".join(jpegs), np.uint8), samples, boxes, images, statuses)
    return images, statuses


def compared(decoders: tuple[Decoder, Decoder], jpegs: list[bytes]) -> tuple[np.ndarray, DecodePaths]:
    """Statuses of the validation crops, and which paths ours took in all; both decoders agree on every crop."""
    ours, libjpegs = decoders
    before = ours.paths
    for options, epoch in [(VAL, 0), *((TRAIN, epoch) for epoch in range(EPOCHS))]:
        images, statuses = decoded(ours, jpegs, options, epoch)
        expected, verdicts = decoded(libjpegs, jpegs, options, epoch)
        assert statuses.tolist() == verdicts.tolist()
        assert np.array_equal(images, expected)
        if options is VAL:
            first = statuses
    return first, DecodePaths(*(after - earlier for after, earlier in zip(ours.paths, before)))


def check_own(decoders: tuple[Decoder, Decoder], jpegs: list[bytes]) -> None:
    """All are decoded, each by our own decoder."""
    statuses, paths = compared(decoders, jpegs)
    assert not statuses.any() and paths == (len(jpegs) * (EPOCHS + 1), 0, 0)


def photos(count: int, side: int = 240) -> list[Image.Image]:
    images = []
    for path in photo_paths(count):
        image = Image.open(path).convert("RGB")
        image.thumbnail((side, side))
        images.append(image)
    return images


@pytest.mark.parametrize("mcus", range(9))
def test_tiles_of_any_size_and_none(decoders: Any, mcus: int) -> None:
    check_own(decoders, [encode_jpeg(image, Encoding(restart_mcus=mcus)) for image in photos(6)])


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 75, 95, 100])
@pytest.mark.parametrize("optimize", [False, True])
def test_any_quality_and_tables_made_for_each_image(decoders: Any, quality: int, optimize: bool) -> None:
    images = photos(6)
    check_own(decoders, [jpeg(image, quality=quality, optimize=optimize) for image in images])
    check_own(
        decoders,
        [jpeg(image, quality=quality, optimize=optimize, restart_marker_blocks=1) for image in images],
    )


@pytest.mark.parametrize("sampling", ["1x1", "2x1", "1x2", "2x2", "4x1"])
@pytest.mark.parametrize("restart", ["0", "1B", "3B", "7B", "1", "2"])
def test_any_sampling_and_any_restart_interval(decoders: Any, sampling: str, restart: str) -> None:
    check_own(
        decoders,
        [jpegtran(cjpeg(image, "-sample", sampling), "-restart", restart) for image in photos(4, 130)],
    )


@pytest.mark.parametrize("restart", ["0", "1B", "5B", "1"])
def test_grey(decoders: Any, restart: str) -> None:
    images = [image.convert("L") for image in photos(4)]
    check_own(decoders, [jpegtran(jpeg(image), "-restart", restart) for image in images])


def test_any_size(decoders: Any) -> None:
    sides = (1, 2, 7, 8, 9, 15, 16, 17, 33)
    images = [picture(wide, high, wide + high) for wide in sides for high in sides]
    for options in ({}, {"restart_marker_blocks": 1}, {"subsampling": 0}):
        check_own(decoders, [jpeg(image, **options) for image in images])


def test_images_of_noise_and_of_extreme_contrast(decoders: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 90, 120, 3)).astype(np.uint8)
    stripes = np.zeros((90, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    arrays = [*noise, *(noise // 128 * 255), stripes, stripes.transpose(1, 0, 2).copy(), 255 - stripes]
    for quality in (5, 60, 100):
        check_own(decoders, [jpeg(Image.fromarray(each), quality=quality) for each in arrays])


def test_more_sets_of_huffman_tables_than_are_kept(decoders: Any) -> None:
    jpegs = [jpeg(picture(40 + k, 50, k), optimize=True, quality=60 + k % 40) for k in range(60)]
    check_own(decoders, jpegs)
    check_own(decoders, jpegs[::-1])


def test_what_is_unusual_is_decoded_by_libjpeg(decoders: Any) -> None:
    image = photos(1)[0]
    unusual = [jpeg(image, progressive=True), jpeg(image, progressive=True, quality=30, optimize=True)]
    statuses, paths = compared(decoders, unusual)
    assert not statuses.any() and paths == (0, len(unusual) * (EPOCHS + 1), 0)


def scan_of(payload: bytes) -> int:
    """Offset of the first entropy-coded byte."""
    at = payload.index(b"\xff\xda")
    return at + 2 + int.from_bytes(payload[at + 2 : at + 4], "big")


def with_bit_flipped(payload: bytes, at: int) -> bytes:
    return payload[:at] + bytes([payload[at] ^ 0x10]) + payload[at + 1 :]


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "a byte fewer": lambda each: each[: scan_of(each) + 40] + each[scan_of(each) + 41 :],
    "a byte more": lambda each: each[: scan_of(each) + 40] + b"\x55" + each[scan_of(each) + 40 :],
    "a marker in the scan": lambda each: each[: scan_of(each) + 40] + b"\xff\x4c" + each[scan_of(each) + 42 :],
    "bytes before the end": lambda each: each[:-2] + b"\x12\x34" + each[-2:],
    "no end": lambda each: each[:-2],
    "cut in half": lambda each: each[: (scan_of(each) + len(each)) // 2],
    "ones": lambda each: each[: scan_of(each)] + b"\xff\x00" * 300 + b"\xff\xd9",
    "zeros": lambda each: each[: scan_of(each)] + bytes(600) + b"\xff\xd9",
    "another JFIF version": lambda each: each.replace(b"JFIF\x00\x01", b"JFIF\x00\x07"),
}  # fmt: skip


@pytest.mark.parametrize("restart", [0, 1, 4])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_libjpegs_verdict_and_leaves_nothing_for_the_next_sample(
    decoders: Any, fault: str, restart: int
) -> None:
    options = {"restart_marker_blocks": restart} if restart else {}
    sound = [jpeg(image, **options) for image in photos(5)]
    faulty = FAULTS[fault](sound[1])
    statuses, paths = compared(decoders, [sound[0], faulty, *sound[2:]])
    assert [statuses[0], *statuses[2:]] == [OK] * 4
    assert paths.amiss or paths.unusual or statuses[1] == OK


def test_every_flipped_bit_of_some_bytes_has_libjpegs_verdict(decoders: Any) -> None:
    for options in ({}, {"restart_marker_blocks": 2}):
        payload = jpeg(picture(96, 64, 3), **options)
        begin = scan_of(payload)
        statuses, _ = compared(decoders, [with_bit_flipped(payload, at) for at in range(begin, begin + 60)])
        assert set(statuses.tolist()) <= {OK, DECODER, 5}


PROGRAM = """
import sys, hashlib
sys.path[:0] = sys.argv[1:3]
from decode.test_baseline import Decoder, SIZE, TRAIN, decoded, jpeg, picture
jpegs = [jpeg(picture(90 + 7 * k, 80, k), restart_marker_blocks=k % 3, quality=70 + k) for k in range(9)]
for use in ("auto", "libjpeg"):
    decoder = Decoder(SIZE, use)
    images, statuses = decoded(decoder, jpegs, TRAIN, 0)
    assert not statuses.any()
    print(hashlib.sha256(images.tobytes()).hexdigest(), decoder.paths.own)
"""


@pytest.mark.long
def test_a_processor_without_avx2_decodes_the_same_pixels(
    require: Callable[[str], Any], tmp_path: Path
) -> None:
    """The generic form of the inverse DCT, compiled for the plainest processor of this kind."""
    require("turbojpeg")
    tests = Path(__file__).resolve().parents[1]
    kept = Path(os.environ.get("NUMBA_CACHE_DIR", tests.parent / "alexnet_fast/decode/__pycache__/generic"))
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(kept),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tests.parent), str(tests)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, libjpegs = (line.split() for line in done.stdout.splitlines())
    assert ours[0] == libjpegs[0] and (ours[1], libjpegs[1]) == ("9", "0")
