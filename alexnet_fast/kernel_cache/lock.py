"""One process compiles, the others wait and load: a lock file in the folder that they share."""

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
PATIENCE_S = 2.0
MAX_WAIT_S = 180.0  # a process that was stopped, by a debugger or a scheduler, keeps its turn

logger = logging.getLogger("alexnet_fast")
T = TypeVar("T")


class CompileLock:
    """The right to compile into a folder, which one process has at a time; it ends with the process at the latest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "compiling.lock"
        self._file: int | None = None
        self._has = False
        self._gave_up = False

    def wait(self, look: Callable[[], T | None]) -> T | None:
        """What ``look`` finds as soon as another process has compiled it, or None when it is for us to compile."""
        if self._has or self._gave_up:
            return None
        started, told = time.monotonic(), False
        while not self._take():
            time.sleep(POLL_S)
            if (found := look()) is not None:
                return found
            waited_s = time.monotonic() - started
            if waited_s > PATIENCE_S and not told:
                told = True
                logger.warning("waiting for another process to compile the kernels; it holds %s", self._path)
            if waited_s > MAX_WAIT_S:
                self._gave_up = True
                logger.warning(
                    "another process has held %s for %.0f s: compiling here too", self._path, waited_s
                )
                return None
        return look()  # compiled just before the turn came to us?

    def release(self) -> None:
        """Let the others compile."""
        if self._file is not None:
            with suppress(OSError):
                if self._has:
                    fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child would keep what is only closed
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


# A child that was forked in the middle of a compilation would wait for ever for the thread that it does not have.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)
_locks: dict[Path, CompileLock] = {}
_depth = 0


def lock_of(folder: Path) -> CompileLock:
    """This process's place in the queue for a folder."""
    return _locks.setdefault(folder, CompileLock(folder))


@contextmanager
def compile_lock() -> Iterator[None]:
    """Around a compilation and those of the kernels inlined in it: when the outermost ends, the turn goes to the next process."""
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
