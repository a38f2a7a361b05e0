"""Grey and colour of more than 8 bits -> 8 bits: which of a file's values is black, and which is white.

What the file declares counts: a PGM's maxval, a TIFF's bits a sample, its SMinSampleValue and SMaxSampleValue, a PNG's sBIT.
Where it declares no more than its container (16 bits, of which a camera or a scanner uses 10 or 12):

- no value below zero: white is the largest value of 8, 10, 12, 14 or 16 bits, the fewest that hold the image's own (beyond 16:
  the fewest there are), so that images of one camera nearly always get the same; a float image of 0 to 1 keeps that range;
- values below zero: the image's own least and greatest value.

A TIFF that stores white as zero is inverted, as TIFF means it and as Pillow does where it has 8 bits (of more Pillow inverts none);
it is listed.  Grey with alpha and CMYK of 16 bits keep their upper 8: Pillow gives no others.
"""

from __future__ import annotations

import io
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

USUAL_BITS = (8, 10, 12, 14, 16)
BAND_ROWS = 256  # at a time: an image of the largest size takes no gigabytes more
BITS, PHOTOMETRIC, SAMPLE_FORMAT, LEAST, MOST = 258, 262, 339, 340, 341  # TIFF tags
SIXTEEN = ";16"  # in Pillow's names of how pixels lie
UNSIGNED, SIGNED = 1, 2  # TIFF's SampleFormat
WHITE_IS_ZERO = 0


class Range(NamedTuple):
    """The values that become 0 and 255."""

    black: float
    white: float


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits, floats or signed: what Pillow would clip, not scale."""
    return image.mode.startswith("I") or image.mode == "F" or _signed_bytes(image)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that Pillow has opened and not yet read is colour of 16 bits, of which Pillow keeps the upper 8."""
    colour = image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA")
    return colour and any(SIXTEEN in _layout(tile[3]) for tile in _tiles(image))


def scaled_colour(rgb: Image.Image, source: bytes) -> tuple[Image.Image, Range]:
    """Such an image with the bits that its values use, and what its values were.

    Args:
        rgb: the upper 8 bits, as RGB.
        source: the file that the image is read from.
    """
    upper = np.asarray(rgb)
    if upper.max() >= 1 << USUAL_BITS[-2] - 8:  # some value uses all 16
        return rgb, Range(0, 65535)
    with Image.open(io.BytesIO(source), formats=("PNG", "TIFF")) as image:
        try:
            image.tile = [tile._replace(args=_swapped(tile.args)) for tile in _tiles(image)]  # type: ignore[attr-defined]
            lower = np.asarray(image)[..., :3]
        except (AttributeError, ValueError):  # a Pillow of other parts, or premultiplied colour
            return rgb, Range(0, 65535)
        values = upper.astype(np.uint16) << 8 | lower
        found = _declared(image, source, values) or _guessed(values)
    return Image.fromarray(_to_8_bits(values, found)), found


def scaled_grey(image: Image.Image, source: bytes) -> tuple[Image.Image, Range]:
    """Such an image as 8-bit grey, and what its values were.

    NaN becomes what 0 becomes.

    Args:
        source: the file that the image is being read from.
    """
    maxval = _maxval(image)  # of a file that is open; Pillow forgets it when it reads the pixels
    values = _values(image)
    if maxval:  # Pillow has scaled them
        return Image.fromarray(_to_8_bits(values, Range(0, 65535))), Range(0, maxval)
    found = _declared(image, source, values) or _guessed(values)
    grey = _to_8_bits(values, found)
    if stores_white_as_zero(image):
        return Image.fromarray(255 - grey), Range(found.white, found.black)
    return Image.fromarray(grey), found


def stores_white_as_zero(image: Image.Image) -> bool:
    """Whether the values are those of a negative: 0 is white."""
    return is_deep_grey(image) and _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO


def _tiles(image: Image.Image) -> list:
    """What Pillow will read: (decoder, box, offset, arguments) of each part."""
    return getattr(image, "tile", [])


def _layout(arguments: object) -> str:
    """How the pixels of a part lie in the file: "RGB;16B"."""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _swapped(arguments: Any) -> Any:
    """The same with the bytes of each number in the other order: so Pillow keeps the lower 8 bits."""
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:])
    layout, _, order = arguments.rpartition(SIXTEEN)
    native = "L" if sys.byteorder == "little" else "B"
    return layout + SIXTEEN + ("B" if (order.replace("N", native)) == "L" else "L")


def _values(image: Image.Image) -> np.ndarray:
    """(height, width) of the numbers that the file holds."""
    values = np.asarray(image)
    if _signed_bytes(image):
        return values.view(np.int8)
    if image.mode == "I" and _tag(image, BITS) == 32 and _tag(image, SAMPLE_FORMAT) == UNSIGNED:
        return values.view(np.uint32)  # Pillow has no such mode, and takes the upper half for negative
    if image.mode == "I" and _tag(image, BITS) == 16 and _tag(image, SAMPLE_FORMAT) == SIGNED:
        return values.astype(np.int16)
    return values


def _signed_bytes(image: Image.Image) -> bool:
    return image.mode == "L" and _tag(image, SAMPLE_FORMAT) == SIGNED


def _declared(image: Image.Image, source: bytes, values: np.ndarray) -> Range | None:
    """What the file says of its values."""
    if image.format == "PNG" and (bits := _significant_bits(source)):
        # They stand in the upper bits by the standard, in the lower ones by those who did not read it.
        return Range(0, (1 << bits) - 1 if values.max() < 1 << bits else 65535)
    if (most := _tag(image, MOST)) is not None:
        least = _tag(image, LEAST) or 0
        if np.isfinite([least, most]).all() and least < most:
            return Range(least, most)
    told = _tag(image, BITS) or 0
    return Range(0, (1 << int(told)) - 1) if 8 < told < 16 else None


def _guessed(values: np.ndarray) -> Range:
    """By the rule above."""
    real = np.isfinite(values)
    least, most = (
        float(of(values, where=real, initial=start)) if real.any() else 0.0
        for of, start in ((np.min, _end(values, 1)), (np.max, _end(values, -1)))
    )
    if least < 0:
        return Range(least, most)
    if values.dtype.kind == "f" and most <= 1:
        return Range(0, 1)
    bits = int(most).bit_length()
    white = (1 << next((usual for usual in USUAL_BITS if usual >= bits), bits)) - 1
    return Range(0, min(white, np.iinfo(values.dtype).max) if values.dtype.kind == "i" else white)


def _end(values: np.ndarray, sign: int) -> float:
    """The greatest (1) or least (-1) value of a type."""
    if values.dtype.kind == "f":
        return sign * np.inf
    limits = np.iinfo(values.dtype)
    return int(limits.max if sign > 0 else limits.min)


def _to_8_bits(values: np.ndarray, found: Range) -> np.ndarray:
    """uint8 of the same shape."""
    black, white = found
    whole_bits = black == 0 and white >= 255 and int(white) == white and int(white) & int(white) + 1 == 0
    step = (white + 1) / 256 if whole_bits else (white - black) / 255 or 1
    to_whole = np.floor if whole_bits else np.rint  # of whole bits the upper 8 remain, as ever
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), BAND_ROWS):
        band = values[top : top + BAND_ROWS].astype(np.float64)
        band = np.nan_to_num(band, copy=False, nan=black, posinf=white, neginf=black)
        grey[top : top + BAND_ROWS] = to_whole((band - black) / step).clip(0, 255)
    return grey


def _maxval(image: Image.Image) -> int:
    """What a PGM of more than 8 bits says is white; 0 for all others."""
    if image.format != "PPM" or image.mode == "F":
        return 0
    tiles = _tiles(image)
    arguments = tiles[0][3] if tiles else ()
    last = arguments[-1] if isinstance(arguments, tuple) and arguments else None
    return last if isinstance(last, int) else 65535  # that one Pillow reads as it stands


def _tag(image: Image.Image, number: int) -> float | None:
    """The first number that a TIFF has under a tag."""
    if image.format != "TIFF":
        return None
    default = {SAMPLE_FORMAT: UNSIGNED}.get(number)
    value = image.tag_v2.get(number, default)  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        value = value[0] if value else None
    return float(value) if isinstance(value, (int, float)) else None


def _significant_bits(png: bytes) -> int:
    """What a PNG's sBIT says of its grey; 0 where it has none that can be."""
    at = 8
    while at + 9 <= len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if kind == b"sBIT":
            return png[at + 8] if size and 8 <= png[at + 8] <= 16 else 0
        if kind == b"IDAT":
            return 0
        at += 12 + size
    return 0
