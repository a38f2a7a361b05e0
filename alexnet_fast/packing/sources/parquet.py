"""Parquet and arrow files, as Hugging Face's image sets have them, as a source.

A column of images, ``{bytes, path}`` or plain bytes, and one of labels; the schema names them and their classes (ClassLabel), or they
have usual names, or ``--columns`` names them.  Rows of one row group (parquet) or record batch (arrow) are unpacked together, once,
into memory that all workers share (``shared_groups``): images are shuffled within their group, and the groups too.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from ...common.progress import progress_bar
from ...common.untrusted import printable
from ...errors import UserError
from ..journal import read_at
from ..kinds import image_suffixes
from . import Choices, LabelType
from .archives import ArchiveDataset, ArchiveReader, Found, Listing
from .key_table import Archive, KeyTable, Row
from .label_numbers import numbered
from .list_rows import IMAGES, LABELS, chosen, label_text
from .listing import FolderError, Ignored
from .shards import first_below
from .shared_groups import HEAD_BYTES, MAX_GROUP_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".arrow")
ARROW_FILE = b"ARROW1"
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
ADVICE = "download or copy it again"


class Columns(NamedTuple):
    """Where a table has its images and labels."""

    image: str
    label: str
    in_struct: bool
    """Whether an image is ``{bytes, path}``."""
    classes: tuple[str, ...]
    """What labels 0, 1, ... mean, by the schema; empty if it does not say."""


@dataclass(frozen=True)
class ParquetReader(ArchiveReader):
    """Reads rows of tables."""

    columns: Columns | None = None

    def size(self, archive: Archive, row: Row) -> int:
        return archive.size  # that of an image would take reading all of them

    def content(self, archive: Archive, row: Row) -> bytes:
        columns = self.columns
        assert columns

        def find(file: int) -> bytes:
            begin, end = np.frombuffer(read_at(file, 16, HEAD_BYTES + 8 * row.size), "<u8").tolist()
            return read_at(file, end - begin, HEAD_BYTES + begin)

        return self.groups.read(
            _number(row.archive, row.at), lambda content: _unpack(archive, row.at, columns, content), find
        )


class ParquetDataset(ArchiveDataset):
    """A folder of tables, or a pattern of their names."""

    kind = "parquet"
    suffixes, what = SUFFIXES, "parquet or arrow files"

    def list_files(self, archives: tuple[Archive, ...]) -> Listing:
        return self._found(archives)[0]

    def made_reader(self, place: str, root: str, table: KeyTable) -> ParquetReader:
        columns = self._found(tuple(table.archives))[1] if table.archives else None
        return ParquetReader(place, root, table, columns=columns)

    def _found(self, archives: tuple[Archive, ...]) -> tuple[Listing, Columns]:
        return _listed(archives, str(self.shards().root), self.choices.columns, self.choices.label_type)


def opened(folder: Path, file: Path | None, choices: Choices) -> ParquetDataset:
    """The tables of a folder or a pattern."""
    return ParquetDataset(file or folder, choices)


def recognises(folder: Path) -> bool:
    """Whether a folder holds tables."""
    return first_below(folder, SUFFIXES) is not None


@lru_cache(maxsize=2)
def _listed(
    archives: tuple[Archive, ...], root: str, given: tuple[str, str] | None, label_type: LabelType
) -> tuple[Listing, Columns]:
    found, labels, groups = Found(), list[str](), list[int]()
    columns: Columns | None = None
    with progress_bar("listing tables", len(archives), unit="tables") as progress:
        for number, archive in enumerate(archives):
            with _reported(archive.path), _opened(archive) as table:
                there = _columns(archive.path, table.schema, given, label_type)
                if columns and there != columns:
                    raise FolderError(
                        f"{archive.path} has other columns or classes than {archives[0].path}; name the files of one set with a pattern"
                    )
                columns = there
                _add_rows(table, archive, number, root, columns, (found, labels, groups))
            progress(number + 1)
    if columns is None or not found.keys:
        raise FolderError(f"{archives[0].path} and the other tables have no row; expected images")
    names, by = list(columns.classes), "the ClassLabel in the schema" if columns.classes else ""
    numbers, classes = numbered(found.keys, labels, root, "class" if names else label_type, names or None)
    listing = Listing(
        found.keys, labels, classes, found.table(numbers, classes, archives), Ignored(), groups, by
    )
    return listing, columns


def _add_rows(
    table: Table,
    archive: Archive,
    number: int,
    root: str,
    columns: Columns,
    into: tuple[Found, list[str], list[int]],
) -> None:
    """Add the rows of one table to what was found."""
    (found, labels, groups), place, at = into, os.path.relpath(archive.path, root), 0
    for group in range(table.groups):
        if (size := table.bytes_of(group)) > MAX_GROUP_BYTES:
            raise FolderError(
                f"{archive.path}: its row group {group} holds {size / 1e9:.1f} GB, too much for memory; write it in smaller ones"
            )
        names, values = _names_and_labels(table, group, columns)
        for row, (name, value) in enumerate(zip(names, values)):
            labels.append(_label(f"{archive.path}, row {at}", value, columns))
            found.add(f"{place}/{at}/{name}" if name else f"{place}/{at}", number, group, row)
            groups.append(_number(number, group))
            at += 1


def _number(archive: int, group: int) -> int:
    """One number for a group of an archive."""
    return archive << 32 | group


def _names_and_labels(table: Table, group: int, columns: Columns) -> tuple[list[str], list[Any]]:
    """The name of each image's file, "" where there is none, and its label."""
    import pyarrow.compute as pc

    has_path = columns.in_struct and table.schema.field(columns.image).type.get_field_index("path") >= 0
    rows = table.read(group, [columns.label, *([f"{columns.image}.path"] if has_path else [])])
    names = [""] * rows.num_rows
    if has_path:
        paths = pc.struct_field(rows.column(columns.image), "path").to_pylist()
        names = [_file_name(path) for path in paths]
    return names, rows.column(columns.label).to_pylist()


def _file_name(path: str | None) -> str:
    name = (path or "").rpartition("/")[2]
    return name if PurePosixPath(name).suffix.lower() in image_suffixes() and "\0" not in name else ""


def _label(place: str, value: Any, columns: Columns) -> str:
    if columns.classes:
        if isinstance(value, int) and 0 <= value < len(columns.classes):
            return columns.classes[value]
        raise FolderError(
            f"{place} has the label {printable(repr(value))}, which is none of the {len(columns.classes):,} classes of the schema; name "
            "another split or column"
        )
    if not (text := label_text(value)):
        raise FolderError(f"{place} has the label {printable(repr(value))}; expected a number or a name")
    return text


def _columns(place: str, schema: pa.Schema, given: tuple[str, str] | None, label_type: LabelType) -> Columns:
    """Where a table has its images and labels: by --columns, by the schema's own words, or by usual names."""
    import pyarrow as pa

    features = _features(schema)
    if given:
        image, label = chosen(place, schema.names, given)
    else:
        by_type = {
            kind: [name for name in schema.names if features.get(name, {}).get("_type") == kind]
            for kind in ("Image", "ClassLabel")
        }
        known = [names[0] if len(names) == 1 else "" for names in by_type.values()]
        candidates = [name for name in schema.names if name not in known]
        for name, usual in zip(known, (IMAGES, LABELS)):
            if name:
                candidates = [name for name in candidates if name.lower() not in usual]
        stand_in = [usual[0] for name, usual in zip(known, (IMAGES, LABELS)) if name]
        picked = chosen(place, [*stand_in, *candidates]) if not all(known) else ("", "")
        image, label = (name or other for name, other in zip(known, picked))
    kind = schema.field(image).type
    in_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if not in_struct and not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise FolderError(
            f"{place}: its column {printable(repr(image))} is of the type {printable(str(kind))}; expected bytes of images, or {{bytes, path}}; name another with --columns"
        )
    names = features.get(label, {}).get("names")
    is_named = (
        label_type != "float" and isinstance(names, list) and all(isinstance(name, str) for name in names)
    )
    return Columns(image, label, in_struct, _distinct(names) if is_named and names else ())


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Names of classes; of those that are there twice, each with its number."""
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({k})" for k, name in enumerate(names))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What the schema says of its columns in Hugging Face's words: {"label": {"_type": "ClassLabel", "names": [...]}}."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


class Table(Protocol):
    """A file of groups of rows."""

    schema: pa.Schema
    groups: int

    def bytes_of(self, group: int) -> int:
        """How many bytes a group holds, unpacked."""

    def read(self, group: int, columns: list[str]) -> pa.Table:
        """Columns of a group; "image.path" is a part of a column."""


class _Parquet:
    def __init__(self, path: str) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        self.schema, self.groups = self._file.schema_arrow, self._file.num_row_groups

    def bytes_of(self, group: int) -> int:
        return self._file.metadata.row_group(group).total_byte_size

    def read(self, group: int, columns: list[str]) -> pa.Table:
        # Workers are processes: threads of one would only take cores from the others.
        return self._file.read_row_group(group, columns=columns, use_threads=False)


class _Arrow:
    """A stream or a file of record batches, mapped: only what is asked for is read."""

    def __init__(self, path: str) -> None:
        import pyarrow as pa

        mapped = pa.memory_map(path)
        if mapped.read_at(len(ARROW_FILE), 0) == ARROW_FILE:
            file = pa.ipc.open_file(mapped)
            self.schema, self.groups = file.schema, file.num_record_batches
            self._batch, self._bytes = file.get_batch, lambda group: file.get_batch(group).nbytes
            return
        if mapped.read_at(len(STREAM_END), max(0, mapped.size() - len(STREAM_END))) != STREAM_END:
            raise ValueError("it is truncated: it ends without the mark that ends a stream of arrow")
        first, *messages = pa.ipc.MessageReader.open_stream(mapped)
        schema = pa.ipc.read_schema(first)
        if others := {message.type for message in messages} - {"record batch"}:
            raise ValueError(f"it has {', '.join(sorted(others))} messages, expected record batches only")
        self.schema, self.groups = schema, len(messages)
        self._batch = lambda group: pa.ipc.read_record_batch(messages[group], schema)
        self._bytes = lambda group: messages[group].body.size

    def bytes_of(self, group: int) -> int:
        return self._bytes(group)

    def read(self, group: int, columns: list[str]) -> pa.Table:
        import pyarrow as pa

        names = dict.fromkeys(
            name if name in self.schema.names else name.rpartition(".")[0] for name in columns
        )
        return pa.Table.from_batches([self._batch(group)]).select(list(names))


@contextmanager
def _opened(archive: Archive) -> Iterator[Table]:
    """A table.

    Raises:
        UserError: pyarrow is not installed.
        OSError, ValueError, pyarrow's errors: it cannot be read, or is another than was listed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{archive.path} needs pyarrow, which is not installed ({error}): pip install 'alexnet_fast[parquet]'"
        ) from None
    archive.opened().close()
    yield _Parquet(archive.path) if archive.path.endswith(".parquet") else _Arrow(archive.path)


@contextmanager
def _reported(path: str) -> Iterator[None]:
    """Turn what pyarrow raises into an error that names the file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # pyarrow has errors of several kinds for a corrupt file
        raise FolderError(f"cannot read {path}: {printable(str(error))}; {ADVICE}") from error


def _unpack(archive: Archive, group: int, columns: Columns, content: BinaryIO) -> None:
    """Write the images of a group one after the other, after N + 1 offsets (u8), relative to where the content begins."""
    import pyarrow.compute as pc

    with _opened(archive) as table:
        name = f"{columns.image}.bytes" if columns.in_struct else columns.image
        images = table.read(group, [name]).column(0)
        images = pc.struct_field(images, "bytes") if columns.in_struct else images
        lengths = pc.fill_null(pc.binary_length(images), 0).to_numpy()
        offsets = np.zeros(len(lengths) + 1, "<u8")
        offsets[1:] = np.cumsum(lengths)
        content.write((offsets + offsets.nbytes).astype("<u8").tobytes())
        for image in images:
            if image.is_valid:
                content.write(image.as_buffer())
