"""How every kernel of this package is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from .lock import compile_lock
from .store import KernelCache


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call, to run without the GIL, and keep the machine code on disk (``store``).

    - nogil: kernels run on plain threads.
    - numpy's error model: no check for division by zero, which would stop LLVM from vectorising loops.
    - No fastmath: the same bits on every machine are worth more than the last percent of speed.
    """
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    if dispatcher is function:  # NUMBA_DISABLE_JIT
        return function
    compile_for = dispatcher.compile

    def compile_alone(signature: Any) -> Any:
        with compile_lock():
            return compile_for(signature)

    # numba has no public way to set a custom cache.
    dispatcher._cache = KernelCache(function)
    dispatcher.compile = compile_alone
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Compile ``function`` into each place that calls it.

    LLVM decides by size whether it inlines, and a call costs more than a few instructions do.  Only for inner loops: each place is a
    copy that is compiled again.
    """
    return numba.njit(nogil=True, error_model="numpy", forceinline=True)(function)


def is_cached(kernel: Any) -> bool:
    """Whether a kernel's machine code for this machine is on disk, so that its first call loads it and does not compile."""
    store = getattr(kernel, "_cache", None)
    return isinstance(store, KernelCache) and store.holds_any()
