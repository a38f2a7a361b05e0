"""What the standard library leaves to us: names and texts that survive a power cut, and a lock that is waited for."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` outlive a power cut: what was created, renamed or deleted there.

    Raises:
        OSError: it cannot be opened, or the disk has not kept it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # a file system that cannot, as some of a network
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that `path` is at any moment the old one or the new one, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def open_locked(path: Path, taken: Callable[[], object]) -> int:
    """A descriptor of the file at ``path``, made where there is none, that no other process has at the same time.

    The kernel drops the lock with the descriptor, however the process ends.  Whoever holds it may delete the file before.

    Args:
        taken: called where another has it; then it is waited for, unless ``taken`` raises.

    Raises:
        OSError: the file cannot be written.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _wait_for(file, taken)
            # Whoever held it until now may have deleted it, and a third have made a new one.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


@contextmanager
def hold_lock(path: Path, taken: Callable[[], object]) -> Iterator[None]:
    """Hold the lock at ``path`` (see ``open_locked``); the file goes with it, however this ends."""
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
        pass  # a file system without locks: nobody waits there
