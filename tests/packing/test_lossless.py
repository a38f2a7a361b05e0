"""Mode lossless: the source's own coefficients with restart markers, and what happens to images that have none to keep."""

from __future__ import annotations

import importlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import Beton
from alexnet_fast.decode.jpeg_header import read_header
from alexnet_fast.decode.status import OK, UNSUPPORTED
from alexnet_fast.errors import UserError
from alexnet_fast.packing import lossless
from alexnet_fast.packing.encode import Encoding, Sample, UnreadableImage, encode_image, keep_jpeg
from alexnet_fast.packing.errors import InputUnreadable, WorkerDied
from alexnet_fast.packing.lossless import JpegtranMissing, read_frame
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import (
    check_tiles,
    cjpeg,
    difference,
    jpeg,
    jpegtran,
    loaded,
    photo_paths,
    picture,
    pixels,
    read_with_ffcv,
    segments,
    without_segment,
    write,
)
from coefficients import coefficients, geometry, same_coefficients

LOSSLESS = Encoding(mode="lossless", max_resolution=0, restart_mcus=4)
SIZE = (203, 149)  # complete MCUs in no sampling
NOTES = {0xE1: "EXIF", 0xE2: "profile", 0xED: "IPTC", 0xEE: "Adobe", 0xFE: "comment"}


@pytest.fixture(autouse=True, scope="module")
def tool() -> None:
    """The program that the mode needs."""
    try:
        lossless.jpegtran()
    except JpegtranMissing as error:
        pytest.skip(str(error))


def adobe(image: Image.Image) -> bytes:
    """YCbCr as Photoshop marks it: Adobe's segment with transform 1, no JFIF."""
    plain = without_segment(jpeg(image), 0xE0)
    return plain[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + b"\x01" + plain[2:]


def noted(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    return jpeg(image, exif=exif, icc_profile=b"p" * 70_000, comment=b"hello")


def without_huffman_tables(source: bytes) -> bytes:
    while 0xC4 in segments(source):
        source = without_segment(source, 0xC4)
    return source


def several_scans(image: Image.Image) -> bytes:
    """One sequential scan per component, which cannot be cut into tiles as it is."""
    with tempfile.NamedTemporaryFile("w") as script:
        script.write("0;\n1;\n2;\n")
        script.flush()
        return subprocess.run(
            ["jpegtran", "-scans", script.name], input=jpeg(image), capture_output=True, check=True
        ).stdout


def saved(**options: object) -> Callable[[Image.Image], bytes]:
    return lambda image: jpeg(image, **options)


def made(*options: str) -> Callable[[Image.Image], bytes]:
    return lambda image: cjpeg(image, *options)


# Kinds of JPEG -> its MCU in pixels, and how to make one.
KEPT: dict[str, tuple[tuple[int, int], Callable[[Image.Image], bytes]]] = {
    "4:4:4": ((8, 8), saved(subsampling="4:4:4")),
    "4:2:2": ((16, 8), saved(subsampling="4:2:2")),
    "4:2:0": ((16, 16), saved(subsampling="4:2:0")),
    "4:4:0": ((8, 16), made("-sample", "1x2")),
    "4:4:0, a 4:2:2 turned": ((8, 16), lambda image: jpegtran(jpeg(image.transpose(Image.Transpose.TRANSPOSE), subsampling="4:2:2"), "-transpose")),
    "4:1:1": ((32, 8), made("-sample", "4x1")),
    "4:4:4 by equal factors of 2": ((16, 8), made("-sample", "2x1,2x1,2x1")),
    "grey": ((8, 8), lambda image: jpeg(image.convert("L"))),
    "grey of factors 2x2": ((8, 8), made("-grayscale", "-sample", "2x2")),
    "progressive 4:4:4": ((8, 8), saved(subsampling="4:4:4", progressive=True)),
    "progressive 4:2:0": ((16, 16), saved(subsampling="4:2:0", progressive=True)),
    "progressive grey": ((8, 8), lambda image: jpeg(image.convert("L"), progressive=True)),
    "optimized": ((16, 16), saved(optimize=True)),
    "arithmetic": ((16, 16), made("-arithmetic")),
    "arithmetic progressive": ((16, 16), made("-arithmetic", "-progressive")),
    "a scan a component": ((16, 16), several_scans),
    "with markers of its own": ((16, 16), lambda image: jpegtran(jpeg(image), "-restart", "3B")),
    "with a tile table of its own": ((16, 16), lambda image: kept(jpeg(image))),
    "quality 100": ((16, 16), saved(quality=100, subsampling="4:2:0")),
    "16-bit quantisation tables": ((16, 16), made("-quality", "3")),
    "no Huffman tables, as in motion JPEG": ((16, 16), lambda image: without_huffman_tables(jpeg(image))),
    "EXIF, profile and comment": ((16, 16), noted),
    "Adobe's YCbCr": ((16, 16), adobe),
}  # fmt: skip


def stored(folder: Path, source: bytes, name: str = "a.JPEG", encoding: Encoding = LOSSLESS) -> Sample:
    """The sample made from a file of these bytes."""
    (folder / name).write_bytes(source)
    return encode_image(folder / name, encoding)


def kept(source: bytes) -> bytes:
    """A source that has our markers and table already."""
    frame = read_frame(source)
    assert frame is not None
    return keep_jpeg(source, frame, LOSSLESS).payload


@pytest.mark.parametrize("optimize", [False, True])
def test_every_image_keeps_its_coefficients_size_and_quantisation(optimize: bool) -> None:
    encoding = Encoding(mode="lossless", max_resolution=0, optimize=optimize)
    for path in photo_paths(60):
        sample = encode_image(path, encoding)
        source = path.read_bytes()
        assert same_coefficients(source, sample.payload), path
        assert (sample.width, sample.height) == Image.open(path).size and sample.converted_from == ""
        frame = read_frame(source)
        assert frame is not None
        check_tiles(sample.payload, sample.width, sample.height, frame.mcu_px)


@pytest.mark.parametrize("kind", KEPT)
def test_every_kind_of_jpeg_keeps_its_coefficients_and_becomes_a_grid_of_tiles(
    tmp_path: Path, kind: str
) -> None:
    mcu_px, make = KEPT[kind]
    source = make(picture(*SIZE))
    sample = stored(tmp_path, source)
    assert same_coefficients(source, sample.payload)
    assert np.array_equal(pixels(source), pixels(sample.payload))
    assert (sample.mode, sample.width, sample.height, sample.converted_from) == (fmt.JPEG, *SIZE, "")
    check_tiles(sample.payload, *SIZE, mcu_px)
    found = segments(sample.payload)
    assert (0xC0 in found or 0xC1 in found) and 0xC2 not in found
    assert not found.keys() & NOTES.keys()


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (8, 8), (9, 17), (464, 40), (16 * 29, 64)])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_images_of_any_size_keep_their_coefficients(
    tmp_path: Path, size: tuple[int, int], sampling: str
) -> None:
    source = jpeg(picture(*size), subsampling=sampling)
    sample = stored(tmp_path, source)
    assert same_coefficients(source, sample.payload)
    check_tiles(sample.payload, *size, KEPT[sampling][0])


def test_an_image_of_more_tiles_than_a_table_holds_gets_larger_ones(tmp_path: Path) -> None:
    source = jpeg(picture(1000, 750).resize((4000, 3000)), subsampling="4:4:4")
    sample = stored(tmp_path, source)
    assert same_coefficients(source, sample.payload)
    check_tiles(sample.payload, 4000, 3000, (8, 8))
    assert int.from_bytes(segments(sample.payload)[0xDD][1], "big") == 10


@pytest.mark.parametrize(("wanted", "interval"), [(1, 1), (4, 4), (8, 8), (100, 24), (0, None)])
def test_the_interval_of_markers_is_as_near_to_what_was_asked_as_the_width_allows(
    tmp_path: Path, wanted: int, interval: int | None
) -> None:
    source = jpeg(picture(192, 64), subsampling="4:4:4")  # 24 MCUs a row
    sample = stored(
        tmp_path, source, encoding=Encoding(mode="lossless", max_resolution=0, restart_mcus=wanted)
    )
    found = segments(sample.payload)
    assert (int.from_bytes(found[0xDD][1], "big") if interval else found.get(0xDD)) == interval
    assert (fmt.TILE_MARKER in found) == (wanted != 0)
    assert same_coefficients(source, sample.payload)


def test_huffman_tables_of_its_own_make_an_image_smaller_and_change_no_coefficient(tmp_path: Path) -> None:
    source = jpeg(picture(*SIZE))
    plain, optimal = (
        stored(tmp_path, source, encoding=Encoding(mode="lossless", max_resolution=0, optimize=optimize)).payload
        for optimize in (False, True)
    )  # fmt: skip
    assert len(optimal) < len(plain) and same_coefficients(plain, optimal)


def test_one_coefficient_that_differs_is_detected() -> None:
    """The comparison that these tests use can fail."""
    source = jpeg(picture(*SIZE))
    other = picture(*SIZE).copy()
    other.putpixel((100, 100), (255, 0, 255))
    assert not same_coefficients(source, jpeg(other)) and not same_coefficients(
        source, jpeg(picture(*SIZE), quality=91)
    )
    assert [plane.shape for plane in coefficients(source)] == [(19, 26, 64), (10, 13, 64), (10, 13, 64)]
    assert geometry(source) != geometry(jpeg(picture(*SIZE), quality=91))


CONVERTED: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "CMYK": ("CMYK JPEG", lambda image: jpeg(image.convert("CMYK"), quality=95)),
    "RGB by Adobe's mark": ("JPEG that stores RGB", saved(keep_rgb=True, quality=95)),
    "RGB by its component ids": ("JPEG that stores RGB", lambda image: without_segment(jpeg(image, keep_rgb=True, quality=95), 0xEE)),
    "4:1:0": ("JPEG of sampling 4x2,1x1,1x1", made("-sample", "4x2")),
    "three to one": ("JPEG of sampling 3x1,1x1,1x1", made("-sample", "3x1")),
    "chroma finer than luma": ("JPEG of sampling 1x1,2x1,1x1", made("-sample", "1x1,2x1,1x1")),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONVERTED)
def test_a_jpeg_that_no_loader_decodes_is_re_encoded_at_its_own_size_and_reported(
    tmp_path: Path, kind: str
) -> None:
    expected, make = CONVERTED[kind]
    source = make(picture(600, 449))
    sample = stored(tmp_path, source)
    assert sample.converted_from == expected
    assert (sample.width, sample.height) == (600, 449)
    assert difference(pixels(sample.payload), pixels(source)) < 4
    check_tiles(sample.payload, 600, 449)


@pytest.mark.parametrize("name", ["png.JPEG", "a.png", "a.bmp", "a.gif"])
def test_an_image_of_another_format_is_encoded_at_its_own_size_and_reported(
    tmp_path: Path, name: str
) -> None:
    kind = "PNG" if name == "png.JPEG" else Path(name).suffix[1:].upper()
    picture(600, 449).save(tmp_path / name, kind)
    sample = encode_image(tmp_path / name, LOSSLESS)
    assert kind in sample.converted_from and (sample.width, sample.height) == (600, 449)


@pytest.mark.parametrize("kind", [*KEPT, *CONVERTED])
def test_what_is_kept_is_what_the_loader_can_decode(tmp_path: Path, kind: str) -> None:
    """The packer's reading of a header agrees with the loader's, on the source and on what is stored."""
    source = (KEPT.get(kind) or CONVERTED[kind])[1](picture(*SIZE))
    if "no Huffman" not in kind:  # jpegtran writes those that the standard names
        status = read_header(np.frombuffer(source, np.uint8)).status
        assert status == (UNSUPPORTED if kind in CONVERTED or "arithmetic" in kind else OK)
    payload = stored(tmp_path, source).payload
    header = read_header(np.frombuffer(payload, np.uint8))
    assert (header.status, header.width, header.height) == (OK, *SIZE)
    assert header.table and header.cuttable == ("equal factors" not in kind)


def test_the_loader_makes_the_same_pixels_of_tiles_as_of_the_complete_originals(tmp_path: Path) -> None:
    # Not those whose originals the loader has no decoder, or no tables, for.
    makers = [
        make for kind, (_, make) in KEPT.items() if "arithmetic" not in kind and "no Huffman" not in kind
    ]
    sources = [make(picture(*SIZE, seed)) for seed, make in enumerate(makers)]
    sources += [path.read_bytes() for path in photo_paths(40)]
    payloads = [stored(tmp_path, source).payload for source in sources]
    for options in ({"train": True, "seed": 3, "epoch": 1}, {"train": False}):
        originals, tiles = (
            loaded(write(tmp_path / f"{name}.beton", entries), **options)
            for name, entries in (("originals", sources), ("tiles", payloads))
        )
        assert originals.keys() == tiles.keys() and len(originals) == len(sources)
        for k in originals:
            assert np.array_equal(originals[k], tiles[k]), f"sample {k} {options}"


def test_ffcv_decodes_a_lossless_file_as_it_decodes_the_originals(
    tmp_path: Path, require: Callable[[str], Any]
) -> None:
    require("ffcv")
    makers = [
        KEPT[kind][1]
        for kind in ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey", "progressive 4:2:0", "optimized")
    ]
    sources = [make(picture(*SIZE, seed)) for seed, make in enumerate(makers)]
    for k, source in enumerate(sources):
        (tmp_path / f"{k}.jpg").write_bytes(source)
    split = ImageFolder(
        tmp_path, [f"{k}.jpg" for k in range(len(sources))], list(range(len(sources))), list("abcdefgh")
    )
    ours = write_beton(split, tmp_path / "ours.beton", LOSSLESS, workers=1).path
    images, labels = read_with_ffcv(ours)
    originals, _ = read_with_ffcv(write(tmp_path / "originals.beton", sources))
    assert labels.tolist() == list(range(len(sources)))
    assert np.array_equal(images, originals)
    assert max(difference(image, pixels(source)) for image, source in zip(images, sources)) < 2


@pytest.mark.parametrize("os_cache", [True, False])
def test_ffcv_reads_a_file_whose_pages_grew_for_a_large_image(
    tmp_path: Path, require: Callable[[str], Any], os_cache: bool
) -> None:
    require("ffcv")
    libffcv = importlib.import_module("ffcv.libffcv")
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8)
    for k in range(4):
        image = Image.fromarray(noise) if k == 2 else picture(500, 375, k).resize((1600, 1600))
        image.save(tmp_path / f"{k}.jpg", quality=100, subsampling="4:4:4")
    split = ImageFolder(tmp_path, [f"{k}.jpg" for k in range(4)], [0, 1, 2, 3], list("abcd"))
    path = write_beton(split, tmp_path / "a.beton", LOSSLESS, workers=1).path
    with Beton(path) as beton:
        assert beton.sizes[2] > fmt.DEFAULT_PAGE_SIZE and beton.page_size == 2 * fmt.DEFAULT_PAGE_SIZE
    images, labels = read_with_ffcv(path, os_cache=os_cache)
    assert labels.tolist() == [0, 1, 2, 3]
    for k, image in enumerate(images):
        alone = np.zeros_like(image)
        libffcv.imdecode(
            np.fromfile(tmp_path / f"{k}.jpg", np.uint8), alone, *alone.shape[:2], *alone.shape[:2]
        )
        assert np.array_equal(image, alone)


@pytest.mark.parametrize("kind", ["4:4:4", "4:2:0", "progressive 4:2:0", "grey", "arithmetic"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_a_truncated_jpeg_is_unreadable(tmp_path: Path, kind: str, part: float) -> None:
    source = KEPT[kind][1](picture(*SIZE))
    with pytest.raises(
        UnreadableImage,
        match=r"cannot read the image .*a\.JPEG: jpegtran says: .+; pack with --on-error skip",
    ):
        stored(tmp_path, source[: int(part * len(source))])


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "bytes before a segment": lambda source: source[:2] + b"\x00" * 9 + source[2:],
    "no quantisation table": lambda source: without_segment(without_segment(source, 0xDB), 0xDB),
    "no picture": lambda source: source[: segments(source)[0][0]],
    "a header alone": lambda source: source[:100],
    "nothing": lambda source: b"",
    "text": lambda source: b"this is no image",
    "a size of nothing": lambda source: source[: (at := segments(source)[0xC0][0]) + 5] + bytes(4) + source[at + 9 :],
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_corrupt_jpeg_is_unreadable_and_named(tmp_path: Path, fault: str) -> None:
    with pytest.raises(
        UnreadableImage, match=r"cannot read the image .*a\.JPEG: .+; pack with --on-error skip"
    ):
        stored(tmp_path, FAULTS[fault](jpeg(picture(*SIZE))))


def test_bytes_after_the_end_of_a_jpeg_do_not_matter(tmp_path: Path) -> None:
    source = jpeg(picture(*SIZE))
    assert same_coefficients(stored(tmp_path, source + b"trailer" * 100).payload, source)


def test_a_size_to_shrink_to_is_an_error_in_this_mode() -> None:
    with pytest.raises(
        UserError,
        match="keeps every image's own size, so max_resolution 500 and min_side 0 cannot apply; give 0",
    ):
        Encoding(mode="lossless")
    with pytest.raises(UserError, match="min_side 256 cannot apply"):
        Encoding(mode="lossless", max_resolution=0, min_side=256)


@pytest.fixture
def mixed(tmp_path: Path) -> ImageFolder:
    """A folder of kept, converted and corrupt images, with the labels 0, 1, 2, ..."""
    (tmp_path / "images").mkdir()
    kinds = {**{f"kept{k}": make for k, (_, make) in enumerate(KEPT.values())}, **{f"made{k}": make for k, (_, make) in enumerate(CONVERTED.values())}}  # fmt: skip
    for name, make in kinds.items():
        (tmp_path / f"images/{name}.JPEG").write_bytes(make(picture(*SIZE)))
    picture(*SIZE).save(tmp_path / "images/png.JPEG", "PNG")
    (tmp_path / "images/zero.JPEG").write_bytes(jpeg(picture(*SIZE))[:2000])
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    return ImageFolder(
        tmp_path / "images", names, list(range(len(names))), [str(k) for k in range(len(names))]
    )


def test_the_sidecar_lists_the_mode_what_was_re_encoded_and_what_was_skipped(
    mixed: ImageFolder, tmp_path: Path
) -> None:
    packed = write_beton(mixed, tmp_path / "a.beton", LOSSLESS, workers=1, on_error="skip")
    sidecar = Beton(packed.path).sidecar
    assert sidecar is not None
    assert sidecar["settings"] == {
        "mode": "lossless", "max_resolution": 0, "min_side": 0, "quality": 90, "restart_mcus": 4, "optimize": False
    }  # fmt: skip
    assert sidecar["skipped"] == packed.skipped == ["zero.JPEG"]
    expected = {f"made{k}.JPEG": kind for k, (kind, _) in enumerate(CONVERTED.values())}
    assert sidecar["converted"] == packed.converted == {**expected, "png.JPEG": "PNG named .JPEG"}
    assert sidecar["counts"]["converted"]["JPEG that stores RGB"] == 2
    with Beton(packed.path) as beton:
        for k, name in enumerate(sidecar["paths"]):
            if name.startswith("kept"):
                assert same_coefficients(beton.payload(k).tobytes(), (mixed.root / name).read_bytes()), name


def test_the_bytes_do_not_depend_on_the_number_of_workers(mixed: ImageFolder, tmp_path: Path) -> None:
    for workers in (1, 3):
        write_beton(mixed, tmp_path / f"{workers}.beton", LOSSLESS, workers=workers, on_error="skip")
    for suffix in ("beton", "beton.json"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"3.{suffix}").read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_jpeg_ends_the_packing_unless_it_may_be_skipped(
    mixed: ImageFolder, tmp_path: Path, workers: int
) -> None:
    with pytest.raises(UnreadableImage, match=r"zero\.JPEG: jpegtran says: Premature end of JPEG file"):
        write_beton(mixed, tmp_path / "out/a.beton", LOSSLESS, workers=workers)
    assert not (tmp_path / "out/a.beton").exists()


@pytest.fixture
def no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A PATH of one folder, empty so far."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    lossless.jpegtran.cache_clear()
    yield tmp_path / "bin"
    lossless.jpegtran.cache_clear()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (None, "needs libjpeg-turbo's program jpegtran, which was not found"),
        ("echo 'mozjpeg version 4.1.1' >&2", r"bin/jpegtran says that it is 'mozjpeg version 4\.1\.1', and --mode lossless needs libjpeg-turbo's"),
        ("exit 1", "bin/jpegtran says that it is 'of no version'"),
    ],
)  # fmt: skip
def test_without_libjpeg_turbos_jpegtran_nothing_is_started_and_the_error_says_what_to_install(
    mixed: ImageFolder, no_tool: Path, tmp_path: Path, script: str | None, expected: str
) -> None:
    if script:
        (no_tool / "jpegtran").write_text(f"#!/bin/sh\n{script}\n")
        (no_tool / "jpegtran").chmod(0o755)
    with pytest.raises(JpegtranMissing, match=f"{expected}.*; install it: .*libjpeg-turbo-progs.*conda"):
        write_beton(mixed, tmp_path / "out/a.beton", LOSSLESS, workers=1, on_error="skip")
    assert not (tmp_path / "out").exists()
    with pytest.raises(JpegtranMissing):
        stored(tmp_path, jpeg(picture(40, 30)))


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        ("kill -9 $$", WorkerDied, r"memory ran out while encoding .*a\.JPEG; no image of .* is packed yet; free some"),
        ("ulimit -v 20000", WorkerDied, r"memory ran out while encoding .*a\.JPEG; no image"),
        ("rm $0", InputUnreadable, r"cannot run .*/jpegtran: No such file or directory; 1 of 2 images of .* are packed, .*; fix that first"),
        ("kill -11 $$", UnreadableImage, r"cannot read the image .*a\.JPEG: jpegtran says: it ended with -11; pack with --on-error"),
    ],
)  # fmt: skip
def test_a_jpegtran_that_has_no_memory_or_cannot_start_is_no_bad_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: type[Exception], sentence: str
) -> None:
    """A crash is blamed on the image; out of memory or a failed start is not, since nothing shows that the image is bad."""
    large = jpeg(picture(500, 375).resize((4000, 3000)), progressive=True)
    (tmp_path / "a.JPEG").write_bytes(large)
    program = tmp_path / "jpegtran"
    program.write_text(f"#!/bin/sh\n[ $1 = -version ] || {{ {script}; }}\nexec {lossless.jpegtran()} $*\n")
    program.chmod(0o755)
    monkeypatch.setattr(lossless, "jpegtran", lambda: str(program))
    skip: Literal["raise", "skip"] = "raise" if error is UnreadableImage else "skip"
    with pytest.raises(error, match=sentence):
        write_beton(
            ImageFolder(tmp_path, ["a.JPEG", "a.JPEG"], [0, 0], ["only"]),
            tmp_path / "a.beton",
            LOSSLESS,
            workers=1,
            on_error=skip,
        )
