"""Memory that a process shares with its workers: anonymous files, of which a worker gets the name (Linux: /proc/PID/fd/N).

Unlike a temporary file it is free again when the process that made it ends, in whatever way.
"""

from __future__ import annotations

import os
from typing import Any


class SharedMemory:
    """An anonymous file in memory.  Its pickled form opens the same memory, as long as the process that pickled it runs."""

    def __init__(self, name: str) -> None:
        self.file = os.memfd_create(f"alexnet_fast-{name}")

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _opened, (f"/proc/{os.getpid()}/fd/{self.file}",)

    def __del__(self) -> None:
        if (file := getattr(self, "file", None)) is not None:
            os.close(file)


def _opened(name: str) -> SharedMemory:
    memory = SharedMemory.__new__(SharedMemory)
    # Opened again rather than passed on: so each process has locks of its own.
    memory.file = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    return memory
