"""A run's folder is one run's at a time.

A run that was told to stop, or whose launcher was killed, still saves for a moment, and its successor may be there
already: two that write would delete each other's halves and mix their checkpoints.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..common.files import open_locked
from ..errors import UserError

LOCK = "run.lock"  # beside the checkpoints, while the run lives; it says whose it is
POLL_S = 0.05


@contextmanager
def run_lock(folder: Path, patience_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other runs out of `folder` while the body runs; the claim ends with the process at the latest.

    Waits for a run that has it to end, and says so.  On a file system without locks it keeps nobody out.
    Raises UserError, naming the process, where that takes longer than `patience_s`; OSError where the folder cannot
    be written.
    """
    file = _locked(folder / LOCK, patience_s, say)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(file)


class _InUse(Exception):
    """Another run has the folder."""


def _taken() -> None:
    raise _InUse


def _locked(path: Path, patience_s: float, say: Callable[[str], None]) -> int:
    """The lock file, open and held, with this process's name in it."""
    told, deadline = False, time.monotonic() + patience_s
    while True:
        try:
            file = open_locked(path, _taken)
            break
        except _InUse:
            with suppress(OSError):  # it may just have ended
                holder = path.read_text(errors="replace")[:200] or "another run"
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{path.parent} is in use by {holder}, which did not end in {patience_s:g} s: wait for it, "
                        "stop it, or set run.name"
                    ) from None
                if not told:
                    say(
                        f"{path.parent} is in use by {holder}: waiting for it to end, at most {patience_s:g} s"
                    )
                told = True
        time.sleep(POLL_S)
    with suppress(OSError):  # a full disk
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return file
