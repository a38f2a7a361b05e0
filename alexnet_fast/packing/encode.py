"""One image file -> the bytes of one sample: JPEG with restart markers and a tile table, made anew or lossless, or raw RGB."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features

from ..beton import format as fmt
from ..errors import UserError
from . import corrupt, deep, libjpeg
from .errors import InputUnreadable, UnreadableImage
from .kinds import image_formats
from .lossless import (
    EOI,
    SOS,
    Frame,
    JpegtranMissing,
    NotKept,
    add_restart_markers,
    check_scans,
    jpegtran_version,
    read_frame,
    segments,
)
from .pillow import prepared
from .sources import NO_FILE, FileReader, Reader

MCU_PX = (16, 16)  # width and height of an MCU in luma pixels at 4:2:0, the only subsampling we encode
MAX_PX = 65_500  # a side of any image that libjpeg takes; the format's u2 holds little more


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How source images become samples.

    Raises:
        UserError: mode lossless with a size to shrink to.
    """

    mode: Literal["reencode", "raw", "lossless"] = "reencode"
    """JPEGs made anew, raw RGB pixels, or the source JPEG's own coefficients at its own size (``max_resolution=0``)."""
    max_resolution: int = 500
    """Longest side in pixels; larger images are shrunk, smaller ones kept; 0 = any."""
    min_side: int = 0
    """Shortest side in pixels; larger images are shrunk to it; 0 = any. The smaller of the two results counts."""
    quality: int = 90
    """JPEG quality, 1 to 100, of whatever is encoded; in mode lossless, of the few images that are no JPEG a loader decodes."""
    restart_mcus: int = 2
    """MCUs between restart markers, as near as the width allows; 0 = no markers (then every crop decodes all)."""
    optimize: bool = False
    """Huffman tables made for each image: 3.6 % fewer bytes, at a third more of the packer's time."""

    def __post_init__(self) -> None:
        if self.mode == "lossless" and (self.max_resolution or self.min_side):
            raise UserError(
                f"mode lossless keeps every image's own size, so max_resolution {self.max_resolution} and min_side {self.min_side} "
                "cannot apply; give 0 for both"
            )


@dataclass(frozen=True)
class Sample:
    """One encoded image."""

    payload: bytes
    mode: int
    width: int
    height: int
    converted_from: str
    """What the source was, where it was no RGB JPEG of its name: "L JPEG", "CMYK JPEG", "PNG named .JPEG"; else "".

    In mode lossless: what was encoded anew, because its coefficients could not be kept."""
    corrupt: str = ""
    """What its decoder warns of, so that some of its pixels are invented; else ""."""
    scaled: deep.Range | None = None
    """Of more than 8 bits: which values became black and white."""


def encode_image(path: Path, encoding: Encoding) -> Sample:
    """Read one image file and encode it; see ``encode_item``."""
    return encode_item(FileReader(path.parent, str(path.parent)), path.name, encoding)


def encode_item(reader: Reader, key: str, encoding: Encoding) -> Sample:
    """Read one image of a source and encode it.

    Raises:
        UnreadableImage: naming the file and what its decoder said.
        InputUnreadable: it may be whole, but its disk or network did not give it.
        JpegtranMissing: mode lossless without the program that it needs.
    """
    path = Path(reader.name(key))
    said, words = "", list[str]()  # of what its decoders say, in place of Pillow's "decoder error -2"
    try:
        source = reader.read(key).image
        if not source:
            raise ValueError("it is empty")
        frame = read_frame(source)
        if encoding.mode == "lossless" and frame and not frame.obstacle:
            try:
                return keep_jpeg(source, frame, encoding)
            except NotKept as error:
                said = str(error)
        with (
            prepared() as words,
            Image.open(io.BytesIO(source), formats=image_formats()) as image,
        ):
            check_pixels(*image.size)
            if image.format in ("JPEG", "MPO"):
                check_scans(source, *image.size)
            converted_from = describe_conversion(image, path)
            if encoding.mode == "lossless" and frame:
                converted_from = frame.obstacle or "corrupt JPEG"
            taken = take(source, frame, image, encoding)
            if max(taken.rgb.size) > MAX_PX:
                raise ValueError(
                    f"{taken.rgb.width} x {taken.rgb.height} pixels are more than {MAX_PX} on a side; lower --max-resolution"
                )
            said = said or taken.corrupt or _libtiff(words)
    except (InputUnreadable, JpegtranMissing, MemoryError):  # nothing is wrong with the image
        raise
    except UnidentifiedImageError as error:  # its own words are of a buffer in memory
        raise UnreadableImage(f"cannot read the image {path}: {said or _unidentified(source)}") from error
    except OSError as error:
        if error.errno in (None, *NO_FILE):  # Pillow's own have no number
            raise UnreadableImage(
                f"cannot read the image {path}: {said or _libtiff(words) or error}"
            ) from error
        raise InputUnreadable(f"cannot read the image {path}: {error.strerror}") from error
    except Exception as error:  # Pillow's parsers raise whatever a broken file trips them on
        raise UnreadableImage(f"cannot read the image {path}: {said or error}") from error
    mode = fmt.RAW if encoding.mode == "raw" else fmt.JPEG
    payload = taken.rgb.tobytes() if mode == fmt.RAW else encode_jpeg(taken.rgb, encoding)
    return Sample(payload, mode, *taken.rgb.size, converted_from, said, taken.scaled)


def _libtiff(words: list[str]) -> str:
    return f"libtiff says: {words[0]}" if words else ""


def _unidentified(source: bytes) -> str:
    """Why Pillow does not open what it was given."""
    for kind in image_formats():
        opened, begins_so = Image.OPEN[kind]
        if begins_so and begins_so(source[:16]) is True:
            try:
                with prepared():
                    opened(io.BytesIO(source), "")
            except Exception as error:
                return f"it begins as a {kind}, but Pillow says: {error}"
    return f"it is none of {', '.join(image_formats())}"


def encoder_versions(encoding: Encoding) -> dict[str, str]:
    """The programs whose versions may change a byte of what ``encode_image`` makes."""
    versions = {"pillow": PIL.__version__, "libjpeg": str(features.version("jpg"))}
    if turbo := features.version_feature("libjpeg_turbo"):
        versions["libjpeg"] = f"libjpeg-turbo {turbo}"
    if encoding.mode == "lossless":
        versions["jpegtran"] = jpegtran_version()
    return versions


def keep_jpeg(source: bytes, frame: Frame, encoding: Encoding) -> Sample:
    """A JPEG's own coefficients with markers and tile table.

    Raises:
        NotKept: they are not whole, as far as can be told, or jpegtran does not take them.
        ValueError: the JPEG is too large for the loader.
    """
    check_pixels(frame.width, frame.height)
    check_scans(source, frame.width, frame.height)
    interval = restart_interval(frame.width, frame.height, encoding.restart_mcus, frame.mcu_px)
    jpeg = b""

    def warning(of: bytes) -> str:
        nonlocal jpeg
        jpeg, told = add_restart_markers(of, interval, optimize=encoding.optimize)
        return f"jpegtran says: {told}" if told else ""

    said, _ = corrupt.persisting(source, warning)
    if said:
        raise NotKept(said)
    return Sample(with_tile_table(jpeg) if interval else jpeg, fmt.JPEG, frame.width, frame.height, "")


def check_pixels(width: int, height: int) -> None:
    """See that the loader takes an image of such a size.

    Raises:
        ValueError: it does not.
    """
    if width * height > fmt.MAX_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels are more than {fmt.MAX_PIXELS:,}, the most that can be loaded"
        )


def describe_conversion(image: Image.Image, path: Path) -> str:
    """What is unusual about a source image, or ""."""
    kind = image.format or "?"
    parts = ["white-is-zero"] if deep.stores_white_as_zero(image) else []
    if image.mode != "RGB":
        parts.append(image.mode)
    if image.info.get("progressive"):
        parts.append("progressive")
    jpeg_name = path.suffix.lower() in (".jpeg", ".jpg")
    if not parts and (kind == "JPEG") == jpeg_name:
        return "" if jpeg_name else kind
    return " ".join([*parts, kind]) + (f" named {path.suffix}" if jpeg_name and kind != "JPEG" else "")


@dataclass
class Taken:
    """The pixels that were taken from a file, and what is to be told of them (see ``Sample``)."""

    rgb: Image.Image
    corrupt: str = ""
    scaled: deep.Range | None = None


def take(source: bytes, frame: Frame | None, image: Image.Image, encoding: Encoding) -> Taken:
    """The pixels of a file as RGB, at the size that the encoding asks for.

    Args:
        frame: the file's, where it is a JPEG.
        image: the file, as Pillow has opened it and not yet read it.
    """
    size = target_size(image.width, image.height, encoding)
    if deep.is_deep_grey(image):
        eight_bits, scaled = deep.scaled_grey(image, source)
        return Taken(_resized(to_rgb(eight_bits), size), scaled=scaled)
    if deep.is_deep_colour(image):
        eight_bits, scaled = deep.scaled_colour(to_rgb(image), source)
        return Taken(_resized(eight_bits, size), scaled=scaled)
    if image.format in ("JPEG", "MPO"):
        rgb, said = read_jpeg(source, frame, image, size)
        return Taken(_resized(rgb, size), said)
    return Taken(_resized(to_rgb(image), size))


def read_jpeg(
    source: bytes, frame: Frame | None, image: Image.Image, size: tuple[int, int]
) -> tuple[Image.Image, str]:
    """The pixels of a JPEG as RGB, near a size to be shrunk to, and what says that some are invented, or "".

    They are Pillow's to the bit, whichever library decodes.
    """
    (width, height), scale = image.size, _draft(image, size)
    whole = frame and not corrupt.unwarned(source)
    if frame and whole and (pixels := libjpeg.pixels(source, frame.factors, image, scale)):
        return to_rgb(pixels), ""

    def warning(jpeg: bytes) -> str:
        told = libjpeg.warning(jpeg, width, height, image.mode)
        return f"libjpeg says: {told}" if told else ""

    said, _ = corrupt.persisting(source, warning)
    try:
        return to_rgb(image), said
    except OSError:
        if said or not libjpeg.library():
            raise
    # Whole but for its end, which Pillow asks for and no pixel needs.
    with Image.open(io.BytesIO(source + bytes([0xFF, EOI])), formats=("JPEG",)) as ended:
        _draft(ended, size)
        return to_rgb(ended), ""


def shrunk(image: Image.Image, encoding: Encoding) -> Image.Image:
    """An image of 8 bits as RGB at the size that the encoding asks for (never enlarged), by Pillow alone."""
    size = target_size(image.width, image.height, encoding)
    _draft(image, size)
    return _resized(to_rgb(image), size)


def _draft(image: Image.Image, size: tuple[int, int]) -> int:
    """Have libjpeg shrink by a power of two while it decodes, for nothing; twice the target leaves the filter its work.  Returns that power."""
    if size == image.size:
        return 1
    width, drafted = image.width, image.draft(None, (2 * size[0], 2 * size[1]))
    return round(width / drafted[1][2]) if drafted else 1


def _resized(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """By Pillow's Hamming filter: as sharp as its bicubic one at less than half the price of Lanczos, which
    took a fourth of the packer's time for the eighth of the photos that are larger than 500 px.
    """
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.HAMMING)


def target_size(width: int, height: int, encoding: Encoding) -> tuple[int, int]:
    """(width, height) in pixels of the stored image."""
    scale = 1.0
    if encoding.max_resolution:
        scale = min(scale, encoding.max_resolution / max(width, height))
    if encoding.min_side:
        scale = min(scale, encoding.min_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes of 8 bits as RGB, as torchvision's folder loader does it (alpha is dropped)."""
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def encode_jpeg(rgb: Image.Image, encoding: Encoding) -> bytes:
    """A baseline 4:2:0 JPEG and, where markers are asked for, its tile table."""
    interval = restart_interval(rgb.width, rgb.height, encoding.restart_mcus)
    buffer = io.BytesIO()
    rgb.save(
        buffer,
        "JPEG",
        quality=encoding.quality,
        subsampling="4:2:0",
        optimize=encoding.optimize,
        restart_marker_blocks=interval,
        comment=b"",  # else Pillow copies the source's, which may be any text of any length
    )
    jpeg = buffer.getvalue()
    return with_tile_table(jpeg) if interval else jpeg


def restart_interval(width: int, height: int, wanted_mcus: int, mcu_px: tuple[int, int] = MCU_PX) -> int:
    """MCUs between restart markers: the divisor of the MCUs per row nearest (by ratio) to the wanted count.

    A divisor makes tiles that line up in columns, so that a crop can leave out the tiles beside it.
    Images of so many tiles that their table would not fit into one segment get the next divisor that does.

    Args:
        width, height: of the image, in pixels.
        wanted_mcus: 0 = no markers.
        mcu_px: (width, height) of an MCU in pixels.
    """
    if wanted_mcus == 0:
        return 0
    per_row, rows = -(-width // mcu_px[0]), -(-height // mcu_px[1])
    divisors = [d for d in range(1, per_row + 1) if per_row % d == 0]
    fitting = [d for d in divisors if rows * per_row // d <= fmt.MAX_TILES] or [per_row]
    return min(fitting, key=lambda d: (abs(math.log(d / wanted_mcus)), d))


def with_tile_table(jpeg: bytes) -> bytes:
    """The same JPEG with its tile lengths in an application segment behind SOI (see ``format``).

    Returned unchanged where a tile or the table is too large for the table's 16-bit fields; the
    loader then finds the markers by itself.
    """
    lengths = tile_lengths(jpeg)
    if len(lengths) > fmt.MAX_TILES or lengths.max() > 0xFFFF:
        return jpeg
    table = fmt.TILE_MAGIC + lengths.astype("<u2").tobytes()
    return jpeg[:2] + bytes([0xFF, fmt.TILE_MARKER]) + (len(table) + 2).to_bytes(2, "big") + table + jpeg[2:]


def tile_lengths(jpeg: bytes) -> np.ndarray:
    """Bytes of each restart interval of a one-scan JPEG, the marker that ends it included. (tiles,) int64."""
    scan = np.frombuffer(jpeg, np.uint8)[scan_start(jpeg) :]
    # In entropy-coded data FF is followed by 00 or is a marker, so an RST cannot be mistaken (T.81, B.1.1.5).
    after = np.flatnonzero(scan[:-1] == 0xFF) + 1
    marks = after[(scan[after] & 0xF8) == 0xD0] + 1
    return np.diff(np.concatenate([[0], marks, [len(scan)]]))


def scan_start(jpeg: bytes) -> int:
    """Offset of the first entropy-coded byte: the end of the SOS segment."""
    return next(end for marker, _, end in segments(jpeg) if marker == SOS)
