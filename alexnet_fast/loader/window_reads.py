"""What to request from the disk before each batch of an order that has windows: whole windows, in the order of the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .orders import Drawn


class WindowReads:
    """The samples to request before each batch of one epoch.

    Whatever a batch's window holds is requested before the batch; of the window after it, the same share as the batches have used
    of theirs.  So the disk is read at an even rate, and at most two windows are needed in memory.

    Args:
        samples: (N,) kernel.SAMPLE_DTYPE, those of the set.
        order: the epoch's, with windows.
        following: returns the next epoch's order, of which the first window follows this epoch's last; called when it is needed.
        first: the position of the first batch.
        asked: how many samples of the epoch's first window are requested already.
    """

    def __init__(
        self,
        samples: np.ndarray,
        order: Drawn,
        following: Callable[[], Drawn],
        first: int = 0,
        asked: int = 0,
    ) -> None:
        assert order.windows is not None
        self._samples, self._order, self._following = samples, order, following
        self._begins = order.windows
        self._last = len(self._begins) - 2
        self._end, self._asked = first, asked
        window = self._window_at(first)
        self._go_to(window, 0 if window else asked)

    @property
    def asked_of_next(self) -> int:
        """How many samples of the next epoch's first window are requested already."""
        return self._asked if self._at > self._last else 0

    def before(self, end: int) -> np.ndarray:
        """What is to be requested before a batch that ends before this position, and was not yet: (n,) kernel.SAMPLE_DTYPE.

        For one batch after the other, in the epoch's order.
        """
        self._end, window = end, self._window_at(end - 1)
        parts = []
        while self._at <= window:
            parts.append(self._window[self._asked :])
            self._go_to(self._at + 1)
        begin, next_begin = self._begins[window : window + 2]
        due = -(-len(self._window) * (end - begin) // (next_begin - begin))
        parts.append(self._window[self._asked : due])
        self._asked = max(self._asked, due)
        return np.concatenate(parts)

    def again(self) -> np.ndarray:
        """What the last batch's window holds, and what was requested of the next, once more."""
        self._go_to(self._window_at(self._end - 1))
        return self.before(self._end)

    def _window_at(self, position: int) -> int:
        return int(np.searchsorted(self._begins, position, side="right")) - 1

    def _go_to(self, window: int, asked: int = 0) -> None:
        order, at = (self._order, window) if window <= self._last else (self._following(), 0)
        assert order.windows is not None
        begin, end = order.windows[at : at + 2]
        members = self._samples[order.places[begin:end]]
        self._at, self._asked = window, asked
        self._window: np.ndarray = members[np.argsort(members["ptr"], kind="stable")]
