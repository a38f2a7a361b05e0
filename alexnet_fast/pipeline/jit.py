"""How every kernel of this package is compiled, and where the compiled code is kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile


@cache
def _fingerprint() -> str:
    """A digest of this folder's sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` when it is first called, without the GIL, and keep the machine code on disk.

    - nogil: kernels run on plain threads.
    - numpy's error model: no test for division by zero, which would keep LLVM from vectorising loops.
    - No fastmath: the same bits on every machine are worth more than the last percent.

    numba takes cached code for fresh while the file that defines the function is unchanged, though
    most of the code inlined into it comes from other files; and an index that names a class which a
    newer version has no more does not even load.  So the files' names carry a digest of all kernels' sources.
    """
    dispatcher = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    cache: Any = getattr(dispatcher, "_cache", None)
    if hasattr(
        cache, "_cache_file"
    ):  # not under NUMBA_DISABLE_JIT; numba has no public way to name the files
        cache._cache_file = IndexDataCacheFile(
            cache._cache_path,
            f"{cache._impl.filename_base}-{_fingerprint()}",
            cache._impl.locator.get_source_stamp(),
        )
    return dispatcher


def is_cached(kernel: Any) -> bool:
    """Whether a kernel's machine code lies on disk, so that its first call will load it and not compile."""
    cache_file = getattr(getattr(kernel, "_cache", None), "_cache_file", None)
    return cache_file is not None and os.path.exists(cache_file._index_path)
