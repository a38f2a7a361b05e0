"""How every kernel of this package is compiled, and where the compiled code is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba


@cache
def _fingerprint() -> str:
    """A digest of this folder's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` when it is first called, without the GIL, and keep the machine code on disk.

    - nogil: kernels run on plain threads.
    - numpy's error model: no test for division by zero, which would keep LLVM from vectorising loops.
    - No fastmath: the same bits on every machine are worth more than the last percent.

    numba takes cached code for fresh while the file that defines the function is unchanged, though
    most of the code inlined into it comes from other files; so the stamp is made of all kernels' sources.
    """
    dispatcher = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if cache_file is not None:  # none under NUMBA_DISABLE_JIT; numba has no public way to set the stamp
        cache_file._source_stamp = _fingerprint()
    return dispatcher
