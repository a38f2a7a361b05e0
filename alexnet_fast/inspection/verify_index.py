"""Whether the parts of a set belong together: each is the file that the index names."""

from __future__ import annotations

from pathlib import Path

from ..beton.errors import BetonError
from ..beton.index_file import read_index
from ..beton.several import BetonSet, trouble_of
from ..errors import UserError


def parts_there(path: Path) -> list[Path]:
    """The parts of an index that exist; none if it cannot be read, which its own verdict says."""
    try:
        index = read_index(path)
    except BetonError:
        return []
    return [place for part in index.parts if (place := index.place(part)).exists()]


def troubles(path: Path) -> tuple[int, int, list[str]]:
    """The samples and the parts that an index names (0 if it cannot be read), and what is wrong, in words."""
    try:
        index = read_index(path)
    except BetonError as error:
        return 0, 0, [str(error)]
    found = [what for part in index.parts if (what := trouble_of(index, part))]
    if not found:
        try:
            BetonSet(path).close()
        except UserError as error:  # together they are no set
            found = [str(error)]
    return index.samples, len(index.parts), found
