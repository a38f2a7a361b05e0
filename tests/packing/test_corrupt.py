"""JPEGs whose decoder warns: harmless faults have no effect, corrupt images are listed, in every mode."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import UserError
from alexnet_fast.inspection.verify import verify
from alexnet_fast.packing import corrupt, libjpeg, lossless
from alexnet_fast.packing.encode import Encoding, Sample, encode_image
from alexnet_fast.packing.errors import CorruptImage, InputChanged, UnreadableImage
from alexnet_fast.packing.lossless import JpegtranMissing
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import cjpeg, jpeg, jpegtran, photo_paths, picture, pixels, segments, without_segment
from coefficients import same_coefficients

Mode = Literal["reencode", "raw", "lossless"]
SIZE = (203, 149)
MODES: tuple[Mode, ...] = ("reencode", "raw", "lossless")
EOI = b"\xff\xd9"


@pytest.fixture(autouse=True, scope="module")
def tool() -> None:
    """The program that mode lossless needs."""
    try:
        lossless.jpegtran()
    except JpegtranMissing as error:
        pytest.skip(str(error))


def packed(folder: Path, source: bytes, mode: Mode) -> Sample:
    (folder / "a.JPEG").write_bytes(source)
    return encode_image(folder / "a.JPEG", Encoding(mode=mode, max_resolution=0))


def plain(**options: object) -> bytes:
    return jpeg(picture(*SIZE), **options)


def before(marker: int, junk: bytes) -> Callable[[bytes], bytes]:
    def put(source: bytes) -> bytes:
        at, _ = segments(source)[marker]
        return source[:at] + junk + source[at:]

    return put


def adobe(transform: int) -> Callable[[bytes], bytes]:
    """Replace JFIF's segment by Adobe's."""
    segment = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transform])
    return lambda source: source[:2] + segment + without_segment(source, 0xE0)[2:]


def with_scan_parameters(*values: int) -> Callable[[bytes], bytes]:
    def put(source: bytes) -> bytes:
        at, content = segments(source)[0xDA]
        end = at + 4 + len(content)
        return source[: end - 3] + bytes(values) + source[end:]

    return put


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "bytes before the quantisation tables": before(0xDB, bytes(5)),
    "bytes before the Huffman tables": before(0xC4, b"hello"),
    "bytes before the frame": before(0xC0, b"\x00"),
    "bytes before the scan": before(0xDA, b"\x01\x02\x03"),
    "a comment longer than it says": before(0xDB, b"\xff\xfe\x00\x06made by a camera"),
    "JFIF of revision 2": lambda source: source.replace(b"JFIF\x00\x01", b"JFIF\x00\x02", 1),
    "JFIF of revision 0": lambda source: source.replace(b"JFIF\x00\x01", b"JFIF\x00\x00", 1),
    "Adobe's code 2 of three components": adobe(2),
    "Adobe's code 7": adobe(7),
    "a scan's parameters of 0, 0, 0": with_scan_parameters(0, 0, 0),
    "a scan's parameters of 1, 63, 1": with_scan_parameters(1, 63, 1),
    "zeros before the end": lambda source: source[:-2] + bytes(40) + EOI,
    "zeros and fill bytes before the end": lambda source: source[:-2] + bytes(40) + b"\xff\xff\xff" + EOI,
    "zeros in place of the end": lambda source: source[:-2] + bytes(512),
    "no end": lambda source: source[:-2],
    "several of them": lambda source: before(0xDB, bytes(5))(adobe(7)(source))[:-2] + bytes(512),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", HARMLESS)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_what_costs_no_coefficient_changes_nothing_that_is_stored(
    tmp_path: Path, what: str, mode: Mode, subsampling: str
) -> None:
    source = plain(subsampling=subsampling)
    odd = HARMLESS[what](source)
    assert odd != source
    sample, expected = packed(tmp_path, odd, mode), packed(tmp_path, source, mode)
    assert sample == expected and sample.corrupt == "" and sample.converted_from == ""
    if mode == "lossless":
        assert same_coefficients(sample.payload, source)


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_end_marker_is_no_fault_of_a_large_image_that_is_shrunk(tmp_path: Path, mode: Mode) -> None:
    source = jpeg(picture(500, 375).resize((1600, 1200)))
    (tmp_path / "a.JPEG").write_bytes(source)
    (tmp_path / "b.JPEG").write_bytes(source[:-2])
    encoding = Encoding(mode=mode, max_resolution=0 if mode == "lossless" else 300)
    assert encode_image(tmp_path / "b.JPEG", encoding) == encode_image(tmp_path / "a.JPEG", encoding)


def flipped(source: bytes) -> bytes:
    bad, scan = bytearray(source), segments(source)[0][0]
    for k in range(40):
        at = scan + (len(source) - scan) * (2 * k + 1) // 82
        while 0xFF in (bad[at - 1], bad[at], bad[at] ^ 0x10):  # no marker comes or goes
            at += 1
        bad[at] ^= 0x10
    return bytes(bad)


def zeroed(source: bytes, count: int = 512) -> bytes:
    middle = (segments(source)[0][0] + len(source)) // 2
    return source[:middle] + bytes(count) + source[middle + count :]


def scans(source: bytes, keep: int) -> bytes:
    """A JPEG of only its first scans, and its end marker."""
    starts = [found.start() for found in re.finditer(rb"\xff\xda", source)]
    following = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]").search(source, starts[keep - 1] + 2)
    assert following
    return source[: following.start()] + EOI


def of_components(source: bytes, folder: Path) -> bytes:
    (folder / "scans").write_text("0;\n1;\n2;\n")
    return jpegtran(source, "-scans", str(folder / "scans"))


DATA = r"Corrupt JPEG data: (premature end of data segment|bad Huffman code|\d+ extraneous bytes before marker 0xd9)"
CORRUPT: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "forty bits flipped": (DATA, lambda _: flipped(plain())),
    "512 bytes zeroed": (DATA, lambda _: zeroed(plain(quality=95))),
    "512 bytes zeroed, and as many blocks as before": ("it contains 64 zero bytes in a row, which no image has", lambda _: zeroed(plain())),
    "zeroed, of grey": ("it contains 64 zero bytes in a row, which no image has", lambda _: zeroed(jpeg(picture(*SIZE, 3).convert("L")), 64)),
    "bytes of another image amidst": (DATA, lambda _: (source := plain())[:3000] + bytes(range(200)) + source[3200:]),
    "half of it and an end": (DATA, lambda _: plain()[: len(plain()) // 2] + EOI),
    "grey, half of it and an end": (DATA, lambda _: (source := jpeg(picture(*SIZE).convert("L")))[: len(source) // 2] + EOI),
    "a restart marker of another number": (r"Corrupt JPEG data: found marker 0xd\d instead of RST\d", lambda _: jpegtran(plain(), "-restart", "4B").replace(b"\xff\xd1", b"\xff\xd5", 1)),
    "hidden by bytes in the header": (DATA, lambda _: before(0xDB, bytes(5))(zeroed(plain(quality=95)))),
    "hidden by a scan's parameters": (DATA, lambda _: with_scan_parameters(0, 0, 0)(zeroed(plain(quality=95)))),
    "another sampling than is proven": (DATA, lambda _: (source := cjpeg(picture(*SIZE), "-sample", "1x2"))[: len(source) // 2] + EOI),
    "a progressive JPEG of its first scan": ("it is a progressive JPEG of which only the first 1 scan is present", lambda _: scans(plain(progressive=True), 1)),
    "a progressive JPEG less its last scan": ("it is a progressive JPEG of which only the first 9 scans are present", lambda _: scans(plain(progressive=True), 9)),
    "a scan a component, less the last": ("it is a JPEG of which only the first 2 scans are present", lambda folder: scans(of_components(plain(), folder), 2)),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", CORRUPT)
def test_a_corrupt_jpeg_is_packed_as_pillow_reads_it_and_reported(
    tmp_path: Path, what: str, mode: Mode
) -> None:
    expected, make = CORRUPT[what]
    source = make(tmp_path)
    sample = packed(tmp_path, source, mode)
    who = "" if expected.startswith("it ") else "jpegtran says: " if mode == "lossless" else "libjpeg says: "
    assert re.fullmatch(who + expected, sample.corrupt)
    if mode == "raw":
        assert sample.payload == pixels(source).tobytes()
    else:
        again = packed(tmp_path, jpeg(Image.fromarray(pixels(source)), quality=100), "reencode")
        assert np.abs(pixels(sample.payload).astype(int) - pixels(again.payload)).mean() < 4
    assert ("corrupt JPEG" in sample.converted_from) == (mode == "lossless")


def test_a_corrupt_cmyk_jpeg_is_reported(tmp_path: Path) -> None:
    source = jpeg(picture(*SIZE).convert("CMYK"))
    for mode in MODES:
        assert packed(tmp_path, source, mode).corrupt == ""
        sample = packed(tmp_path, source[: len(source) // 2] + EOI, mode)
        assert sample.corrupt == "libjpeg says: Corrupt JPEG data: premature end of data segment"
        assert "CMYK JPEG" in sample.converted_from


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.99])
def test_a_jpeg_that_ends_before_its_pixels_do_is_still_unreadable(
    tmp_path: Path, mode: Mode, part: float
) -> None:
    source = plain()
    with pytest.raises(UnreadableImage, match="truncated|Premature end of JPEG file"):
        packed(tmp_path, source[: int(part * len(source))], mode)


def test_no_intact_image_is_called_corrupt() -> None:
    for mode in MODES:
        for path in photo_paths(60):
            assert encode_image(path, Encoding(mode=mode, max_resolution=0)).corrupt == "", path


@pytest.mark.parametrize("options", [("-progressive",), ("-arithmetic",), ("-arithmetic", "-progressive"), ("-optimize",), ("-restart", "3B")])  # fmt: skip
def test_no_kind_of_jpeg_is_called_corrupt_for_what_it_is(tmp_path: Path, options: tuple[str, ...]) -> None:
    for source in (plain(), jpeg(picture(*SIZE).convert("L")), of_components(plain(), tmp_path)):
        for mode in MODES:
            assert packed(tmp_path, jpegtran(source, *options), mode).corrupt == ""


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_flat_picture_may_be_all_zeros(tmp_path: Path, optimize: bool, progressive: bool) -> None:
    """With tables made for it: then the all-zero code is the end of a block."""
    drawn = Image.new("RGB", (800, 600), (250, 250, 250))
    drawn.paste(picture(64, 48), (700, 500))
    flat = Image.new("RGB", (800, 600), (9, 99, 200))
    for image in (drawn, flat, drawn.convert("L"), flat.convert("L")):
        source = jpeg(image, optimize=optimize, progressive=progressive)
        for mode in MODES:
            assert packed(tmp_path, source, mode).corrupt == ""
    if optimize and not progressive:
        assert bytes(corrupt.MAX_ZEROS) in source[segments(source)[0][0] :]


@pytest.mark.parametrize(("zeros", "own"), [(1, 1), (2, 1), (2, 2), (9, 0), (9, 1), (9, 2)])
def test_zeros_that_belong_to_a_scan_are_kept(zeros: int, own: int) -> None:
    """A scan may end with zeros of its own, and a decoder that misses them warns."""
    tidy = next(corrupt.tidied(plain()))[:-2]
    complete = tidy + bytes(own) + EOI
    fault, found = corrupt.persisting(plain()[:-2] + bytes(zeros) + EOI, lambda jpeg: "" if jpeg == complete else "a warning")  # fmt: skip
    assert fault == "" and found == complete


@pytest.fixture
def split(tmp_path: Path) -> ImageFolder:
    """Two intact images and a corrupt one."""
    root = tmp_path / "images"
    root.mkdir()
    for k in range(3):
        source = jpeg(picture(90, 70, k))
        (root / f"{k}.JPEG").write_bytes(source[: len(source) // 2] + EOI if k == 1 else source)
    return ImageFolder(root, [f"{k}.JPEG" for k in range(3)], [0, 0, 0], ["only"])


WARNING = "libjpeg says: Corrupt JPEG data: premature end of data segment"


@pytest.mark.parametrize("workers", [1, 2])
def test_corrupt_images_are_packed_and_listed_unless_they_are_to_be_errors(
    split: ImageFolder, tmp_path: Path, workers: int
) -> None:
    done = write_beton(split, tmp_path / "a.beton", Encoding(), workers=workers)
    with Beton(done.path) as beton:
        assert beton.sidecar is not None and len(beton) == 3
        assert beton.sidecar["corrupt"] == done.corrupt == {"1.JPEG": WARNING}
        assert beton.sidecar["skipped"] == [] and "on_corrupt" not in beton.sidecar["settings"]
    with pytest.raises(
        CorruptImage, match=rf"the image .*1\.JPEG is corrupt: {WARNING}; pack with --on-error skip"
    ):
        write_beton(split, tmp_path / "b.beton", Encoding(), workers=workers, on_corrupt="error")
    done = write_beton(split, tmp_path / "b.beton", Encoding(), workers=workers, on_corrupt="error", on_error="skip")  # fmt: skip
    assert done.samples == 2 and done.skipped == ["1.JPEG"] and done.corrupt == {}
    again = write_beton(split, tmp_path / "a.beton", Encoding(), workers=workers)
    assert again.resumed == 3 and again.corrupt == {"1.JPEG": WARNING}


def test_a_packing_resumes_only_with_the_same_on_corrupt(split: ImageFolder, tmp_path: Path) -> None:
    """Else its bytes would depend on where it was interrupted."""

    class Stop(BaseException):
        pass

    def stop(done: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        write_beton(split, tmp_path / "a.beton", Encoding(), workers=1, progress=stop)
    with pytest.raises(InputChanged, match="on_corrupt was None and is error"):
        write_beton(split, tmp_path / "a.beton", Encoding(), workers=1, on_corrupt="error")
    assert write_beton(split, tmp_path / "a.beton", Encoding(), workers=1).corrupt == {"1.JPEG": WARNING}


def test_without_libturbojpeg_the_same_is_packed_and_reported_as_not_looked_for(
    split: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = write_beton(split, tmp_path / "a.beton", Encoding(), workers=1)
    monkeypatch.setattr(libjpeg, "library", lambda: None)
    monkeypatch.setattr(libjpeg, "proven", frozenset)
    done = write_beton(split, tmp_path / "b.beton", Encoding(), workers=1)
    assert looked.path.read_bytes() == done.path.read_bytes()
    assert looked.looked_for_corrupt and not done.looked_for_corrupt and done.corrupt == {}
    assert json.loads((tmp_path / "b.beton.json").read_text())["corrupt"] is None
    with pytest.raises(
        UserError, match="only if they can be detected: libturbojpeg was not found; install it"
    ):
        write_beton(split, tmp_path / "c.beton", Encoding(), workers=1, on_corrupt="error")
    with pytest.raises(UnreadableImage, match="truncated"):
        packed(tmp_path, plain()[:-2], "reencode")
    with pytest.raises(UnreadableImage, match="truncated"):
        packed(tmp_path, plain()[:5000], "reencode")


@pytest.mark.parametrize("mode", MODES)
def test_verify_compares_odd_and_corrupt_images_with_their_sources(tmp_path: Path, mode: Mode) -> None:
    root = tmp_path / "images/only"
    root.mkdir(parents=True)
    sources = [HARMLESS[what](plain()) for what in ("bytes before the frame", "no end", "several of them")]
    for k, source in enumerate([*sources, flipped(plain())]):
        (root / f"{k}.JPEG").write_bytes(source)
    split = ImageFolder(tmp_path / "images", [f"only/{k}.JPEG" for k in range(4)], [0] * 4, ["only"])
    path = write_beton(split, tmp_path / "a.beton", Encoding(mode=mode, max_resolution=0), workers=1).path
    assert verify(path, tmp_path / "images", workers=1).faults == []
    (root / "0.JPEG").write_bytes(before(0xC0, b"\x00")(plain(quality=91)))
    assert [fault.index for fault in verify(path, tmp_path / "images", workers=1).faults] == [0]
