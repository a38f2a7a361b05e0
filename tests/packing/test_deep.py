"""Grey and colour of more than 8 bits: which values become black and white, and that this is reported."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.beton.reader import Beton
from alexnet_fast.packing.encode import Encoding, Sample, UnreadableImage, encode_image
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import picture

RAW = Encoding(mode="raw", max_resolution=0)
ACROSS = np.linspace(0, 1, 64)[None].repeat(48, 0) * np.linspace(1, 0.5, 48)[:, None]
"""(48, 64) of 0 to 1: brighter to the right, darker below."""


def grey(top: float, kind: str = "u2") -> np.ndarray:
    return (ACROSS * top).astype(kind)


def taken(folder: Path, content: bytes, name: str = "a") -> tuple[np.ndarray, Sample]:
    """What is packed of a file: its pixels, (height, width, 3) uint8, and the sample."""
    (folder / name).write_bytes(content)
    sample = encode_image(folder / name, RAW)
    return np.frombuffer(sample.payload, np.uint8).reshape(sample.height, sample.width, 3), sample


def png(values: np.ndarray, *, significant: int = 0) -> bytes:
    """A PNG of 16 bits: grey (height, width), RGB or RGBA (height, width, 3 or 4)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape[:2]
    colour = {2: 0, 3: {3: 2, 4: 6}.get(values.shape[-1], 0)}[values.ndim]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    bits = chunk(b"sBIT", bytes([significant])) if significant else b""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + head + bits + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray, *, order: str = "<", photometric: int = 1, deflated: bool = False, **more: int
) -> bytes:
    """A TIFF of one strip: grey or RGB; ``more`` are tags by number, t341=4095."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(body) if deflated else body
    height, width = values.shape[:2]
    samples, bits = values.shape[2] if values.ndim == 3 else 1, values.dtype.itemsize * 8
    photometric = 2 if samples == 3 else photometric
    tags = {256: width, 257: height, 258: bits, 259: 8 if deflated else 1, 262: photometric, 273: 0, 277: samples, 278: height, 279: len(body), 339: kind}  # fmt: skip
    tags |= {int(name[1:]): value for name, value in more.items()}
    end = 8 + 2 + 12 * len(tags) + 4
    tags[273] = end + 2 * samples
    out = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, len(tags))
    for tag, value in sorted(tags.items()):
        if tag == 258 and samples == 3:
            out += struct.pack(order + "HHII", tag, 3, 3, end)
        else:
            out += struct.pack(order + "HHII", tag, 4, 1, value)
    return out + bytes(4) + struct.pack(f"{order}{samples}H", *[bits] * samples) + body


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    "make", [png, tiff, lambda values: tiff(values, order=">"), lambda values: tiff(values, deflated=True)]
)
def test_grey_that_uses_few_of_its_16_bits_becomes_as_bright_as_it_is(
    tmp_path: Path, bits: int, make: Callable[[np.ndarray], bytes]
) -> None:
    values = grey((1 << bits) - 1)
    pixels, sample = taken(tmp_path, make(values))
    assert np.array_equal(pixels, (values >> bits - 8)[..., None].repeat(3, -1))
    assert sample.scaled == (0, (1 << bits) - 1)


@pytest.mark.parametrize(("most", "white"), [(0, 255), (256, 1023), (5000, 16383), (16384, 65535)])
def test_white_is_that_of_the_usual_depth_which_holds_the_image(
    tmp_path: Path, most: int, white: int
) -> None:
    """Not the image's own maximum, with which the brightness of one camera's images would vary."""
    assert taken(tmp_path, png(grey(most)))[1].scaled == (0, white)


DECLARED: dict[str, tuple[bytes, tuple[float, float]]] = {
    "PGM's maxval": (b"P5 64 48 1023\n" + grey(500).astype(">u2").tobytes(), (0, 1023)),
    "PGM's maxval of 16 bits": (b"P5 64 48 65535\n" + grey(500).astype(">u2").tobytes(), (0, 65535)),
    "plain PGM's maxval": (b"P2 64 48 4000\n" + " ".join(map(str, grey(500).ravel())).encode(), (0, 4000)),
    "PNG's sBIT, in the upper bits": (png(grey(4095) << 4, significant=12), (0, 65535)),
    "PNG's sBIT, in the lower bits": (png(grey(500), significant=12), (0, 4095)),
    "TIFF's SMaxSampleValue": (tiff(grey(500), t341=3000), (0, 3000)),
    "TIFF's SMinSampleValue": (tiff(grey(500), t340=100, t341=600), (100, 600)),
}


@pytest.mark.parametrize("what", DECLARED)
def test_a_files_declaration_decides_whatever_its_values_use(tmp_path: Path, what: str) -> None:
    content, (black, white) = DECLARED[what]
    pixels, sample = taken(tmp_path, content)
    assert sample.scaled == (black, white)
    values = grey(4095) << 4 if "upper" in what else grey(500)
    expected = ((values.astype(float) - black) * 255 / (white - black)).clip(0, 255)
    assert np.abs(pixels[..., 0] - expected).max() <= 1


def test_an_impossible_declaration_is_ignored(tmp_path: Path) -> None:
    assert taken(tmp_path, tiff(grey(4000), t340=9, t341=9))[1].scaled == (0, 4095)
    assert taken(tmp_path, png(grey(4000), significant=99))[1].scaled == (0, 4095)


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        (grey(4095, "i4"), (0, 4095)),
        (grey(32767, "i2"), (0, 32767)),
        (grey(2**31 - 1, "i4"), (0, 2**31 - 1)),
        (grey(2**32 - 1, "u4"), (0, 2**32 - 1)),
        (grey(70_000, "u4"), (0, 131_071)),
        (grey(127, "i1"), (0, 127)),
        (grey(400, "i4") - 200, (-200, 200)),
        ((ACROSS * 65_535 - 32_768).astype("i2"), (-32_768, 32_767)),
        ((ACROSS * (2**32 - 1) - 2**31).astype("i4"), (-(2**31), 2**31 - 1)),
        ((ACROSS * 200 - 100).astype("i1"), (-100, 100)),
        (grey(1, "f4"), (0, 1)),
        (grey(255, "f4"), (0, 255)),
        (grey(1e30, "f4"), (0, 2**100 - 1)),
        (grey(2, "f4") - 1, (-1, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["<", ">"])
def test_signed_long_and_float_grey_keeps_its_order_and_most_of_its_levels(
    tmp_path: Path, values: np.ndarray, scaled: tuple[float, float], order: str
) -> None:
    if (values.dtype.str[1:], order) == ("u4", ">"):
        with pytest.raises(UnreadableImage, match="starts like a TIFF, but Pillow says: unknown pixel mode"):
            taken(tmp_path, tiff(values, order=order))
        return
    pixels, sample = taken(tmp_path, tiff(values, order=order))
    assert sample.scaled == pytest.approx(scaled, rel=1e-6)
    found = pixels[..., 0].ravel().astype(int)
    in_order = found[np.argsort(values.ravel(), kind="stable")]
    assert (np.diff(in_order) >= 0).all() and found.max() - found.min() >= 127


def test_nan_and_infinity_do_not_stretch_the_rest(tmp_path: Path) -> None:
    values = grey(1, "f4")
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels, sample = taken(tmp_path, tiff(values))
    assert sample.scaled == (0, 1) and pixels[0, :3, 0].tolist() == [0, 255, 0] and pixels.max() == 255
    assert not taken(tmp_path, tiff(np.full((4, 4), np.nan, "f4")))[0].any()


def test_floats_of_8_bits_are_packed_as_pillow_reads_them(tmp_path: Path) -> None:
    values = grey(255, "f4")
    assert np.array_equal(
        taken(tmp_path, tiff(values))[0][..., 0], np.asarray(Image.fromarray(values).convert("L"))
    )


def test_grey_that_stores_white_as_zero_is_inverted_and_reported(tmp_path: Path) -> None:
    for values, most in ((grey(4095), 4095), (grey(1, "f4"), 1)):
        pixels, sample = taken(tmp_path, tiff(values, photometric=0))
        assert np.array_equal(pixels, 255 - taken(tmp_path, tiff(values))[0])
        assert sample.scaled == (most, 0) and sample.converted_from.startswith("white-is-zero ")


def test_grey_that_stores_white_as_zero_is_read_the_same_with_8_and_16_bits(tmp_path: Path) -> None:
    values = grey(255)
    of_8, of_16 = (taken(tmp_path, tiff(values.astype(kind), photometric=0))[0] for kind in ("u1", "u2"))
    assert np.array_equal(of_8, of_16) and np.array_equal(of_8[..., 0], 255 - values)


def test_a_tall_image_is_scaled_to_its_last_row(tmp_path: Path) -> None:
    values = np.arange(700, dtype=np.uint16)[:, None].repeat(3, 1)
    assert np.array_equal(taken(tmp_path, png(values))[0][..., 0], values >> 2)


COLOURS: dict[str, Callable[[np.ndarray], bytes]] = {
    "PNG": png,
    "PNG with alpha": lambda rgb: png(np.dstack([rgb, np.full_like(rgb[..., 0], 60_000)])),
    "TIFF": tiff,
    "TIFF, big-endian": lambda rgb: tiff(rgb, order=">"),
    "TIFF, deflated": lambda rgb: tiff(rgb, deflated=True),
    "TIFF, big-endian, deflated": lambda rgb: tiff(rgb, order=">", deflated=True),
}


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", COLOURS)
def test_colour_that_uses_few_of_its_16_bits_becomes_as_bright_as_it_is(
    tmp_path: Path, kind: str, bits: int
) -> None:
    eight = np.asarray(picture(64, 48)).copy()
    eight[0, 0] = 255
    pixels, sample = taken(tmp_path, COLOURS[kind](eight.astype(np.uint16) << bits - 8))
    assert np.array_equal(pixels, eight) and sample.scaled == (0, (1 << bits) - 1)


def test_images_of_8_bits_are_not_scaled(tmp_path: Path) -> None:
    """Nor is a bitmap of 5, 6 and 5 bits, whose layout Pillow calls BGR;16."""
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 16, 3, 16, 0, 0, 0, 0)
    bmp = (
        b"BM"
        + struct.pack("<IHHI", 14 + 52 + 16, 0, 0, 14 + 52)
        + head
        + masks
        + struct.pack("<8H", *[0x0821] * 8)
    )
    buffer = io.BytesIO()
    picture(64, 48).save(buffer, "PNG")
    for content in (bmp, buffer.getvalue(), tiff(grey(200, "u1"))):
        assert taken(tmp_path, content)[1].scaled is None


def test_the_sidecar_lists_the_values_of_black_and_white(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(grey(4095)))
    (tmp_path / "b.tif").write_bytes(tiff(grey(2, "f4") - 1))
    picture(64, 48).save(tmp_path / "c.png")
    split = ImageFolder(tmp_path, ["a.png", "b.tif", "c.png"], [0, 0, 0], ["only"])
    packed = write_beton(split, tmp_path / "a.beton", RAW, workers=1)
    with Beton(packed.path) as beton:
        assert beton.sidecar is not None
        assert beton.sidecar["scaled"] == {"a.png": [0, 4095], "b.tif": [-1, 1]}
    assert packed.scaled == {"a.png": (0, 4095), "b.tif": (-1, 1)}
