"""Whether a beton is intact: every sample decodes, matches its checksum and, if the folder is given, its source."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ..beton import format as fmt
from ..beton.columns import NUL
from ..beton.index_file import SUFFIX, is_index
from ..beton.reader import Beton, BetonError, FieldError
from ..beton.remote_file import localized
from ..beton.sidecar import FIELDS_CRC32, checksums, names
from ..common.untrusted import printable
from ..decode.decoder import Decoder
from ..decode.kernel import sample_table
from ..decode.status import MEANING, OK
from ..errors import UserError
from ..packing.errors import WorkerDied
from ..packing.sources import Dataset
from ..packing.sources.image_folder import FolderDataset
from ..packing.sources.listing import entries
from ..packing.worker_pool import ordered_map
from .compare_source import PackedSource
from .verify_index import parts_there, troubles

Fields = tuple[str | None, str | None]  # names of the image's and the label's

SIDE_PX = 64  # to which a sample is decoded; the pixels are not used


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file."""

    what: str
    index: int | None = None
    """The sample, or None: the complete file."""
    path: str = ""
    """The sample's source, if the sidecar names it."""

    def __str__(self) -> str:
        named = f" ({printable(self.path)})" if self.path else ""
        what = printable(self.what, 1000)
        return what if self.index is None else f"sample {self.index}{named}: {what}"


@dataclass
class Verdict:
    """The result for one file."""

    path: Path
    samples: int = 0
    checked: list[str] = field(default_factory=list)
    """What is true of every sample that is not among the faults."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be checked, and why."""
    faults: list[Fault] = field(default_factory=list)
    opened: bool = False
    """Whether its samples were checked; if not, its only fault says why."""

    def lines(self) -> list[str]:
        """The faults, one a line, and a sentence on the file."""
        if not self.opened:
            return [str(fault) for fault in self.faults]  # the reader names the file
        return [*(f"{self.path}: {fault}" for fault in self.faults), str(self)]

    def __str__(self) -> str:
        state = f"{len(self.faults):,} fault{'s' * (len(self.faults) > 1)}" if self.faults else "no fault"
        *most, last = self.checked or [""]
        held = f"{', '.join(most)} and {last}" if most else last
        checked = f": every sample {held}" if held and not self.faults else ""
        unchecked = f" (not checked: {'; '.join(self.unchecked)})" if self.unchecked else ""
        return f"{self.path}: {self.samples:,} samples, {state}{checked}{unchecked}"


def betons_at(given: Path | str) -> list[Path]:
    """The .beton files of a folder, or of an index's parts, each index first; for any other path, the path itself.

    For a URL, its local copy, which may have to be fetched.

    Raises:
        UserError: the folder has none, or cannot be listed; or the URL's file cannot be fetched.
    """
    path = localized(given)
    if is_index(path):
        return [path, *parts_there(path)]
    if not os.path.isdir(path):
        return [path]
    named = [entry.name for entry in entries(path)]
    found = [path / name for end in (SUFFIX, ".beton") for name in named if name.endswith(end)]
    if not found:
        raise UserError(
            f"{path} contains no .beton file; give --verify such files, or a folder that contains some"
        )
    return found


def verify(
    path: Path,
    source: Path | Dataset | None = None,
    *,
    workers: int,
    image_field: str | None = None,
    label_field: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Check every sample of a beton.

    Args:
        source: what it was packed from; a path is the split's folder, or the data folder that contains it.
        workers: processes that decode and encode.
        image_field, label_field: as for Beton.
        progress: called with the number of samples done and of all samples.

    Raises:
        UserError: there is no such file, or its sidecar does not say what it was packed from.
        FieldError: the file has several possible fields and none is named; the file itself is intact.
        WorkerDied: a process died while it checked a sample, which the error names.
        BetonError: the file was changed meanwhile.
    """
    try:
        path.stat()  # from Python 3.14 on exists() does not tell a file that is missing from one that may not be seen
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UserError(f"{path} does not exist; give --verify .beton files, or folders of them") from None
    verdict = Verdict(path)
    if is_index(path):
        return _of_index(verdict)
    source = FolderDataset(source) if isinstance(source, Path) else source
    fields = (image_field, label_field)
    with ExitStack() as stack:
        try:
            beton = stack.enter_context(Beton(path, *fields))
            verdict.samples = beton.num_samples
            paths = names(beton.sidecar, "paths")
            if beton.sidecar is None or checksums(beton.sidecar, beton) is None:
                verdict.unchecked.append(
                    f"checksums: {path.name}.json {'is missing' if beton.sidecar is None else 'has none'}"
                )
            else:
                verdict.checked.append("matches its checksum")
            compared = PackedSource.of(beton, source) if source else None
        except FieldError:
            raise
        except BetonError as error:
            verdict.faults.append(Fault(str(error)))
            return verdict
        verdict.opened = True
        verdict.checked.insert(0, "decodes completely")
        if compared:
            verdict.checked.append(_equality(compared))
            verdict.unchecked += [compared.unchecked()] if compared.unchecked() else []
            verdict.faults += [Fault(what) for what in compared.faults_of_the_file()]
        else:
            verdict.unchecked.append("its source: no --source was given")
        work = partial(look_at, str(path), fields, source)
        outcomes = ordered_map(
            work, range(verdict.samples), workers, doing=lambda index: f"looking at sample {index}"
        )
        try:
            with beton.unchanged:
                for index, whats in enumerate(outcomes):
                    named = paths[index] if index < len(paths) else ""
                    verdict.faults += [Fault(what, index, named) for what in whats]
                    progress(index + 1, verdict.samples)
                if compared and not verdict.faults and (changed := compared.changed()):
                    verdict.faults.append(Fault(changed))
        except WorkerDied as error:
            raise WorkerDied(f"{path} was not verified: {error.what}", error.remedy) from error
        finally:
            outcomes.close()
            _open.clear()  # in case this process was the worker
        if beton.lost_its_name:  # each worker opened it by its name
            raise BetonError(f"{path} was replaced or deleted while it was verified; verify it again")
    return verdict


def _of_index(verdict: Verdict) -> Verdict:
    """Whether the parts of a set are those that its index names; each part's samples have a verdict of their own."""
    verdict.samples, parts, faults = troubles(verdict.path)
    verdict.opened = parts > 0
    verdict.faults = [Fault(what) for what in faults]
    verdict.checked = [f"is in one of its {parts} parts, whose checksums are those that it names"]
    return verdict


def _equality(source: PackedSource) -> str:
    """What each sample has in common with its source, in words."""
    if source.encoding.mode == "lossless":
        encoded = " (if it was converted, equals it encoded again)" if source.same_encoder else ""
        return f"has its source's coefficients{encoded if source.converted else ''}"
    if not source.same_encoder:
        return "has its source's size"
    return "has its source's pixels" if source.encoding.mode == "raw" else "equals its source encoded again"


def look_at(path: str, fields: Fields, source: Dataset | None, index: int) -> list[str]:
    """What is wrong with one sample, in words. Runs in a worker process."""
    return _opened(path, fields, source).faults(index)


class _Opened:
    """A beton that a worker keeps open."""

    def __init__(self, path: str, fields: Fields, source: Dataset | None) -> None:
        self.named = (path, fields, source)
        self._beton = Beton(path, *fields)
        self._checksums = checksums(self._beton.sidecar or {}, self._beton)
        self._of_fields = checksums(self._beton.sidecar or {}, self._beton, FIELDS_CRC32)
        others = [each for each in self._beton.fields if each.type_id != fmt.RGB_IMAGE_ID]
        self._columns = [] if self._of_fields is None else [self._beton.column(each.name) for each in others]
        self._source = PackedSource.of(self._beton, source) if source else None
        self._decoder = Decoder(SIDE_PX)
        self._samples = sample_table(self._beton)

    def faults(self, index: int) -> list[str]:
        with self._beton.unchanged:
            return self._faults(index)

    def _faults(self, index: int) -> list[str]:
        stored = self._beton.payload(index).tobytes()
        found = []
        if self._checksums is not None and zlib.crc32(stored) != self._checksums[index]:
            found.append(
                f"its {len(stored)} bytes have the CRC-32 {zlib.crc32(stored):08x}, expected {self._checksums[index]:08x}"
            )
        if self._of_fields is not None:
            following = b"".join(
                each.stored(index) or NUL for each in self._columns if not each.kind.is_number
            )
            if (found_crc := zlib.crc32(following)) != self._of_fields[index]:
                found.append(
                    f"its fields have the CRC-32 {found_crc:08x}, expected {self._of_fields[index]:08x}"
                )
        _, status = self._decoder.decode_one(self._beton.map, self._samples[index : index + 1])
        if status != OK:
            found.append(f"it does not decode: {MEANING[status]}")
        elif self._source:
            image = self._beton.images[index]
            size = int(image["width"]), int(image["height"])
            what = self._source.fault(index, stored, self._beton.labels[index].tolist(), size)
            found += [what] if what else []
        return found


_open: list[_Opened] = []


def _opened(path: str, fields: Fields, source: Dataset | None) -> _Opened:
    if not _open or _open[0].named != (path, fields, source):
        _open[:] = [_Opened(path, fields, source)]
    return _open[0]
