"""Machine code on disk: a file for each kernel, signature and machine, compiled by one process and loaded by the others.

It stands in for numba's own cache, which wants a folder that it can write, lets every rank compile for itself, knows
changes of one source file alone, and keeps an index apart from the code, so that two processes of different CPUs that
share a home folder can each end with the other's code behind its own entry.
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
    """The machine code of one kernel, as numba's dispatcher asks for it; nothing here fails a kernel.

    A file is a SHA-256 sum and the pickle that it is of: (key, what numba makes of a compiled function).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        path = Path(function.__code__.co_filename)
        self._folder = path.parent
        self._label = f"{path.stem}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._version = version_of(function.__module__, path)

    @property
    def cache_path(self) -> str:
        """Where it would best lie."""
        return str(next(folders.search_path(self._folder)))

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The compiled kernel, or None when it is for the caller to compile; waits for a process that compiles it already."""
        if self._version is None:
            return None
        target_context.refresh()
        key = self._key(signature)
        reduced = self._read(key)
        if reduced is None and (place := folders.writable_folder(self._folder)) is not None:
            reduced = lock_of(place).wait(lambda: self._read(key))
        return None if reduced is None else CompileResult._rebuild(target_context, *reduced)

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled, if there is a place for it."""
        if self._version is None or result.lifted or result.library.has_dynamic_globals:
            cause = (
                "its source cannot be read" if self._version is None else "it holds addresses of this process"
            )
            logger.warning("each start compiles %s, for %s", self._label, cause)
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
        except OSError as error:  # a full disk, a mount that went
            logger.warning("%s could not be kept in %s: %s", self._label, folder, error.strerror or error)

    def flush(self) -> None:
        """Forget this kernel: numba is about to compile it anew."""
        for path in self._files():
            with suppress(OSError):
                path.unlink()

    def enable(self) -> None:
        """Of numba's interface; a store is always enabled."""

    def disable(self) -> None:
        """Of numba's interface; a store is always enabled."""

    def holds_any(self) -> bool:
        """Whether code for this machine lies on disk."""
        return any(True for _ in self._files())

    def _read(self, key: tuple[str, ...]) -> Any:
        """What numba made of the compiled function, from the first file that is there and whole; else None."""
        for place in folders.search_path(self._folder):
            folder = place / str(self._version)
            try:
                content = memoryview((folder / self._name(key)).read_bytes())
            except OSError:
                continue
            if hashlib.sha256(content[SUM_BYTES:]).digest() != content[:SUM_BYTES]:
                continue  # cut short by a full disk or a power failure: compiled and written anew
            try:
                found, reduced = pickle.loads(content[SUM_BYTES:])
            except Exception:  # whatever the classes of another library's version may raise
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
        """Whatever of the machine, the libraries, their settings and the function's closure is in the code."""
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
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _mark_as_used(version: Path) -> None:
    with suppress(OSError):  # of a folder that is not ours to write
        if time.time() - version.stat().st_mtime > DAY_S:
            os.utime(version)


def _prune(place: Path, version: str) -> None:
    """Remove all but the versions of a module's kernels that were used last. Who runs one has it in memory."""
    others = place.glob(f"{version.rpartition('-')[0]}-*")
    by_use = sorted((path.stat().st_mtime, path) for path in others if path.name != version)
    for _, path in by_use[: 1 - KEPT]:
        shutil.rmtree(path, ignore_errors=True)
