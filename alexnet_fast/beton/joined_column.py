"""The values of one field over several files."""

from __future__ import annotations

from typing import Any

import numpy as np

from .columns import StoredColumn
from .errors import FieldError


class JoinedColumn(StoredColumn):
    """The values of a field of several files, one file after the other.

    Args:
        parts: the field in each file.
        starts: (files + 1,) int64, the first sample of each file, and N.

    Raises:
        FieldError: it is not of one type in all files.
    """

    def __init__(self, parts: list[StoredColumn], starts: np.ndarray) -> None:
        self.name, self.kind, self._parts, self._starts = parts[0].name, parts[0].kind, parts, starts
        for part in parts:
            if part.kind != self.kind:
                raise FieldError(
                    f"the field {self.name!r} is {part.kind} in {part.whose} and {self.kind} in {parts[0].whose}: give files in "
                    "which it is of one type"
                )

    def take(self, indices: np.ndarray | slice) -> np.ndarray | list[Any]:
        """As ``StoredColumn.take``, by places in the whole set."""
        places = np.arange(self._starts[-1])[indices] if isinstance(indices, slice) else indices
        of_file = np.searchsorted(self._starts, places, side="right") - 1
        values: Any = [None] * len(places)
        if self.kind.is_number or self.kind.is_array:
            values = np.empty((len(places), *self.kind.shape), self.kind.dtype)
        for number in np.unique(of_file).tolist():
            own = np.flatnonzero(of_file == number)
            taken = self._parts[number].take(places[own] - self._starts[number])
            if isinstance(taken, list):
                for place, value in zip(own.tolist(), taken):
                    values[place] = value
            else:
                values[own] = taken
        return values  # type: ignore[no-any-return]

    def stored(self, index: int) -> bytes:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._parts[number].stored(int(index - self._starts[number]))
