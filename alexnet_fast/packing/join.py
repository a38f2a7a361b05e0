"""Writes the index that joins the parts of a set, and adds parts to one.

Who writes it: whichever part of N ends last.  Each part, when its file has its final name, takes the lock of the index and looks
whether all are there; so the one that takes it last sees all.  An interruption before that loses nothing: the same
command again, of any part, or ``--join``, writes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..beton.classes import class_names
from ..beton.errors import BetonError
from ..beton.index_file import IndexedPart, IndexFile, index_path, is_index, read_index
from ..beton.reader import Beton
from ..beton.several import BetonSet, expanded
from ..beton.sidecar import PART, samples_checksum
from ..common.files import hold_lock
from ..common.untrusted import printable
from ..errors import UserError
from .errors import OutputExists, OutputUnwritable
from .manifest import differing
from .parts import PartOf, all_parts


def join(index: Path, files: Sequence[Path]) -> IndexFile:
    """Write the index of these files, in this order.

    Args:
        files: betons, patterns, and indexes, which stand for their parts, also the index itself; none = the parts that it has now.

    Raises:
        BetonError: a file cannot be read, or they cannot be one set.
        UserError: a name that does not end in .json, a file that comes twice.
        OutputUnwritable: it cannot be written.
    """
    if not is_index(index):
        raise UserError(
            f"--join {index}: the first name is the index's and ends in .json, as {index_path(index).name}, and the files follow"
        )
    named = expanded([*files] or [index])
    parts = [part for each in named for part in (_parts_of(each) if is_index(each) else [each])]
    with _alone_with(index):
        return _written(index, parts)


def join_parts(beton: Path, own: PartOf, fresh: bool = False) -> tuple[IndexFile | None, list[Path]]:
    """Write the index of the parts of a set, if all are finished.

    Args:
        beton: where the set would be as one file.
        own: the part that was just packed: the others must be of the same settings and images.
        fresh: others that are not are going to be packed again, and an index that names other files is replaced.

    Returns:
        The index, and the parts that are not finished, without which there is none.

    Raises:
        OutputExists: the parts do not belong together, or an index of others is there.
        OutputUnwritable: it cannot be written.
    """
    index, parts = index_path(beton), all_parts(own.count)
    paths = [part.path(beton) for part in parts]
    with _alone_with(index):
        if missing := [path for path in paths if not path.exists()]:
            return None, missing
        expected = [{**_settings(own.path(beton)), PART: str(part)} for part in parts]
        now = [_settings(path) for path in paths]
        others = [path for path, *both in zip(paths, expected, now) if both[0] != both[1]]
        if others and fresh:
            return None, others
        if others:
            keys = differing(*next(both for both in zip(expected, now) if both[0] != both[1]))
            raise OutputExists(
                f"{own.path(beton)} and {others[0]} do not belong together: they differ in {', '.join(map(printable, keys))}",
                "pack one of them again with --fresh, all with the same settings and images",
            )
        return _written(index, _with_others(index, paths, fresh)), []


@contextmanager
def _alone_with(index: Path) -> Iterator[None]:
    """Hold the lock of an index while the body runs; raises OutputUnwritable where it, or the index, cannot be written."""
    try:
        with hold_lock(index.with_name(index.name + ".lock"), lambda: None):
            yield
    except OSError as error:
        raise OutputUnwritable(
            f"cannot write {index}: {error.strerror or error}",
            "make room or choose another folder; no packed image is lost",
        ) from error


def check_index(beton: Path, count: int, fresh: bool) -> None:
    """Check that ``join_parts`` will be able to write the index; for callers that pack for hours before.

    Raises:
        OutputExists: an index of other files is there.
    """
    index = index_path(beton)
    _with_others(index, [part.path(beton) for part in all_parts(count)], fresh)


def _with_others(index: Path, paths: list[Path], fresh: bool) -> list[Path]:
    """The parts, among those that were added to the index since."""
    if not os.path.lexists(index):
        return paths
    there = list[Path]()
    with suppress(BetonError):
        there = _parts_of(index)
    own = {os.path.abspath(path) for path in paths}
    if own <= {os.path.abspath(path) for path in there}:
        return there
    if fresh:
        return paths
    what = f"names other files, as {printable(str(there[0]))}" if there else "is not the index of a set"
    raise OutputExists(f"{index} exists already and {what}")


def _settings(path: Path) -> Mapping[str, Any]:
    with Beton(path) as beton:
        found = (beton.read_sidecar() or {}).get("settings")
    return found if isinstance(found, dict) else {}


def _written(index: Path, files: Sequence[Path]) -> IndexFile:
    """The index of these betons, written unless it is there already."""
    with BetonSet(files) as every:  # which makes the checks of every reader
        made = [_indexed(beton, index, every.class_names) for beton in every.parts]
        new = IndexFile(index, tuple(made), tuple(every.class_names))
    if not os.path.lexists(index) or _differs(new):
        new.write()
    return new


def _parts_of(index: Path) -> list[Path]:
    read = read_index(index)
    return [read.place(part) for part in read.parts]


def _differs(new: IndexFile) -> bool:
    try:
        return read_index(new.path) != new
    except BetonError:
        return True


def _indexed(beton: Beton, index: Path, of_all: Sequence[str]) -> IndexedPart:
    sidecar = beton.read_sidecar()
    with beton.unchanged:
        checksum = f"{beton.index_checksum():08x}"
    own = tuple(class_names(beton, sidecar))
    return IndexedPart(
        os.path.relpath(beton.path, index.parent),
        beton.num_samples,
        beton.num_bytes,
        checksum,
        samples_checksum(sidecar),
        None if own == tuple(of_all) else own,
    )
