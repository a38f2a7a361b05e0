"""Pixels by libturbojpeg in the packer: Pillow's to the bit, or Pillow's own."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_fast.common.libturbojpeg import ENVIRONMENT
from alexnet_fast.packing import libjpeg
from alexnet_fast.packing.encode import Encoding, encode_image
from alexnet_fast.packing.lossless import read_frame
from betons import cjpeg, jpeg, photo_paths, picture

SIZES = [(1, 1), (3, 2), (7, 300), (15, 15), (16, 16), (17, 33), (500, 375)]
SAMPLINGS = {"4:4:4": "1x1", "4:2:2": "2x1", "4:2:0": "2x2"}


@pytest.fixture(autouse=True, scope="module")
def library() -> None:
    if libjpeg.library() is None:
        pytest.skip("libturbojpeg is not installed")


def both(source: bytes, shrink: int = 1) -> tuple[Image.Image | None, Image.Image]:
    """The pixels by libturbojpeg and by Pillow, drafted for a size of 1/shrink."""
    frame = read_frame(source)
    assert frame is not None
    with Image.open(io.BytesIO(source)) as image:
        width = image.width
        drafted = image.draft(None, (image.width // shrink, image.height // shrink))
        scale = round(width / drafted[1][2]) if drafted else 1
        ours = libjpeg.pixels(source, frame.factors, image, scale)
        image.load()
        return ours, image


def same(ours: Image.Image | None, pillow: Image.Image) -> bool:
    return ours is not None and (ours.mode, ours.size) == (pillow.mode, pillow.size) and ours.tobytes() == pillow.tobytes()  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_every_usual_jpeg_of_any_size_has_pillows_pixels(
    size: tuple[int, int], sampling: str, progressive: bool
) -> None:
    assert same(*both(jpeg(picture(*size), subsampling=sampling, progressive=progressive)))
    assert same(*both(jpeg(picture(*size).convert("L"), progressive=progressive)))


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("size", [(17, 19), (40, 33), (203, 149), (500, 375)])
def test_a_jpeg_that_is_shrunk_while_decoded_has_them_too(
    size: tuple[int, int], sampling: str, shrink: int
) -> None:
    for source in (jpeg(picture(*size), subsampling=sampling), jpeg(picture(*size).convert("L"))):
        ours, pillow = both(source, shrink)
        assert ours is None if max(pillow.size) < 16 else same(ours, pillow)


def test_real_images_have_pillows_pixels_and_no_warning() -> None:
    for path in photo_paths(60):
        ours, pillow = both(path.read_bytes())
        assert pillow.mode == "CMYK" or same(ours, pillow), path


@pytest.mark.parametrize("sampling", ["1x2", "4x1", "4x2", "3x1", "1x1,2x1,1x1"])
def test_what_is_not_proven_is_left_to_pillow(sampling: str) -> None:
    assert both(cjpeg(picture(203, 149), "-sample", sampling))[0] is None


def test_a_library_that_gives_other_pixels_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.JPEG").write_bytes(jpeg(picture(203, 149)))
    expected = encode_image(tmp_path / "a.JPEG", Encoding())
    decode = libjpeg._pixels

    def other(source: bytes, mode: str, width: int, height: int) -> Image.Image | None:
        image = decode(source, mode, width, height)
        if image is not None and mode == "RGB":
            image.putpixel((width // 2, height // 2), (1, 2, 3))
        return image

    monkeypatch.setattr(libjpeg, "_pixels", other)
    libjpeg.proven.cache_clear()
    try:
        assert libjpeg.proven() == {("L", ((1, 1),))}
        assert encode_image(tmp_path / "a.JPEG", Encoding()) == expected
    finally:
        libjpeg.proven.cache_clear()


def test_the_fast_decoder_is_used_for_most_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else looking for corrupt ones would cost a second decode."""
    (tmp_path / "a.JPEG").write_bytes(jpeg(picture(203, 149)))
    libjpeg.proven()
    monkeypatch.setattr(libjpeg, "warning", None)
    monkeypatch.setattr(Image.Image, "load", None)
    assert libjpeg.proven() == {("RGB", factors) for factors in libjpeg.SUBSAMPLINGS.values()} | {("L", ((1, 1),))}  # fmt: skip
    with Image.open(tmp_path / "a.JPEG") as image:
        frame = read_frame((tmp_path / "a.JPEG").read_bytes())
        assert frame and libjpeg.pixels((tmp_path / "a.JPEG").read_bytes(), frame.factors, image, 1)


def test_a_packer_that_looks_for_corrupt_images_starts_without_numba(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "a.JPEG").write_bytes(jpeg(picture(64, 48)))
    code = (
        "import sys; from pathlib import Path; from alexnet_fast.packing import encode, libjpeg, writer\n"
        f"encode.encode_image(Path({str(tmp_path / 'a.JPEG')!r}), encode.Encoding())\n"
        "print(libjpeg.library.cache_info().currsize, sorted({'torch', 'numba', 'llvmlite'} & set(sys.modules)))"
    )
    run = run_cli("-c", code)
    assert (run.code, run.stdout.strip()) == (0, "1 []"), run.stderr


def test_without_the_library_a_packing_says_once_what_it_does_not_look_for(
    run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "data/train/ant").mkdir(parents=True)
    for k in range(3):
        (tmp_path / f"data/train/ant/{k}.JPEG").write_bytes(jpeg(picture(64, 48, k)))
    command = ("tools/write_beton.py", "--data", tmp_path / "data", "--workers", 2)
    absent = {ENVIRONMENT: str(tmp_path / "libnothing.so")}
    with_it, without = (
        run_cli(*command, "--out", tmp_path / name, env=env) for name, env in (("a", {}), ("b", absent))
    )
    sentence = "corrupt JPEGs were not looked for: libturbojpeg was not found; install it: "
    assert with_it.code == without.code == 0, without.stderr
    assert without.stdout.count(sentence) == 1 and sentence not in with_it.stdout
    assert (tmp_path / "a/train.beton").read_bytes() == (tmp_path / "b/train.beton").read_bytes()
