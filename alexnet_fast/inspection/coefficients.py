"""The content of a JPEG before any decoder's rounding: its quantised DCT coefficients, read by libturbojpeg.

They come from the custom filter of its transform, which receives every decoded coefficient.  This is independent of the
packer, which lets ``jpegtran`` write the coefficients and never reads them.
"""

from __future__ import annotations

import ctypes
import io
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_short, c_ubyte, c_ulong, c_void_p
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ..decode import turbojpeg

NO_OUTPUT = 16  # TJXOPT_NOOUTPUT


class Region(Structure):
    """tjregion, in samples."""

    _fields_ = [("x", c_int), ("y", c_int), ("width", c_int), ("height", c_int)]


CustomFilter = ctypes.CFUNCTYPE(c_int, POINTER(c_short), Region, Region, c_int, c_int, c_void_p)


class Transform(Structure):
    """tjtransform."""

    _fields_ = [
        ("region", Region),
        ("operation", c_int),
        ("options", c_int),
        ("data", c_void_p),
        ("custom_filter", CustomFilter),
    ]


def coefficients(jpeg: bytes) -> list[np.ndarray]:
    """For each component: (rows of blocks, blocks a row, 64) int16, quantised, without rows of blocks that pad the last MCUs.

    Raises:
        ValueError: the JPEG is corrupt; the text is libjpeg-turbo's.
    """
    library = _library()
    rows: dict[int, list[np.ndarray]] = {}

    def keep(found: Any, row: Region, plane: Region, component: int, _: int, __: Any) -> int:
        if row.y < plane.height:  # the last MCUs' rows may be below the plane
            blocks = np.ctypeslib.as_array(found, (row.width * row.height,))
            rows.setdefault(component, []).append(blocks.reshape(-1, 64).copy())
        return 0

    handle = c_void_p(library.tjInitTransform())
    transform = Transform(options=NO_OUTPUT, custom_filter=CustomFilter(keep))
    nothing, size = POINTER(c_ubyte)(), c_ulong()
    failed = library.tjTransform(
        handle, jpeg, c_ulong(len(jpeg)), 1, byref(nothing), byref(size), byref(transform), 0
    )
    message = library.tjGetErrorStr2(handle).decode("ascii", "replace")
    library.tjDestroy(handle)
    if failed:
        raise ValueError(message)
    return [np.stack(rows[k]) for k in sorted(rows)]


def geometry(jpeg: bytes) -> tuple[object, ...]:
    """What turns coefficients into pixels: the size, the sampling factors if there are several components, and each component's quantisation table."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        tables = image.quantization  # type: ignore[attr-defined]
        layers = image.layer  # type: ignore[attr-defined]
        factors = [(across, down) for _, across, down, _ in layers] if len(layers) > 1 else []
        return image.size, factors, [list(tables[table]) for *_, table in layers]


def same_coefficients(one: bytes, other: bytes) -> bool:
    """Whether two JPEGs contain the same image, to the last bit and before any decoder's rounding.

    Raises:
        ValueError: one is corrupt.
    """
    a, b = coefficients(one), coefficients(other)
    return geometry(one) == geometry(other) and len(a) == len(b) and all(map(np.array_equal, a, b))


@cache
def _library() -> Any:
    library: Any = ctypes.CDLL(turbojpeg.load())
    library.tjInitTransform.restype = c_void_p
    library.tjGetErrorStr2.argtypes = [c_void_p]
    library.tjGetErrorStr2.restype = c_char_p
    return library
