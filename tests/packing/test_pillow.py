"""Pillow's settings and its libraries' messages while images are packed, and that the user's settings are restored after it."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from alexnet_fast.beton import format as fmt
from alexnet_fast.packing.encode import Encoding, UnreadableImage, encode_image
from alexnet_fast.packing.pillow import prepared
from betons import jpeg, picture


def bitmap_png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel: many pixels and few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(1)
    row = bytes(1 + -(-width // 8))
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(folder: Path, compression: str, start: int, end: int) -> Path:
    """A TIFF with the bytes start to end changed."""
    path = folder / "x.tif"
    image = picture(203, 149)
    image = image.convert("1") if compression == "group4" else image
    image.save(path, "TIFF", compression=compression)
    content = bytearray(path.read_bytes())
    for k in range(start, end):
        content[k] ^= 0x5A
    path.write_bytes(content)
    return path


def test_an_image_of_more_pixels_than_pillow_allows_is_packed_without_a_warning(
    tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    (tmp_path / "data/train/a").mkdir(parents=True)
    width, height = 14_000, 13_000
    assert 2 * (Image.MAX_IMAGE_PIXELS or 0) < width * height < fmt.MAX_PIXELS
    (tmp_path / "data/train/a/x.png").write_bytes(bitmap_png(width, height))
    run = run_cli("tools/write_beton.py", "--data", tmp_path / "data", "--out", tmp_path, "--workers", 1)
    assert (run.code, "Warning" in run.stderr) == (0, False), run.stderr


def test_an_image_of_more_pixels_than_ours_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").write_bytes(bitmap_png(17_000, 16_000))
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    with pytest.raises(
        UnreadableImage, match="17000 x 16000 pixels are more than 268,435,456, the maximum that"
    ):
        encode_image(tmp_path / "x.png", Encoding())


def test_the_users_own_settings_hold_before_and_after_a_packing_and_not_during_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    picture(203, 149).save(tmp_path / "x.png")
    assert encode_image(tmp_path / "x.png", Encoding()).width == 203
    (tmp_path / "x.JPEG").write_bytes(jpeg(picture(203, 149))[:5000])
    with pytest.raises(UnreadableImage, match="truncated"):
        encode_image(tmp_path / "x.JPEG", Encoding())
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (1000, True)


def test_two_threads_at_once_leave_the_users_settings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def first() -> None:
        with prepared():
            first_in.set()
            second_in.wait(30)
        first_out.set()

    def second() -> None:
        first_in.wait(30)
        with prepared():
            second_in.set()
            first_out.wait(30)
            seen.append(Image.MAX_IMAGE_PIXELS)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == [None] and Image.MAX_IMAGE_PIXELS == 1000


def test_what_libtiff_says_of_an_error_is_the_reason_and_not_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiff(tmp_path, "tiff_lzw", 200, 260)
    with pytest.raises(UnreadableImage, match=rf"{path}: libtiff says: .*[Cc]ode.*; pack with"):
        encode_image(path, Encoding())
    assert capfd.readouterr().err == ""


def test_an_error_from_which_libtiff_recovers_is_listed_as_corrupt_and_not_on_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sample = encode_image(tiff(tmp_path, "group4", 20, 160), Encoding())
    assert sample.corrupt.startswith("libtiff says: Fax4Decode: ") and sample.width == 203
    assert capfd.readouterr().err == ""


def test_libtiffs_messages_belong_to_the_image_that_the_thread_reads(tmp_path: Path) -> None:
    bad = tiff(tmp_path, "group4", 20, 160)
    picture(203, 149).convert("1").save(tmp_path / "good.tif", compression="group4")
    found: dict[str, set[str]] = {"bad": set(), "good": set()}

    def read(path: Path, into: set[str]) -> None:
        for _ in range(20):
            into.add(encode_image(path, Encoding()).corrupt)

    threads = [
        threading.Thread(target=read, args=(path, found[name]))
        for name, path in (("bad", bad), ("good", tmp_path / "good.tif"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found["good"] == {""} and len(found["bad"]) == 1 and "" not in found["bad"]


def test_libtiff_prints_again_after_a_packing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiff(tmp_path, "group4", 20, 160)
    encode_image(path, Encoding())
    with Image.open(path) as image:
        image.load()
    assert "Fax4Decode" in capfd.readouterr().err
