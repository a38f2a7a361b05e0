"""One process compiles, the others wait and load its code: a lock file in the shared folder."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from numba.core.compiler_lock import global_compiler_lock

POLL_S = 0.05
PATIENCE_S = 2.0  # a longer wait is logged
MAX_WAIT_S = 180.0  # a process that a debugger or a scheduler has suspended keeps the lock

logger = logging.getLogger("alexnet_fast")
T = TypeVar("T")


class CompileLock:
    """The right to compile into a folder, held by one process at a time; it ends with the process at the latest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "compiling.lock"
        self._file: int | None = None
        self._has = False
        self._gave_up = False

    def wait(self, look: Callable[[], T | None]) -> T | None:
        """Wait for the lock; returns what ``look`` finds once another process has compiled it, or None if this process must compile."""
        if self._has or self._gave_up:
            return None
        started, warned = time.monotonic(), False
        while not self._take():
            time.sleep(POLL_S)
            if (found := look()) is not None:
                return found
            waited_s = time.monotonic() - started
            if waited_s > PATIENCE_S and not warned:
                warned = True
                logger.warning("waiting for another process to compile the kernels; it holds %s", self._path)
            if waited_s > MAX_WAIT_S:
                self._gave_up = True
                logger.warning(
                    "another process has held %s for %.0f s: compiling here too", self._path, waited_s
                )
                return None
        return look()  # it may have been compiled just before we got the lock

    def release(self) -> None:
        """Let other processes compile."""
        if self._file is not None:
            with suppress(OSError):
                if self._has:
                    fcntl.flock(
                        self._file, fcntl.LOCK_UN
                    )  # closing alone is not enough: a forked child shares the lock
                os.close(self._file)
        self._file, self._has = None, False

    def _take(self) -> bool:
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks, or another user's file: each compiles for itself
            pass
        self._has = True
        return True


# Forks wait until no compilation runs: a child forked during one would wait for ever for a lock held by a thread it does not have.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)
_locks: dict[Path, CompileLock] = {}
_depth = 0


def lock_of(folder: Path) -> CompileLock:
    """This process's lock for a folder."""
    return _locks.setdefault(folder, CompileLock(folder))


@contextmanager
def compile_lock() -> Iterator[None]:
    """Around a compilation, with those of the kernels inlined in it: when the outermost ends, other processes may compile."""
    global _depth
    with global_compiler_lock:  # numba's own: one thread of a process is here at a time
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
            if _depth == 0:
                for lock in _locks.values():
                    lock.release()
