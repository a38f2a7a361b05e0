"""Finds libturbojpeg and binds it so that jitted code can call it and still be cached on disk.

A ctypes pointer is baked into the machine code that calls it, so numba will not cache such code.
A symbol is looked up when cached code is loaded, provided that its library is in the process first.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from numba import types

from ..common.libturbojpeg import ENVIRONMENT as ENVIRONMENT
from ..common.libturbojpeg import MISSING, candidates
from ..errors import UserError

u64, i32 = types.uint64, types.int32

init_decompress = types.ExternalFunction("tjInitDecompress", u64())
destroy = types.ExternalFunction("tjDestroy", i32(u64))
# handle, jpeg, bytes, planes[3], width (0 = the JPEG's), strides[3], height, flags; 0 = ok
decompress_to_planes = types.ExternalFunction(
    "tjDecompressToYUVPlanes", i32(u64, u64, u64, u64, i32, u64, i32, i32)
)

error_text = types.ExternalFunction("tjGetErrorStr2", types.CPointer(types.uint8)(u64))

STOP_ON_WARNING = 8192  # TJFLAG_STOPONWARNING: a warning means invented pixels, so it ends the decode


class TurboJpegMissing(UserError):
    """libturbojpeg is not on this machine."""


def load() -> str:
    """Bring the library into the process for jitted code; returns the name it was found by.

    Raises:
        TurboJpegMissing: with the packages to install.
    """
    for name in candidates():
        try:
            llvm.load_library_permanently(name)
        except RuntimeError:
            continue
        return name
    raise TurboJpegMissing(MISSING)
