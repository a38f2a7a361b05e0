"""JPEG pixels together with libjpeg's warnings, by libturbojpeg: Pillow has the same decoder but does not report its warnings.

A warning means that some pixels are invented.  An extra decode at an eighth of the size, only for the warnings, costs 1.0 ms per
image, where packing an ImageNet image takes 3.4 ms; using this library's pixels instead of Pillow's costs nothing (Zen 5, 125
images, medians of 12).  So its pixels are used wherever they were proven equal to Pillow's, and a file's bytes do not depend on
which of the two decoded.

It uses ctypes and not ``decode.turbojpeg``, since worker processes must not import numba.
"""

from __future__ import annotations

import ctypes
import io
from ctypes import c_char_p, c_int, c_ulong, c_void_p
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ..common.libturbojpeg import candidates

Factors = tuple[tuple[int, int], ...]

RGB, GREY, CMYK = 0, 6, 11  # TJPF_*
WARNING = 0  # TJERR_WARNING
SCALES = (1, 2, 4, 8)
MAX_PX = 1 << 25  # of an image that is decoded here: its pixels are in memory twice for a moment
PROOF_PX = (203, 149)
SUBSAMPLINGS: dict[str, Factors] = {
    "4:4:4": ((1, 1), (1, 1), (1, 1)),
    "4:2:2": ((2, 1), (1, 1), (1, 1)),
    "4:2:0": ((2, 2), (1, 1), (1, 1)),
}


def warning(jpeg: bytes, width: int, height: int, mode: str) -> str:
    """libjpeg's first warning for a JPEG; "" if there is none, if it cannot be decoded, or without libturbojpeg.

    Args:
        width, height: of the image, in pixels.
        mode: Pillow's; "L", "RGB" or "CMYK".
    """
    if not library():
        return ""
    kind, channels = (CMYK, 4) if mode == "CMYK" else (GREY, 1)
    width, height = -(-width // 8), -(-height // 8)
    failed, code, text = _decompress(jpeg, bytearray(width * height * channels), width, height, kind)
    return text if failed and code == WARNING else ""


def pixels(jpeg: bytes, factors: Factors, image: Image.Image, scale: int) -> Image.Image | None:
    """The pixels of a JPEG, equal to Pillow's; None if there is a warning, or no proof that they are equal.

    Args:
        factors: sampling factors (across, down) of each component.
        image: the JPEG, opened by Pillow and not yet read, with the draft's size.
        scale: the draft's: 1, 2, 4 or 8.
    """
    mode, (width, height) = image.mode, image.size
    channels = {"L": 1, "RGB": 3}.get(mode, 0)
    enough = (
        scale == 1 or max(width, height) >= 16
    )  # for a smaller one, another scale rounds to the same size
    if not channels or not enough or width * height > MAX_PX or (mode, factors) not in proven():
        return None
    return _pixels(jpeg, mode, width, height)


def _pixels(jpeg: bytes, mode: str, width: int, height: int) -> Image.Image | None:
    buffer = bytearray(width * height * (1 if mode == "L" else 3))
    failed, _, _ = _decompress(jpeg, buffer, width, height, GREY if mode == "L" else RGB)
    return None if failed else Image.frombuffer(mode, (width, height), buffer, "raw", mode, 0, 1)


@cache
def proven() -> frozenset[tuple[str, Factors]]:
    """(mode, factors) of the JPEGs that this process's libturbojpeg decodes to the same pixels as its Pillow, at every scale."""
    if not library():
        return frozenset()
    ways = [("RGB", factors, {"subsampling": name}) for name, factors in SUBSAMPLINGS.items()]
    return frozenset(
        (mode, factors) for mode, factors, options in [*ways, ("L", ((1, 1),), {})] if _same(mode, options)
    )


def _same(mode: str, options: dict[str, str]) -> bool:
    noise = np.random.default_rng(0).integers(0, 256, (*PROOF_PX[::-1], 3)) // 2
    slope = np.linspace(0, 127, PROOF_PX[0])[None, :, None]
    buffer = io.BytesIO()
    Image.fromarray((noise + slope).astype(np.uint8)).convert(mode).save(
        buffer, "JPEG", quality=90, **options
    )
    for scale in SCALES:
        with Image.open(buffer, formats=("JPEG",)) as image:
            image.draft(None, (image.width // scale, image.height // scale))
            ours = _pixels(buffer.getvalue(), mode, *image.size)
            if ours is None or ours.tobytes() != image.tobytes():
                return False
    return True


@cache
def library() -> Any | None:
    """libturbojpeg 2.0 or later; None if it is not available."""
    for name in candidates():
        try:
            found: Any = ctypes.CDLL(name)
            found.tjInitDecompress.restype = c_void_p
            found.tjDecompress2.argtypes = [
                c_void_p, c_char_p, c_ulong, c_void_p, c_int, c_int, c_int, c_int, c_int
            ]  # fmt: skip
            found.tjGetErrorStr2.argtypes, found.tjGetErrorStr2.restype = [c_void_p], c_char_p
            found.tjGetErrorCode.argtypes = found.tjDestroy.argtypes = [c_void_p]
        except (AttributeError, OSError):
            continue
        return found
    return None


def _decompress(jpeg: bytes, buffer: bytearray, width: int, height: int, kind: int) -> tuple[bool, int, str]:
    """Decode at the largest scale that fits; returns (whether it failed, the error's code, its text)."""
    turbo = library()
    assert turbo is not None
    handle = turbo.tjInitDecompress()  # takes 10 us, and keeps no state from another image
    if not handle:
        raise MemoryError
    try:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        failed = turbo.tjDecompress2(handle, jpeg, len(jpeg), address, width, 0, height, kind, 0)
        return (
            bool(failed),
            turbo.tjGetErrorCode(handle),
            turbo.tjGetErrorStr2(handle).decode("ascii", "replace"),
        )
    finally:
        turbo.tjDestroy(handle)
