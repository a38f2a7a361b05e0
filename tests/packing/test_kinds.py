"""Which files are images, by name and by first bytes, and which of Pillow's decoders may read them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, features

from alexnet_fast.packing.encode import Encoding, UnreadableImage, encode_image
from alexnet_fast.packing.kinds import (
    BUILT_WITH,
    FORMATS,
    HEAD_BYTES,
    format_of,
    image_formats,
    image_suffixes,
)
from betons import picture

NOT_READ = ("ICO", "TGA", "PCX", "SGI", "DDS", "EPS", "PDF")


def saved(kind: str, image: Image.Image | None = None) -> bytes:
    out = io.BytesIO()
    (image or picture(40, 30)).save(out, kind)
    return out.getvalue()


def test_only_decoders_of_supported_suffixes_are_tried() -> None:
    built = [name for feature, (name, _) in BUILT_WITH.items() if features.check(feature)]
    assert image_formats() == (*FORMATS, *built)
    Image.init()
    decoders = {kind for suffix, kind in Image.EXTENSION.items() if suffix in image_suffixes()}
    assert decoders - {"MPO", "JPEG"} == set(image_formats()) - {"JPEG"}, "an EPS would start Ghostscript"


@pytest.mark.parametrize("kind", (*FORMATS, "AVIF", "JPEG2000"))
def test_an_image_is_known_by_its_first_bytes(kind: str) -> None:
    if kind not in image_formats():
        pytest.skip(f"this Pillow was built without {kind}")
    assert format_of(saved(kind)[:HEAD_BYTES]) == kind


def test_other_kinds_and_text_are_not() -> None:
    for kind in NOT_READ:
        assert format_of(saved(kind)[:HEAD_BYTES]) == "", kind
    for text in (
        b"",
        b"BM",
        b"BMW and others ..",
        b"P",
        b"P5 is a number",
        b"RIFF....WAVEfmt ",
        b"....ftypheic....",
    ):
        assert format_of(text) == ""


@pytest.mark.parametrize("name", ["x.jfif", "x.jpe", "x.jp2", "x.avif", "x.pbm", "x"])
def test_what_pillow_reads_is_encoded_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    suffix = Path(name).suffix
    if suffix and suffix not in image_suffixes():
        pytest.skip(f"this Pillow was built without {suffix}")
    Image.init()
    picture(40, 30).save(tmp_path / name, Image.EXTENSION.get(suffix, "JPEG"))
    sample = encode_image(tmp_path / name, Encoding())
    assert (sample.width, sample.height) == (40, 30)


@pytest.mark.parametrize("kind", NOT_READ)
def test_a_kind_that_is_not_read_is_unreadable_under_any_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.jpg").write_bytes(saved(kind))
    with pytest.raises(UnreadableImage, match="its format is none of JPEG, PNG, PPM, BMP, TIFF, WEBP, GIF"):
        encode_image(tmp_path / "x.jpg", Encoding())
