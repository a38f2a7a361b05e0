"""Grey and colour of more than 8 bits -> 8 bits: which of a file's values is black, and which is white.

The file's declaration decides: a PGM's maxval, a TIFF's bits per sample, its SMinSampleValue and SMaxSampleValue, a PNG's sBIT.
If the file declares only its container (16 bits, of which a camera or a scanner uses 10 or 12):

- no negative values: white is the largest value of 8, 10, 12, 14 or 16 bits, the smallest of these that contains the image's
  values (beyond 16: the smallest number of bits), so that images of one camera nearly always get the same; a float image of
  0 to 1 keeps that range;
- negative values: black and white are the image's own minimum and maximum.

A TIFF that stores white as zero is inverted, as the TIFF standard says and as Pillow does for 8 bits (for more, Pillow does not);
it is listed.  16-bit grey with alpha and 16-bit CMYK keep their upper 8 bits: Pillow gives no others.
"""

from __future__ import annotations

import io
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

USUAL_BITS = (8, 10, 12, 14, 16)
BAND_ROWS = 256  # converted at a time, so that even the largest image takes no more gigabytes
BITS, PHOTOMETRIC, SAMPLE_FORMAT, MINIMUM, MAXIMUM = 258, 262, 339, 340, 341  # TIFF tags
SIXTEEN = ";16"  # in Pillow's names of pixel layouts
UNSIGNED, SIGNED = 1, 2  # TIFF's SampleFormat
WHITE_IS_ZERO = 0


class Range(NamedTuple):
    """The values that become 0 and 255."""

    black: float
    white: float


def is_deep_grey(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits, float or signed, which Pillow would clip, not scale."""
    return image.mode.startswith("I") or image.mode == "F" or _signed_bytes(image)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that Pillow has opened and not yet read is 16-bit colour, of which Pillow keeps the upper 8 bits."""
    colour = image.format in ("PNG", "TIFF") and image.mode in ("RGB", "RGBA")
    return colour and any(SIXTEEN in _layout(tile[3]) for tile in _tiles(image))


def scaled_colour(rgb: Image.Image, source: bytes) -> tuple[Image.Image, Range]:
    """16-bit colour as 8-bit RGB, scaled by the bits that its values use; and the values that became black and white.

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
        except (AttributeError, ValueError):  # a Pillow with other internals, or premultiplied colour
            return rgb, Range(0, 65535)
        values = upper.astype(np.uint16) << 8 | lower
        found = _declared(image, source, values) or _guessed(values)
    return Image.fromarray(_to_8_bits(values, found)), found


def scaled_grey(image: Image.Image, source: bytes) -> tuple[Image.Image, Range]:
    """Deep grey as 8-bit grey; and the values that became black and white.

    NaN becomes black.

    Args:
        source: the file that the image is being read from.
    """
    maxval = _maxval(image)  # before the pixels are read: then Pillow drops it
    values = _values(image)
    if maxval:  # Pillow has scaled the values
        return Image.fromarray(_to_8_bits(values, Range(0, 65535))), Range(0, maxval)
    found = _declared(image, source, values) or _guessed(values)
    grey = _to_8_bits(values, found)
    if stores_white_as_zero(image):
        return Image.fromarray(255 - grey), Range(found.white, found.black)
    return Image.fromarray(grey), found


def stores_white_as_zero(image: Image.Image) -> bool:
    """Whether the image is deep grey in which 0 is white."""
    return is_deep_grey(image) and _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO


def _tiles(image: Image.Image) -> list:
    """(decoder, box, offset, arguments) of each part that Pillow will read."""
    return getattr(image, "tile", [])


def _layout(arguments: object) -> str:
    """The layout of a part's pixels in the file: "RGB;16B"."""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _swapped(arguments: Any) -> Any:
    """The arguments with the other byte order, which makes Pillow keep the lower 8 bits."""
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:])
    layout, _, order = arguments.rpartition(SIXTEEN)
    native = "L" if sys.byteorder == "little" else "B"
    return layout + SIXTEEN + ("B" if (order.replace("N", native)) == "L" else "L")


def _values(image: Image.Image) -> np.ndarray:
    """The numbers in the file, (height, width)."""
    values = np.asarray(image)
    if _signed_bytes(image):
        return values.view(np.int8)
    if image.mode == "I" and _tag(image, BITS) == 32 and _tag(image, SAMPLE_FORMAT) == UNSIGNED:
        return values.view(np.uint32)  # Pillow has no unsigned mode, and reads the upper half as negative
    if image.mode == "I" and _tag(image, BITS) == 16 and _tag(image, SAMPLE_FORMAT) == SIGNED:
        return values.astype(np.int16)
    return values


def _signed_bytes(image: Image.Image) -> bool:
    return image.mode == "L" and _tag(image, SAMPLE_FORMAT) == SIGNED


def _declared(image: Image.Image, source: bytes, values: np.ndarray) -> Range | None:
    """The range that the file declares for its values; None if it declares none."""
    if image.format == "PNG" and (bits := _significant_bits(source)):
        # The standard puts them into the upper bits; some writers put them into the lower ones.
        return Range(0, (1 << bits) - 1 if values.max() < 1 << bits else 65535)
    if (maximum := _tag(image, MAXIMUM)) is not None:
        minimum = _tag(image, MINIMUM) or 0
        if np.isfinite([minimum, maximum]).all() and minimum < maximum:
            return Range(minimum, maximum)
    stored = _tag(image, BITS) or 0
    return Range(0, (1 << int(stored)) - 1) if 8 < stored < 16 else None


def _guessed(values: np.ndarray) -> Range:
    """The range by the rule in this module's docstring."""
    real = np.isfinite(values)
    minimum, maximum = (
        float(of(values, where=real, initial=start)) if real.any() else 0.0
        for of, start in ((np.min, _end(values, 1)), (np.max, _end(values, -1)))
    )
    if minimum < 0:
        return Range(minimum, maximum)
    if values.dtype.kind == "f" and maximum <= 1:
        return Range(0, 1)
    bits = int(maximum).bit_length()
    white = (1 << next((usual for usual in USUAL_BITS if usual >= bits), bits)) - 1
    return Range(0, min(white, np.iinfo(values.dtype).max) if values.dtype.kind == "i" else white)


def _end(values: np.ndarray, sign: int) -> float:
    """The maximum (1) or minimum (-1) of an array's dtype."""
    if values.dtype.kind == "f":
        return sign * np.inf
    limits = np.iinfo(values.dtype)
    return int(limits.max if sign > 0 else limits.min)


def _to_8_bits(values: np.ndarray, found: Range) -> np.ndarray:
    """The values scaled to uint8, same shape."""
    black, white = found
    is_shift = black == 0 and white >= 255 and int(white) == white and int(white) & int(white) + 1 == 0
    step = (white + 1) / 256 if is_shift else (white - black) / 255 or 1
    to_integer = np.floor if is_shift else np.rint  # of a range 0 to 2^n - 1 the upper 8 bits remain
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), BAND_ROWS):
        band = values[top : top + BAND_ROWS].astype(np.float64)
        band = np.nan_to_num(band, copy=False, nan=black, posinf=white, neginf=black)
        grey[top : top + BAND_ROWS] = to_integer((band - black) / step).clip(0, 255)
    return grey


def _maxval(image: Image.Image) -> int:
    """The declared white of a PGM of more than 8 bits; 0 for all other images."""
    if image.format != "PPM" or image.mode == "F":
        return 0
    tiles = _tiles(image)
    arguments = tiles[0][3] if tiles else ()
    last = arguments[-1] if isinstance(arguments, tuple) and arguments else None
    return last if isinstance(last, int) else 65535  # Pillow reads values of maxval 65535 unscaled


def _tag(image: Image.Image, number: int) -> float | None:
    """The first number of a TIFF tag; None if there is none."""
    if image.format != "TIFF":
        return None
    default = {SAMPLE_FORMAT: UNSIGNED}.get(number)
    value = image.tag_v2.get(number, default)  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        value = value[0] if value else None
    return float(value) if isinstance(value, (int, float)) else None


def _significant_bits(png: bytes) -> int:
    """The significant bits of grey by a PNG's sBIT chunk; 0 if it has no valid one."""
    at = 8
    while at + 9 <= len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if kind == b"sBIT":
            return png[at + 8] if size and 8 <= png[at + 8] <= 16 else 0
        if kind == b"IDAT":
            return 0
        at += 12 + size
    return 0
