"""What the standard library lacks: file names and texts that survive a power cut, and a lock file to wait for."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut: what was created, renamed or deleted there.

    Raises:
        OSError: the folder cannot be opened, or the disk reports an error.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that `path` is always the complete old file or the complete new one, even after a power cut.

    The context's value is where the body writes it: PATH.partial, of which nothing stays if the body fails.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file; see ``replacing``."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def open_locked(path: Path, taken: Callable[[], object]) -> int:
    """Create or open the file at ``path`` and lock it; returns its descriptor.  One process has the lock at a time.

    The kernel releases the lock with the descriptor, however the process ends.  The holder may delete the file before that.

    Args:
        taken: called if another process has the lock; then this waits for it, unless ``taken`` raises.

    Raises:
        OSError: the file cannot be written.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _wait_for(file, taken)
            # The previous holder may have deleted the file, and a third process may have created a new one.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


@contextmanager
def hold_lock(path: Path, taken: Callable[[], object]) -> Iterator[None]:
    """Hold the lock at ``path`` (see ``open_locked``) while the body runs; deletes the file at the end, also after an error."""
    lock = open_locked(path, taken)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(lock)


def _wait_for(file: int, taken: Callable[[], object]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        taken()
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks: no process waits there
