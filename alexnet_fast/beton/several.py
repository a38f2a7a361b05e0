"""Several beton files as one: ``["a.beton", "b.beton"]``, a pattern such as "shards/*.beton", or the index of a set.

All files lie side by side in one range of addresses, so ``map`` is one array that holds the bytes of all, and a sample's ``data_ptr`` is
its place there.  So whatever takes a Beton (the kernels, the orders, the advice to the page cache) takes several files,
and nothing of it is slower for one.

The order of the samples is that of the files, and within a file its own.  Classes are compared by name (``union_of_classes``).
"""

from __future__ import annotations

import glob
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from ..common.arguments import field_of, path_of
from ..common.untrusted import open_regular, printable
from ..common.urls import file_name, shown, url_of
from ..errors import UserError
from . import format as fmt
from . import sigbus
from .classes import Classes, class_names, difference, doubt, each_once
from .columns import StoredColumn
from .errors import BetonError, FieldError
from .index_file import MAX_PARTS, IndexedPart, IndexFile, is_index, read_index
from .joined_column import JoinedColumn
from .mapped import Room, Unchanged, logger, side_by_side
from .reader import Beton
from .remote_file import localized
from .sidecar import facts, names, packed_part, samples_checksum
from .target_fields import INT
from .union_of_classes import renumbered, union

One = str | os.PathLike[str]
BetonFiles = One | Sequence[One | Sequence[One]]
"""A file, a pattern, an index, or a list of these; an entry of the list may be a list of files."""


def open_beton(given: BetonFiles, image_field: str | None = None, label_field: str | None = None) -> Beton:
    """A beton, or several as one.

    Args:
        given: the path of a file; a pattern (``*``, ``?``, ``[...]``, ``**``) whose files are taken in sorted order; an index
            (``.json``); or a list of these.
        image_field, label_field: as Beton's.

    Raises:
        BetonError: as Beton; or the files do not belong together.
        FieldError: as Beton.
        UserError: no path, an empty list, a pattern that matches nothing, a file that comes twice.
    """
    if url_of(given) is not None:
        return Beton(_no_index(given), image_field, label_field)
    entries = _entries(given)
    if len(entries) == 1 and len(entries[0]) == 1 and not is_index(entries[0][0]):
        return Beton(entries[0][0], image_field, label_field)
    return BetonSet(given, image_field, label_field)


class BetonSet(Beton):
    """The samples of several beton files, in the order of the files.

    It is a Beton: its arrays are those of all files, one after the other, and ``data_ptr`` counts from the start of ``map``.

    A pickle or copy is the absolute paths of the files, or of the index: it opens the same files, whatever a pattern matches then.

    Args:
        path: see ``open_beton``.
        image_field, label_field: as Beton's, for every file.

    Attributes:
        path: what was given, for messages: the index, the pattern, or the first file and how many more.
        page_size: the largest of the files.
        parts: the files, as Betons.
        starts: (files + 1,) int64, the first sample of each file, and N.
        class_names: of labels 0, 1, ...; empty if no file has names.

    Raises:
        BetonError: as Beton, of any file; a file is not the one that the index names; labels or classes do not belong together.
    """

    parts: list[Beton]
    starts: np.ndarray
    class_names: list[str]

    def __init__(
        self, path: BetonFiles, image_field: str | None = None, label_field: str | None = None
    ) -> None:
        entries = _entries(path)
        image_field, label_field = field_of("image_field", image_field), field_of("label_field", label_field)
        self.location: Any = [[os.path.abspath(one) for one in entry] for entry in entries]
        self._arguments = {
            "path": self.location,
            "image_field": image_field,
            "label_field": label_field,
        }
        self.path = _shown_path(path, entries)
        files = [
            file for number, entry in enumerate(entries) for one in entry for file in _files_at(one, number)
        ]
        _refuse_repeats(files)
        if len(files) > MAX_PARTS:
            raise BetonError(
                f"{self.path} has {len(files):,} files, more than {MAX_PARTS:,}: pack larger ones"
            )
        self.parts = []
        try:
            self._open(files, image_field, label_field)
        except BaseException:
            for part in self.parts:
                part.close()
            raise
        self._settled = True

    def _open(self, files: list[_File], image_field: str | None, label_field: str | None) -> None:
        """Open the files and join what they say."""
        for file in files:
            file.check_size()
        self.page_size = max(file.page_size for file in files)
        try:
            rooms = side_by_side([max(1, file.size) for file in files], self.page_size)
        except (OSError, ValueError, OverflowError) as error:
            raise BetonError(
                f"cannot open {self.path}: no room for its {len(files)} files in the addresses of this process ({error}); raise "
                "ulimit -v"
            ) from error
        for file, room in zip(files, rooms):
            opened = _Part(file.path, image_field, label_field, room)
            self.parts.append(opened)
            file.check(opened)
        first, counts = self.parts[0], [part.num_samples for part in self.parts]
        self.num_samples = sum(counts)
        if self.num_samples > fmt.MAX_SAMPLES:
            raise BetonError(
                f"{self.path} has {self.num_samples:,} samples, more than {fmt.MAX_SAMPLES:,}: give fewer files"
            )
        self.starts = np.array([0, *accumulate(counts)], np.int64)
        self._entries = np.repeat(np.array([file.entry for file in files], np.int32), counts)
        self.fields, self.image_field, self.label_field = first.fields, first.image_field, first.label_field
        self.target_field = first.target_field
        for part in self.parts:
            if part.target_field != first.target_field:
                raise FieldError(
                    f"the label of {part.path} is {part.label_field!r}, of another type than {first.label_field!r} of {first.path}: "
                    "name fields of one type with label_field, or give the files that have one"
                )
        every: np.ndarray = np.asarray(rooms[0].pages)
        self.map = every
        with self.unchanged:
            self.images = np.concatenate([part.images for part in self.parts])
            for room, begin, end in zip(rooms, self.starts, self.starts[1:]):
                self.images["data_ptr"][begin:end] += np.uint64(room.begin)
            self.sizes = np.concatenate([part.sizes for part in self.parts])
            self._join_labels(files)

    def _join_labels(self, files: list[_File]) -> None:
        labels = [part.labels for part in self.parts]
        self.class_names = []
        if self.target_field == INT:
            named = [(str(part.path), file.classes_of(part)) for file, part in zip(files, self.parts)]
            self._warn_of_missing_parts(files)
            if have := [each for each in named if each[1]]:  # without any names there is nothing to compare
                self.class_names = union(have)
                labels = [
                    renumbered(of_part, classes, self.class_names, whose) if classes else of_part
                    for of_part, (whose, classes) in zip(labels, named)
                ]
                known = Classes(have[0][0], np.arange(len(self.class_names)), self.class_names)
                for (whose, classes), of_part in zip(named, labels):
                    self._compare(known, Classes(whose, each_once(of_part), classes and self.class_names))
        self.labels = np.concatenate(labels)

    def _warn_of_missing_parts(self, files: list[_File]) -> None:
        """Where files that no index names are some of the parts of one packing, log which others there are."""
        found: dict[tuple[str, int], set[int]] = {}
        for whole, number, count in (file.part_of for file in files if file.part_of):
            found.setdefault((whole, count), set()).add(number)
        for (_, count), numbers in found.items():
            if missing := sorted(set(range(1, count + 1)) - numbers):
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                logger.warning(
                    "%s has %d of the %d parts of a set: part %d%s is missing",
                    self.path,
                    len(numbers),
                    count,
                    missing[0],
                    more,
                )

    def _compare(self, known: Classes, other: Classes) -> None:
        """Refuse or doubt labels of a file without names."""
        if found := difference(known, other):
            raise BetonError(f"{found}: the files cannot be one set; pack them from one list of classes")
        if doubtful := doubt(known, other):
            logger.warning("%s: they are taken as they are", doubtful)

    @property
    def files(self) -> list[Path]:
        return [part.path for part in self.parts]

    @property
    def entries(self) -> np.ndarray:
        return self._entries

    def column(self, name: str) -> StoredColumn:
        return JoinedColumn([part.column(name) for part in self.parts], self.starts)

    def of(self, index: int) -> tuple[Beton, int]:
        """The file that holds sample ``index``, and the sample's place there."""
        k = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[k], int(index - self.starts[k])

    def source(self, index: int) -> str:
        part, place = self.of(index)
        return f"sample {index} of {self.path}, {part.source(place)}"

    def source_path(self, index: int) -> str | None:
        part, place = self.of(index)
        return part.source_path(place)

    @cached_property
    def sidecar(self) -> dict[str, Any] | None:
        """What the files' json say in common, with their counts added; the classes alone if one has none. Read at the first access."""
        found = [part.read_sidecar() for part in self.parts]
        documents = [document for document in found if document is not None]
        if len(documents) < len(found):
            return self.read_sidecar()
        settings = [each for document in documents if isinstance(each := document.get("settings"), dict)]
        converted = Counter[str]()
        for document in documents:
            for kind, count in facts(document.get("counts"), "converted").items():
                converted[kind] += count if isinstance(count, int) else 0
        corrupt = [each for document in documents if isinstance(each := document.get("corrupt"), dict)]
        packers = {str(document.get("packer")) for document in documents}
        return {
            **self._read_classes(),
            "packer": packers.pop() if len(packers) == 1 else "several packers",
            "settings": {
                key: value
                for key, value in (settings[0] if settings else {}).items()
                if all(key in other and other[key] == value for other in settings)
            },
            "counts": {"converted": dict(converted)},
            "skipped": list(chain(*(names(document, "skipped") for document in documents))),
            "corrupt": {key: each[key] for each in corrupt for key in each}
            if len(corrupt) == len(documents)
            else None,
            "paths": list(chain(*(names(document, "paths") for document in documents))),
        }

    def read_sidecar(self) -> dict[str, Any] | None:
        """The names of the classes alone, as the sidecars or the index have them."""
        return self._read_classes() or None

    def _read_classes(self) -> dict[str, Any]:
        return {"classes": self.class_names} if self.class_names else {}

    @property
    def names_at(self) -> str:
        return f"the .json files of {self.path}, and give the files in place of an index,"

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)

    def index_checksum(self) -> int:
        """CRC-32 of those of the files."""
        return zlib.crc32(np.array([part.index_checksum() for part in self.parts], np.uint32).tobytes())

    def check(self) -> None:
        """Check every file as ``mapped.Witness.check``: 1.5 us each."""
        _Files(self.parts).check()

    @property
    def unchanged(self) -> Unchanged:
        """As Beton's, for every file: it costs as much for each."""
        sigbus.install()
        return Unchanged(_Files(self.parts))

    def unchanged_at(self, places: np.ndarray) -> Unchanged:
        """As ``unchanged``, for the files alone that hold the samples at these places."""
        sigbus.install()
        which = np.unique(np.searchsorted(self.starts, places, side="right") - 1)
        return Unchanged(_Files([self.parts[k] for k in which]))

    @property
    def lost_its_name(self) -> bool:
        return any(part.lost_its_name for part in self.parts)

    def expect_random_access(self) -> None:
        for part in self.parts:
            part.expect_random_access()

    def close(self) -> None:
        for part in self.parts:
            part.close()
        del self.map

    def __enter__(self) -> BetonSet:
        return self

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        BetonSet.__init__(self, **arguments)


class _Part(Beton):
    """One of the files, mapped next to the others."""

    def __init__(self, path: Path, image_field: str | None, label_field: str | None, room: Room) -> None:
        self._room = room
        super().__init__(path, image_field, label_field)

    def __reduce__(self) -> tuple[type[Beton], tuple[Any, ...]]:
        return Beton, tuple(self._arguments.values())


class _Files:
    """Files that are checked together."""

    def __init__(self, parts: Sequence[Beton]) -> None:
        self._witnesses = [part._file for part in parts]

    def check(self) -> None:
        for witness in self._witnesses:
            witness.check()


class _File:
    """A file to open, and what its index says about it.

    Attributes:
        entry: which entry of the given list it is from.
        size, page_size: of the file, after ``check_size``.
        part_of: which part of which packing it is (``sidecar.packed_part``), after ``classes_of``; None for one of an index.
    """

    def __init__(
        self, path: Path, entry: int, part: IndexedPart | None = None, index: IndexFile | None = None
    ) -> None:
        self.path, self.entry, self._part, self._index = path, entry, part, index
        self.size = 0
        self.page_size = fmt.DEFAULT_PAGE_SIZE
        self.part_of: tuple[str, int, int] | None = None

    def check_size(self) -> None:
        """Look at the file before it is mapped; Beton reports what is wrong with one that no index names.

        Raises:
            BetonError: it is not the one that the index names.
        """
        try:
            with open_regular(self.path) as file:
                header = file.read(fmt.HEADER.itemsize)
                self.size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            if self._index is not None:
                raise self._differs("does not exist") from None
            return
        except (OSError, ValueError) as error:
            if self._index is not None:
                raise self._differs(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
            return
        if self._part is not None and self.size != self._part.bytes:
            how = "truncated, or packed again" if self.size < self._part.bytes else "packed again"
            raise self._differs(f"has {self.size:,} bytes and not {self._part.bytes:,}: it was {how}")
        if len(header) == fmt.HEADER.itemsize:
            page_size = int(np.frombuffer(header, fmt.HEADER)[0]["page_size"])
            if page_size & (page_size - 1) == 0:  # Beton refuses others
                self.page_size = max(fmt.MIN_PAGE_SIZE, page_size)

    def check(self, beton: Beton) -> None:
        """Check an opened file against the index.

        Raises:
            BetonError: it is another one.
        """
        if self._part is None:
            return
        if beton.num_samples != self._part.samples:
            raise self._differs(f"has {beton.num_samples:,} samples and not {self._part.samples:,}")
        with beton.unchanged:
            checksum = f"{beton.index_checksum():08x}"
        if checksum != self._part.index_crc32:
            raise self._differs("has another checksum: it was changed, or packed again")

    def check_samples(self, beton: Beton) -> None:
        """Check the checksums of an opened file's samples, as its json lists them, against the index.

        Raises:
            BetonError: they are others.
        """
        if self._part is None or not self._part.samples_crc32:
            return
        if samples_checksum(beton.read_sidecar()) != self._part.samples_crc32:
            raise self._differs(
                f"has no {beton.path.name}.json with the checksums of its samples that the index knows"
            )

    def classes_of(self, beton: Beton) -> list[str]:
        """The classes of labels 0, 1, ... in this file.

        Raises:
            BetonError: they cannot be read.
        """
        if self._part is None or self._index is None:
            sidecar = beton.read_sidecar()
            self.part_of = packed_part(sidecar)
            return class_names(beton, sidecar)
        own = self._part.classes
        return class_names(beton, {"classes": list(self._index.classes if own is None else own)})

    def _differs(self, what: str) -> BetonError:
        assert self._index is not None
        return BetonError(
            f"{printable(str(self.path))}, a part of {self._index.path}, {what}; restore it, or, if that is meant, write the index again "
            "with pack --join"
        )


def trouble_of(index: IndexFile, part: IndexedPart) -> str:
    """Why a file is not the part that an index names, in words; "" if it is."""
    file = _File(index.place(part), 0, part, index)
    try:
        file.check_size()
        with Beton(file.path) as beton:
            file.check(beton)
            file.check_samples(beton)
    except FieldError:
        return ""  # which of its fields is read is not the index's business
    except BetonError as error:
        return str(error)
    return ""


def expanded(given: BetonFiles) -> list[Path]:
    """The files and indexes that were given, patterns replaced by what they match.

    Raises:
        UserError: as ``open_beton``.
    """
    return list(chain(*_entries(given)))


def _entries(given: BetonFiles) -> list[list[Path]]:
    """The files and indexes of each entry of the list that was given."""
    if isinstance(given, (str, bytes, os.PathLike)) or not isinstance(given, Sequence):
        return [_matched(given)]
    if not given:
        raise UserError("path is an empty list, expected at least one .beton file")
    entries = []
    for entry in given:
        if isinstance(entry, (list, tuple)):
            if not entry:
                raise UserError("path has an empty list in it, expected at least one .beton file")
            entries.append(list(chain(*map(_matched, entry))))
        else:
            entries.append(_matched(entry))
    return entries


def _no_index(url: Any) -> Any:
    """A file's URL; UserError for that of an index, which names its files by paths."""
    if is_index(Path(file_name(str(url)))):
        raise UserError(
            f"{shown(str(url))} is an index, and an index is read from a local disk: give the URLs of its files as a list, in its order"
        )
    return url


def _matched(given: object) -> list[Path]:
    if url_of(given) is not None:  # whose ? is no pattern
        return [localized(_no_index(given))]
    path = path_of("path", given)
    if not glob.has_magic(str(path)) or os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise UserError(f"{path} matches no file: correct the pattern, or pack the files first")
    return list(map(Path, found))


def _files_at(path: Path, entry: int) -> list[_File]:
    if not is_index(path):
        return [_File(path, entry)]
    index = read_index(path)
    return [_File(index.place(part), entry, part, index) for part in index.parts]


def _refuse_repeats(files: Sequence[_File]) -> None:
    seen: dict[object, Path] = {}
    for file in files:
        key: object = os.path.abspath(file.path)
        with suppress(OSError):
            status = os.stat(file.path)
            key = (status.st_dev, status.st_ino)
        if key in seen:
            raise UserError(
                f"{file.path} comes twice (as {seen[key]}): name each file once, and give weights or an order to repeat samples"
            )
        seen[key] = file.path


def _shown_path(given: BetonFiles, entries: list[list[Path]]) -> Path:
    """What messages call the set."""
    if isinstance(given, (str, os.PathLike)):
        return Path(given)
    first, *more = chain(*entries)
    return first if not more else first.with_name(f"{first.name} and {len(more)} more")
