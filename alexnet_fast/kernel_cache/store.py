"""Machine code on disk: a file for each kernel, signature and machine, compiled by one process and loaded by the others.

It replaces numba's own cache, which needs a writable folder, has every rank compile for itself, detects changes of one
source file only, and keeps an index apart from the code: two processes on different CPUs that share a home folder can each
end up with an index entry that points to the other's code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
from numba.core import config, sigutils
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from . import folders
from .lock import lock_of
from .sources import version_of

KEPT = 4  # versions of a module's kernels
DAY_S = 86_400
SUM_BYTES = hashlib.sha256().digest_size

logger = logging.getLogger("alexnet_fast")


class KernelCache(_Cache):  # type: ignore[misc]
    """The machine code of one kernel, with the interface of numba's caches; an error in here never makes a kernel fail.

    A file holds a pickle, (key, numba's reduced form of a compiled function), after the pickle's SHA-256 sum.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        path = Path(function.__code__.co_filename)
        self._folder = path.parent
        self._label = f"{path.stem}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._version = version_of(function.__module__, path)

    @property
    def cache_path(self) -> str:
        """The best folder for it."""
        return str(next(folders.search_path(self._folder)))

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled kernel, or None if the caller must compile it; waits for another process that is compiling it."""
        if self._version is None:
            return None
        target_context.refresh()
        key = self._key(signature)
        reduced = self._read(key)
        if reduced is None and (place := folders.writable_folder(self._folder)) is not None:
            reduced = lock_of(place).wait(lambda: self._read(key))
        return None if reduced is None else CompileResult._rebuild(target_context, *reduced)

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled kernel on disk, if a folder can be written."""
        if self._version is None or result.lifted or result.library.has_dynamic_globals:
            cause = (
                "its source cannot be read"
                if self._version is None
                else "it contains addresses of this process"
            )
            logger.warning("each start compiles %s again, since %s", self._label, cause)
            return
        if (place := folders.writable_folder(self._folder)) is None:
            return
        key = self._key(signature)
        payload = dumps((key, result._reduce()))
        folder = place / self._version
        try:
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / self._name(key), hashlib.sha256(payload).digest() + payload)
            if is_new:
                with suppress(OSError):  # another process prunes too
                    _prune(place, self._version)
        except OSError as error:  # a full disk, a lost mount
            logger.warning("%s could not be kept in %s: %s", self._label, folder, error.strerror or error)

    def flush(self) -> None:
        """Delete this kernel's files: numba is about to compile it again."""
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def enable(self) -> None:
        """Of numba's interface; a store is always enabled."""

    def disable(self) -> None:
        """Of numba's interface; a store is always enabled."""

    def holds_any(self) -> bool:
        """Whether code for this machine is on disk."""
        return any(True for _ in self._files())

    def _read(self, key: tuple[str, ...]) -> Any:
        """numba's reduced form of the compiled function, from the first file that exists and is intact; else None."""
        for place in folders.search_path(self._folder):
            folder = place / str(self._version)
            try:
                content = memoryview((folder / self._name(key)).read_bytes())
            except OSError:
                continue
            if hashlib.sha256(content[SUM_BYTES:]).digest() != content[:SUM_BYTES]:
                continue  # truncated by a full disk or a power failure: it is compiled and written again
            try:
                found, reduced = pickle.loads(content[SUM_BYTES:])
            except Exception:  # classes of another library version may raise anything
                continue
            if found == key:
                _mark_as_used(folder)
                return reduced
        return None

    def _files(self) -> Iterator[Path]:
        if self._version is not None:
            for place in folders.search_path(self._folder):
                yield from (place / self._version).glob(f"{self._label}-{_short(self._machine)}-*")

    def _key(self, signature: Any) -> tuple[str, ...]:
        return (*self._machine, str(sigutils.normalize_signature(signature)))

    def _name(self, key: tuple[str, ...]) -> str:
        return f"{self._label}-{_short(self._machine)}-{_short(key)}"

    @cached_property
    def _machine(self) -> tuple[str, ...]:
        """Everything that the code depends on: the machine, the libraries, their settings and the function's closure."""
        processor = cpu_target.target_context.codegen().magic_tuple()  # triple, name, features
        python = (sys.implementation.cache_tag, getattr(sys, "abiflags", ""))
        settings = (config.OPT, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT, config.LOOP_VECTORIZE)
        cells = dumps([cell.cell_contents for cell in self._function.__closure__ or ()])
        return (
            *map(str, (*processor, *python, numba.__version__, *settings, config.SLP_VECTORIZE)),
            hashlib.sha256(cells).hexdigest(),
        )


def _short(key: tuple[str, ...]) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:12]


def _write(path: Path, content: bytes) -> None:
    """Write the complete file or nothing."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _mark_as_used(version: Path) -> None:
    with suppress(OSError):  # a folder that this user may not write
        if time.time() - version.stat().st_mtime > DAY_S:
            os.utime(version)


def _prune(place: Path, version: str) -> None:
    """Delete all but the KEPT most recently used versions of a module's kernels. Processes that run one have it in memory."""
    others = place.glob(f"{version.rpartition('-')[0]}-*")
    by_use = sorted((path.stat().st_mtime, path) for path in others if path.name != version)
    for _, path in by_use[: 1 - KEPT]:
        shutil.rmtree(path, ignore_errors=True)
