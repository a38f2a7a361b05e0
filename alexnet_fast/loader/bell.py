"""Wakes one thread."""

from __future__ import annotations

import threading
from contextlib import suppress


class Bell:
    """One waits, any may ring, the garbage collector too; rung while nobody waits, it is heard by the next wait.

    Who waits or rings may be the main thread, which Ctrl-C can stop between any two lines of Python, those of
    threading.Condition and Event too: they would leave a lock held, or released twice, and the close that
    follows would wait for ever.  This is one lock, which is held while all is quiet, and one call into C.
    """

    def __init__(self) -> None:
        self._quiet = threading.Lock()
        self._quiet.acquire()

    def ring(self) -> None:
        """Wake whoever waits."""
        with suppress(RuntimeError):  # another rang it between these two lines
            if self._quiet.locked():
                self._quiet.release()

    def wait(self, max_s: float) -> bool:
        """Whether it rang; waits for so many seconds at most."""
        return self._quiet.acquire(timeout=max_s)
