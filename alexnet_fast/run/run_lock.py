"""A lock on a run's folder, so that one run uses it at a time.

A run that was signalled, or whose launcher was killed, still saves for a moment, while the next run may have started.
If both wrote, they would delete each other's partial files and mix their checkpoints.
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

LOCK = "run.lock"  # next to the checkpoints, while the run lives; names the process
POLL_S = 0.05


@contextmanager
def run_lock(folder: Path, patience_s: float, say: Callable[[str], None]) -> Iterator[None]:
    """Lock `folder` for this run while the body runs; the lock ends with the process at the latest.

    Waits at most `patience_s` seconds for a run that holds it, and reports that by `say`.  On a file system without
    locks there is no lock.  Raises UserError, naming the process, on a timeout; OSError where the folder cannot be written.
    """
    file = _locked(folder / LOCK, patience_s, say)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        os.close(file)


class _InUse(Exception):
    """Another run holds the lock."""


def _taken() -> None:
    raise _InUse


def _locked(path: Path, patience_s: float, say: Callable[[str], None]) -> int:
    """The descriptor of the lock file, locked, with this process's name in it."""
    reported, deadline = False, time.monotonic() + patience_s
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
                if not reported:
                    say(
                        f"{path.parent} is in use by {holder}: waiting for it to end, at most {patience_s:g} s"
                    )
                reported = True
        time.sleep(POLL_S)
    with suppress(OSError):  # a full disk
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return file
