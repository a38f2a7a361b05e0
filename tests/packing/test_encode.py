"""One image -> one sample: the JPEG with restart markers and a tile table, and the conversions to RGB."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alexnet_fast.beton import format as fmt
from alexnet_fast.decode import decoder
from alexnet_fast.packing.encode import (
    Encoding,
    Sample,
    UnreadableImage,
    encode_image,
    encode_jpeg,
    restart_interval,
    target_size,
)
from alexnet_fast.packing.kinds import image_formats
from alexnet_fast.packing.lossless import JpegtranMissing
from betons import check_tiles, cjpeg, difference, jpeg, picture, pixels, segments, without_segment

ODD_SIZES = [
    (1, 1),
    (1, 500),
    (500, 1),
    (15, 15),
    (16, 16),
    (17, 16),
    (16, 17),
    (33, 500),
    (500, 375),
    (464, 300),
    (23 * 16, 97),
]
PRIME_MCUS = [29, 23, 19, 17, 31]


def encoded(
    folder: Path, name: str, save: bytes | Image.Image, encoding: Encoding | None = None, **options: object
) -> Sample:
    """The sample made from a file of that name."""
    path = folder / name
    if isinstance(save, bytes):
        path.write_bytes(save)
    else:
        save.save(path, **options)  # type: ignore[arg-type]
    return encode_image(path, encoding or Encoding())


@pytest.mark.parametrize(("width", "height"), ODD_SIZES + [(16 * n, 50) for n in PRIME_MCUS])
@pytest.mark.parametrize("wanted", [1, 2, 4, 8])
def test_every_jpeg_is_a_grid_of_tiles_with_a_true_table(width: int, height: int, wanted: int) -> None:
    check_tiles(encode_jpeg(picture(width, height), Encoding(restart_mcus=wanted)), width, height)


@pytest.mark.parametrize(("width", "height"), ODD_SIZES)
def test_markers_and_table_change_no_pixel(width: int, height: int) -> None:
    image = picture(width, height)
    plain = jpeg(image, quality=90, subsampling="4:2:0")
    assert np.array_equal(pixels(encode_jpeg(image, Encoding())), pixels(plain))


def test_huffman_tables_of_its_own_make_an_image_smaller_and_change_no_pixel() -> None:
    image = picture(400, 300)
    plain, optimal = (encode_jpeg(image, Encoding(optimize=optimize)) for optimize in (False, True))
    assert len(optimal) < len(plain) and np.array_equal(pixels(optimal), pixels(plain))
    check_tiles(optimal, 400, 300)


def test_no_markers_means_no_table() -> None:
    found = segments(encode_jpeg(picture(200, 150), Encoding(restart_mcus=0)))
    assert 0xDD not in found and fmt.TILE_MARKER not in found


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    wanted=st.integers(1, 64),
    mcu_px=st.sampled_from([(8, 8), (16, 8), (8, 16), (16, 16), (32, 8)]),
)
@settings(max_examples=300, deadline=None)
def test_the_interval_divides_the_row_and_is_the_nearest_that_fits_the_table(
    width: int, height: int, wanted: int, mcu_px: tuple[int, int]
) -> None:
    per_row, rows = -(-width // mcu_px[0]), -(-height // mcu_px[1])
    interval = restart_interval(width, height, wanted, mcu_px)
    assert per_row % interval == 0
    fitting = [d for d in range(1, per_row + 1) if per_row % d == 0 and rows * per_row // d <= fmt.MAX_TILES]
    if fitting:
        ratio = max(interval / wanted, wanted / interval)
        assert interval in fitting and all(
            ratio <= max(d / wanted, wanted / d) * (1 + 1e-12) for d in fitting
        )


def test_an_image_of_too_many_tiles_for_one_segment_still_loads_as_a_jpeg() -> None:
    payload = encode_jpeg(
        Image.new("RGB", (16 * 211, 16 * 211)), Encoding(restart_mcus=1)
    )  # 211 is prime: 1 or complete rows
    check_tiles(payload, 16 * 211, 16 * 211)


def test_a_tile_too_large_for_its_table_entry_is_left_without_a_table() -> None:
    noise = np.random.default_rng(0).integers(
        0, 256, (32, 16 * 1009, 3), np.uint8
    )  # 1009 is prime, and noise is large
    payload = encode_jpeg(Image.fromarray(noise), Encoding(restart_mcus=1000, quality=100))
    assert fmt.TILE_MARKER not in segments(payload)
    assert pixels(payload).shape == noise.shape


def test_quality_is_what_was_asked_for() -> None:
    sizes = [len(encode_jpeg(picture(200, 150), Encoding(quality=quality))) for quality in (1, 50, 90, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 5


@pytest.mark.parametrize(
    ("size", "encoding", "expected"),
    [
        ((500, 375), Encoding(), (500, 375)),
        ((1000, 750), Encoding(), (500, 375)),
        ((750, 1000), Encoding(), (375, 500)),
        ((5000, 2), Encoding(), (500, 1)),
        ((1000, 750), Encoding(max_resolution=0), (1000, 750)),
        ((1000, 500), Encoding(max_resolution=0, min_side=256), (512, 256)),
        ((1000, 500), Encoding(max_resolution=400, min_side=256), (400, 200)),
        ((200, 100), Encoding(min_side=256), (200, 100)),
    ],
)
def test_images_are_shrunk_to_the_smaller_of_what_is_asked_and_never_enlarged(
    tmp_path: Path, size: tuple[int, int], encoding: Encoding, expected: tuple[int, int]
) -> None:
    assert target_size(*size, encoding) == expected
    sample = encoded(tmp_path, "a.jpg", picture(*size), encoding)
    assert (sample.width, sample.height) == expected == Image.open(io.BytesIO(sample.payload)).size


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_shrinking_is_antialiased(tmp_path: Path, suffix: str) -> None:
    """libjpeg's own halving, which the packer uses first, makes no visible difference."""
    large = picture(2000, 1500)
    options = {"quality": 98, "subsampling": 0} if suffix == "jpg" else {"compress_level": 1}
    sample = encoded(tmp_path, f"a.{suffix}", large, Encoding(quality=98), **options)
    expected = np.asarray(large.resize((500, 375), Image.Resampling.HAMMING))
    assert difference(pixels(sample.payload), expected) < 2


def test_raw_mode_stores_the_pixels_themselves(tmp_path: Path) -> None:
    sample = encoded(tmp_path, "a.png", picture(70, 50), Encoding(mode="raw"))
    assert (sample.mode, sample.width, sample.height) == (fmt.RAW, 70, 50)
    assert sample.payload == picture(70, 50).tobytes()


def palette(**info: object) -> Image.Image:
    image = picture(90, 70).quantize(64)
    image.info.update(info)
    return image


CONVERSIONS = {
    "grey.JPEG": ("L JPEG", lambda: picture(90, 70).convert("L"), {}),
    "cmyk.JPEG": ("CMYK JPEG", lambda: picture(90, 70).convert("CMYK"), {"quality": 95}),
    "progressive.JPEG": ("progressive JPEG", lambda: picture(90, 70), {"progressive": True}),
    "png.JPEG": ("PNG named .JPEG", lambda: picture(90, 70), {"format": "PNG"}),
    "rgb.png": ("PNG", lambda: picture(90, 70), {}),
    "palette.png": ("P PNG", palette, {}),
    "transparent.png": ("P PNG", palette, {"transparency": 3}),
    "transparencies.png": ("P PNG", palette, {"transparency": bytes(range(64))}),
    "rgba.png": ("RGBA PNG", lambda: picture(90, 70).convert("RGBA"), {}),
    "la.png": ("LA PNG", lambda: picture(90, 70).convert("LA"), {}),
    "one_bit.png": ("1 PNG", lambda: picture(90, 70).convert("1"), {}),
    "a.gif": ("P GIF", palette, {}),
    "a.webp": ("WEBP", lambda: picture(90, 70), {"lossless": True}),
    "a.bmp": ("BMP", lambda: picture(90, 70), {}),
    "float.tiff": ("F TIFF", lambda: picture(90, 70).convert("F"), {}),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # the reference's own opening
@pytest.mark.parametrize("name", CONVERSIONS)
def test_every_kind_of_image_becomes_rgb_and_says_what_it_was(tmp_path: Path, name: str) -> None:
    expected, make, options = CONVERSIONS[name]
    sample = encoded(tmp_path, name, make(), Encoding(quality=95), **options)
    assert sample.converted_from == expected
    with Image.open(tmp_path / name) as source:
        expected = np.asarray(source.convert("RGB"))
    assert difference(pixels(sample.payload), expected) < (12 if name == "one_bit.png" else 4)
    assert Image.open(io.BytesIO(sample.payload)).mode == "RGB"
    check_tiles(sample.payload, 90, 70)


def test_an_ordinary_jpeg_is_no_conversion(tmp_path: Path) -> None:
    assert encoded(tmp_path, "a.JPEG", picture(90, 70)).converted_from == ""


def test_adobes_inverted_cmyk_has_the_colours_of_the_picture(tmp_path: Path) -> None:
    """Photoshop stores CMYK inverted; Pillow writes and reads it so."""
    sample = encoded(tmp_path, "a.JPEG", picture(90, 70).convert("CMYK"), quality=95)
    assert 0xEE in segments((tmp_path / "a.JPEG").read_bytes())
    assert difference(pixels(sample.payload), np.asarray(picture(90, 70))) < 5


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 128).astype(np.uint16)[None].repeat(32, 0)
    for name in ("a.png", "a.tiff", "a.pgm"):
        sample = encoded(tmp_path, name, Image.fromarray(ramp), Encoding(quality=95))
        assert difference(pixels(sample.payload)[..., 0], ramp >> 8) < 2, name


def test_a_progressive_source_is_stored_sequential(tmp_path: Path) -> None:
    payload = encoded(tmp_path, "a.jpg", picture(90, 70), progressive=True).payload
    assert 0xC0 in segments(payload) and 0xC2 not in segments(payload)


def test_other_subsamplings_are_stored_as_4_2_0(tmp_path: Path) -> None:
    for sampling in ("1x1", "2x1", "1x2", "4x1"):
        payload = encoded(tmp_path, "a.jpg", cjpeg(picture(90, 70), "-sample", sampling)).payload
        assert segments(payload)[0xC0][1][7] == 0x22
        check_tiles(payload, 90, 70)


def test_the_sources_metadata_is_not_stored(tmp_path: Path) -> None:
    """Comments, profiles and thumbnails would be read again for every crop."""
    source = jpeg(
        picture(90, 70), comment=b"hello" * 100, icc_profile=b"p" * 1000, exif=b"Exif\x00\x00" + bytes(50)
    )
    assert {0xFE, 0xE2, 0xE1} <= set(segments(source))
    assert not {0xFE, 0xE2, 0xE1} & set(segments(encoded(tmp_path, "a.jpg", source).payload))


@pytest.mark.parametrize("suffix", ["gif", "png"])
def test_a_comment_of_any_length_is_no_obstacle(tmp_path: Path, suffix: str) -> None:
    text = PngInfo()
    text.add_text("comment", "x" * 70_000)
    options = {"comment": b"x" * 70_000} if suffix == "gif" else {"pnginfo": text}
    assert encoded(tmp_path, f"a.{suffix}", picture(40, 30), **options).width == 40


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    sample = encoded(tmp_path, "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert difference(pixels(sample.payload), np.full((30, 40, 3), (200, 0, 0))) < 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.JPEG", b""),
        ("text.JPEG", b"this is no image"),
        ("header.JPEG", jpeg(picture(90, 70))[:100]),
        ("half.JPEG", jpeg(picture(90, 70))[:2000]),
        ("webpage.png", b"<html>404</html>"),
    ],
)
def test_an_unreadable_image_is_named_with_what_to_do_about_it(
    tmp_path: Path, name: str, content: bytes
) -> None:
    with pytest.raises(
        UnreadableImage, match=rf"cannot read the image .*{name}: .*; pack with --on-error skip"
    ):
        encoded(tmp_path, name, content)


@pytest.mark.parametrize("mode", ["reencode", "raw"])
def test_an_image_too_large_for_the_format_is_unreadable(tmp_path: Path, mode: str) -> None:
    with pytest.raises(
        UnreadableImage,
        match=r"wide\.png: 70000 x 2 pixels are more than 65500 on a side; lower --max-resolution",
    ):
        encoded(tmp_path, "wide.png", Image.new("RGB", (70_000, 2)), Encoding(max_resolution=0, mode=mode))
    assert encoded(tmp_path, "wide.png", Image.new("RGB", (70_000, 2))).width == 500


@pytest.mark.parametrize("mode", ["reencode", "lossless"])
def test_a_progressive_jpeg_of_thousands_of_scans_is_unreadable_before_it_takes_hours(
    tmp_path: Path, mode: Literal["reencode", "lossless"]
) -> None:
    """A scan that changes no block takes a dozen bytes, and there may be thousands."""
    source = jpeg(Image.new("L", (4000, 4000)), progressive=True)
    last = source.rfind(b"\xff\xda")
    bomb = source[:-2] + source[last:-2] * 600 + b"\xff\xd9"
    with pytest.raises(
        UnreadableImage, match=r"a\.jpg: 60\d scans of 4000 x 4000 pixels are more than the maximum of 536"
    ):
        encoded(tmp_path, "a.jpg", bomb, Encoding(mode=mode, max_resolution=0))


def test_a_missing_file_a_folder_and_a_link_to_itself_are_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"none\.JPEG"):
        encode_image(tmp_path / "none.JPEG", Encoding())
    (tmp_path / "folder.JPEG").mkdir()
    (tmp_path / "loop.JPEG").symlink_to("loop.JPEG")
    for name in ("folder.JPEG", "loop.JPEG"):
        with pytest.raises(UnreadableImage, match=name):
            encode_image(tmp_path / name, Encoding())


def test_what_is_not_a_file_is_unreadable_and_never_blocks(tmp_path: Path) -> None:
    """No process writes to this pipe; a path that was a file when the folder was listed may be a pipe later."""
    os.mkfifo(tmp_path / "pipe.JPEG")
    (tmp_path / "device.JPEG").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.JPEG"))
        for kind in ("pipe", "device", "socket"):
            with pytest.raises(UnreadableImage) as caught:
                encode_image(tmp_path / f"{kind}.JPEG", Encoding())
            assert caught.value.what == f"cannot read the image {tmp_path}/{kind}.JPEG: it is a {kind}"


def test_stored_rgb_jpegs_are_read_with_their_own_colours(tmp_path: Path) -> None:
    stored = jpeg(picture(90, 70), keep_rgb=True, quality=95)
    for source in (stored, without_segment(stored, 0xEE)):
        assert difference(pixels(encoded(tmp_path, "a.jpg", source).payload), np.asarray(picture(90, 70))) < 4


NO_IMAGE = f"its format is none of {', '.join(image_formats())}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"text", NO_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", NO_IMAGE),
    ],
)
def test_why_a_file_is_no_image_is_said_in_words(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.JPEG").write_bytes(content)
    with pytest.raises(UnreadableImage) as caught:
        encode_image(tmp_path / "a.JPEG", Encoding())
    assert caught.value.what == f"cannot read the image {tmp_path}/a.JPEG: {reason}"


@pytest.mark.parametrize("mode", ["reencode", "raw", "lossless"])
def test_an_image_of_more_pixels_than_the_loader_takes_is_unreadable(
    tmp_path: Path, mode: Literal["reencode", "raw", "lossless"], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fmt.MAX_PIXELS == decoder.MAX_PIXELS
    monkeypatch.setattr(fmt, "MAX_PIXELS", 90 * 70)
    for width, fits in ((90, True), (91, False)):
        (tmp_path / "a.JPEG").write_bytes(jpeg(picture(width, 70)))
        try:
            encode_image(tmp_path / "a.JPEG", Encoding(mode=mode, max_resolution=0))
            assert fits
        except UnreadableImage as error:
            assert (
                not fits
                and f"a.JPEG: {width} x 70 pixels are more than 6,300, the maximum that" in error.what
            )
        except JpegtranMissing as error:
            pytest.skip(str(error))
