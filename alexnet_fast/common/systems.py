"""Calls that Linux has and macOS lacks: there the same is done in another way, or not at all where it is only advice.

Looked up at each call, so that a test can take them away.
"""

from __future__ import annotations

import os
import resource


def sync_data(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk; without fdatasync its times are written too."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def advise(descriptor: int, offset: int, length: int, advice: str) -> None:
    """posix_fadvise with the advice of that name (os.POSIX_FADV_...); nothing where there is none, since it changes no result."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, getattr(os, f"POSIX_FADV_{advice}"))


def major_faults() -> int:
    """Page faults of the calling thread that waited for the disk; where threads are not told apart, those of the process."""
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_majflt


def open_directly(path: str | os.PathLike[str]) -> int:
    """Open a file for reads that bypass the page cache; returns the descriptor.

    Raises:
        OSError: the file system or the operating system cannot.
    """
    if not hasattr(os, "O_DIRECT"):
        raise OSError(f"{os.uname().sysname} has no O_DIRECT")
    return os.open(path, os.O_RDONLY | os.O_DIRECT)


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/dev/fd"))  # on Linux /proc/self/fd
