"""Memory between two guard pages: an access one byte too far ends the process where it happens."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np

from alexnet_fast.decode.scratch import Scratch, make_scratch
from alexnet_fast.decode.workspace import make_workspace

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(shape: int | tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    """An array that ends at a guard page and starts less than a page after one."""
    count = int(np.prod(shape))
    size = count * np.dtype(dtype).itemsize
    whole = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, whole + 2 * PAGE)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    for page in (address, address + PAGE + whole):
        if _libc.mprotect(page, PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, dtype, count, PAGE + whole - size).reshape(shape)


def guarded_bytes(content: bytes) -> np.ndarray:
    """The bytes, copied to such memory. (n,) uint8"""
    array = guarded(len(content))
    array[:] = np.frombuffer(content, np.uint8)
    return array


def guarded_scratch(*arguments: Any, **options: Any) -> Scratch:
    """``scratch.make_scratch``, each of its arrays guarded."""
    plain = make_scratch(*arguments, **options)
    parts = {
        name: guarded(array.shape, array.dtype)
        for name, array in plain._asdict().items()
        if name not in ("handle", "workspace", "output")
    }
    at_least = options.get("at_least")
    workspace = guarded_workspace() if at_least is None else at_least.workspace
    return Scratch(handle=plain.handle, workspace=workspace, output=plain.output, **parts)


_kept: list[np.ndarray] = []  # addresses are all that the workspace holds of its parts


def guarded_workspace() -> np.ndarray:
    """``make_workspace``, each of its parts guarded."""

    def allocate(size: int) -> int:
        part = guarded(size)
        part[:] = 0
        _kept.append(part)
        return int(part.ctypes.data)

    return make_workspace(allocate)


def fill(scratch: Scratch, value: int) -> None:
    """Fill a scratch, so that nothing in it can be taken for this image's data."""
    for name, array in scratch._asdict().items():
        if name not in ("handle", "workspace", "output"):
            array.view(np.uint8)[...] = value
