"""Finds libturbojpeg and binds it so that jitted code can call it and still be cached on disk.

A ctypes pointer is baked into the machine code that calls it, so numba will not cache such code.
A symbol is looked up when cached code is loaded, provided that its library is in the process first.
"""

from __future__ import annotations

import os
from functools import cache

import llvmlite.binding as llvm
from numba import types

from ..common.libturbojpeg import ENVIRONMENT as ENVIRONMENT
from ..common.libturbojpeg import MISSING, NONE, candidates
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


_is_absent = False  # this process does without it: what is linked stays linked


def load() -> str:
    """Bring the library into the process for jitted code; returns the name it was found by.

    Raises:
        TurboJpegMissing: with the packages to install.
    """
    for name in () if _is_absent else candidates():
        try:
            llvm.load_library_permanently(name)
        except RuntimeError:
            continue
        return name
    raise TurboJpegMissing(MISSING)


def load_if_there() -> bool:
    """Bring the library into the process, or functions in its place that decode nothing, so that jitted code links; whether it is there.

    Once it was not, this process does without it: kernels that are linked cannot be linked again.

    Raises:
        TurboJpegMissing: the environment names a file that is no such library.
    """
    global _is_absent
    try:
        load()
    except TurboJpegMissing:
        if os.environ.get(ENVIRONMENT) not in (None, "", NONE):
            raise
        if llvm.address_of_symbol("tjInitDecompress") is None:
            _is_absent = True
            _stand_in()
        return False
    return True


@cache
def _stand_in() -> object:
    """Functions under the names of the library's, for the linker; returns the engine that owns their code.

    Without a handle only the last two can be called: decoding fails, and the error's text is empty.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(STAND_IN), machine)
    engine.finalize_object()
    for name in ("tjInitDecompress", "tjDestroy", "tjDecompressToYUVPlanes", "tjGetErrorStr2"):
        llvm.add_symbol(name, engine.get_function_address(f"absent_{name}"))
    return engine


STAND_IN = """
@text = constant [1 x i8] zeroinitializer
define i64 @absent_tjInitDecompress() { ret i64 0 }
define i32 @absent_tjDestroy(i64 %handle) { ret i32 0 }
define i32 @absent_tjDecompressToYUVPlanes(i64 %a, i64 %b, i64 %c, i64 %d, i32 %e, i64 %f, i32 %g, i32 %h) { ret i32 -1 }
define ptr @absent_tjGetErrorStr2(i64 %handle) { ret ptr @text }
"""
