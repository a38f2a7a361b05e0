"""A memory-mapped view of one beton file: its metadata, and the bytes of sample i."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..common.arguments import field_of
from ..common.command_name import typed
from ..common.settled import Settled
from ..common.untrusted import printable, read_json
from ..common.urls import url_of
from . import format as fmt
from .columns import StoredColumn, stored_type
from .errors import BetonError, FieldError
from .fields import IMAGE, LABEL, Field, choose, field_named, fields_of, listed
from .mapped import MappedFile, Room, Unchanged
from .remote_file import SIDECAR, local_file
from .target_fields import INT, TargetField, target_field_of

__all__ = ["Beton", "BetonError", "FieldError", "max_sidecar_bytes", "sidecar_path"]

PART = 1 << 16
"""Samples that are checked at a time: checking all of ImageNet at once took 30 MB more, and as long."""


def max_sidecar_bytes(num_samples: int) -> int:
    """The maximum size of a sidecar in bytes: far above any that the packer writes (less than 100 bytes a sample)."""
    return (1 << 24) + 1024 * num_samples


def sidecar_path(path: Path) -> Path:
    """The file of class names, settings and counts: ``train.beton`` -> ``train.beton.json``."""
    return path.with_name(path.name + SIDECAR)


class Beton(Settled):
    """The samples of a beton file: each an RGB image and an int, a float or a vector, the label.

    If the file has several fields of one of these types, the one to read must be named; ``column`` reads the others.

    The constructor checks all metadata once, before any pointer is used: after it returns, every payload is inside the map and
    no larger than a page.  The memory that this takes is bounded by the file's size: about 30 bytes for each sample whose
    metadata the file contains.

    A pickle or copy of a Beton is the file's absolute path, or its URL, and the names of the fields; the file is opened again.

    Args:
        path: the file, or its URL (s3://, gs://, https://, hf://): then it is fetched into a cache first, see ``remote_file``.
        image_field, label_field: names of the fields, as the file stores them; None = the only one of that type, or the label
            that our packer has marked; a float field is the label if it is named, or if there is no int field.

    Attributes:
        path: the file; of a URL, its local copy.
        location: what opens it again, in any process: its absolute path, or its URL.
        num_samples: N.
        fields: all fields of the file, in its order.
        image_field, label_field: names of the two fields that are read.
        images: (N,) structured ``format.RGB_IMAGE``: mode (0 JPEG, 1 raw RGB), width and height in
            pixels, data_ptr.
        target_field: what the label is in the file and in a batch.
        labels: (N,) int64, or float64 of a float field; (N, K) of a field of vectors, in the file's dtype, which are read from the
            pages.
        sizes: (N,) uint64, payload bytes.
        map: (file size,) uint8, the memory map; read-only.

    Raises:
        BetonError: the file is missing, not a beton, unfinished, truncated or inconsistent.
        FieldError: it has no such field, or several; the text lists its fields and says what to pass.
        UserError: ``path`` is not a path; or an attribute that nothing reads is set later.
    """

    path: Path
    location: str
    num_samples: int
    page_size: int
    fields: tuple[Field, ...]
    image_field: str
    label_field: str
    target_field: TargetField
    images: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    map: np.ndarray
    _room: Room | None = None
    """Where the file is mapped; ``several`` says it for each of its files."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_field: str | None = None,
        label_field: str | None = None,
    ) -> None:
        # The arguments for a pickle or copy; no other local variables exist yet.
        self._arguments = {name: given for name, given in locals().items() if name != "self"}
        self.path = local_file("path", path, self)
        image_field, label_field = field_of("image_field", image_field), field_of("label_field", label_field)
        self._file = _open_map(self.path, self._room)
        self.location = self._arguments["path"] = url_of(path) or os.path.abspath(self.path)
        self.map = self._file.bytes
        with Unchanged(self._file):  # a file that is being written may contain anything
            self._read_index(image_field, label_field)
        self._settled = True

    def _read_index(self, image_field: str | None, label_field: str | None) -> None:
        """Read and check everything except the payloads."""
        header = self._header()
        self.num_samples = int(header["num_samples"])
        self.page_size = int(header["page_size"])
        self.fields = self._fields(header)
        image, label = self._chosen(image_field, label_field or self._marked_label(header))
        records = self._records(header)
        self.image_field, self.label_field = self.fields[image].name, self.fields[label].name
        self.images = records[f"f{image}"]
        self._index = header, records, self._descriptors(header).copy()
        labels = self._column(label)
        try:
            self.target_field = target_field_of(labels.kind)
        except ValueError as error:
            raise FieldError(f"{self.path}: the field {self.label_field!r} {error}") from None
        # Vectors are in the pages, next to the images: a cold file is read here, a page of 4 KiB for each sample.
        self.labels = np.asarray(labels.take(slice(None)))
        self.sizes = self._sizes(
            int(header["alloc_table_ptr"]), int(header["num_fields"]), records.dtype.itemsize
        )

    @property
    def files(self) -> list[Path]:
        """The files that hold the samples: this one, or those of a ``several.BetonSet``."""
        return [self.path]

    @property
    def names_at(self) -> str:
        """What holds the names of the classes, for messages."""
        return f"{self.path.name}.json"

    @property
    def num_bytes(self) -> int:
        """The size of the files, in bytes; ``map`` of several is longer."""
        return len(self.map)

    @property
    def entries(self) -> np.ndarray:
        """Which entry of a list of files holds each sample, for ``weights``: (N,) int32, all 0 for a single file."""
        return np.zeros(self.num_samples, np.int32)

    def payload(self, index: int) -> np.ndarray:
        """The stored bytes of sample ``index``: a JPEG, or height x width x 3 raw RGB. (size,) uint8, no copy."""
        ptr = int(self.images["data_ptr"][index])
        return self.map[ptr : ptr + int(self.sizes[index])]

    def column(self, name: str) -> StoredColumn:
        """The values of any field that is no image, by its name; read within ``unchanged``, sample by sample.

        Raises:
            FieldError: there is no such field, or it is an image, or an array of a dtype that cannot be read.
            BetonError: a value's place in the file is impossible.
        """
        try:
            place = field_named(self.fields, name)
        except ValueError as error:
            raise FieldError(f"{self.path} {error}") from None
        return self._column(place)

    def _column(self, place: int) -> StoredColumn:
        """The values of the field at a place."""
        header, records, descriptors = self._index
        name = self.fields[place].name
        try:
            kind = stored_type(self.fields[place].type_id, descriptors[place]["args"])
        except ValueError as error:
            raise FieldError(f"{self.path}: the field {name!r} {error}") from None
        start = fmt.metadata_offset(len(self.fields)) + records.nbytes
        payloads = start, int(header["alloc_table_ptr"])
        return StoredColumn(
            name, kind, records[f"f{place}"], self.map, payloads, self.page_size, str(self.path)
        )

    def source(self, index: int) -> str:
        """A name of sample ``index`` for messages, with its source file if the sidecar has it."""
        path = self.source_path(index)
        return f"sample {index}{f' ({printable(path)})' if path is not None else ''} of {self.path}"

    def source_path(self, index: int) -> str | None:
        """The path of sample ``index`` in the folder that was packed; None if the sidecar does not have it."""
        try:
            paths = (self.sidecar or {}).get("paths")
        except BetonError:  # the caller wants a name of a sample, not an error of the sidecar
            return None
        # A list of another length belongs to another file.
        path = paths[index] if isinstance(paths, list) and len(paths) == self.num_samples else None
        return path if isinstance(path, str) else None

    @property
    def num_classes(self) -> int:
        """One more than the largest label; FieldError if it is a float, which has no classes."""
        if self.target_field != INT:
            raise FieldError(
                f"{self.path} has no classes: its label {self.label_field!r} is a {self.target_field.name}; see beton.labels, or give label_field = "
                "the name of an int field"
            )
        return int(self.labels.max()) + 1

    @cached_property
    def sidecar(self) -> dict[str, Any] | None:
        """The content of ``<name>.beton.json``; None if there is none (FFCV writes none). Read at the first access."""
        return self.read_sidecar()

    def read_sidecar(self) -> dict[str, Any] | None:
        """As ``sidecar``, but not kept, for callers that need little of it: that of 1.28 million samples takes 120 MB.

        Raises:
            BetonError: it cannot be read, or belongs to another file.
        """
        path = sidecar_path(self.path)
        try:
            document: dict[str, Any] = read_json(path, max_sidecar_bytes(self.num_samples))
            self._check_own(document)
            return document
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise BetonError(f"cannot read {path}: {error}; delete it or pack again") from error

    def index_checksum(self) -> int:
        """CRC-32 of everything except the payloads: header, field descriptors, metadata, then the allocation table."""
        header = self.map[: fmt.HEADER.itemsize].view(fmt.HEADER)[0]
        records = self.map[
            : fmt.metadata_offset(int(header["num_fields"])) + self.images.strides[0] * self.num_samples
        ]
        return zlib.crc32(self.map[int(header["alloc_table_ptr"]) :].data, zlib.crc32(records.data))

    def _check_own(self, sidecar: dict[str, Any]) -> None:
        """Check that a sidecar was written for this file: a packing interrupted between the two renames leaves a new one next to an old file."""
        facts = sidecar.get("file")
        if facts is not None and facts != {
            "bytes": len(self.map),
            "index_crc32": f"{self.index_checksum():08x}",
        }:
            raise ValueError(
                "it was written for another file than this: a packing was interrupted at its end, or only one of the two was copied"
            )

    @property
    def unchanged(self) -> Unchanged:
        """A context manager for code that reads samples: raises BetonError if the file was written over, shortened or could not be read.

        It checks at the start and at the end, at 4 us (one core, idle), so what was read in between is from the file that was opened.
        A read that fails inside does not end the process (SIGBUS).  ``mapped.Witness`` lists what cannot be detected.
        """
        return self._file.unchanged

    @property
    def lost_its_name(self) -> bool:
        """Whether ``unchanged`` found another file, or none, at the path; the old file stays open."""
        return self._file.lost_its_name

    def expect_random_access(self) -> None:
        """Make the kernel read only the pages that are touched; by default it reads their neighbours too."""
        with suppress(OSError):  # only advice: without it, reading works as before
            self._file.expect_random_access()

    def close(self) -> None:
        """Drop the map. Views that callers hold keep the memory mapped until they are deleted."""
        self._file.close()
        del self.map

    def __getstate__(self) -> dict[str, Any]:
        """The constructor's arguments: a memory map cannot be pickled."""
        return self._arguments

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        Beton.__init__(self, **arguments)

    def __len__(self) -> int:
        return self.num_samples

    def __enter__(self) -> Beton:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _header(self) -> np.void:
        if len(self.map) < fmt.HEADER.itemsize:
            raise BetonError(f"{self.path} is not a beton: {len(self.map)} bytes are too few for its header")
        header = self.map[: fmt.HEADER.itemsize].view(fmt.HEADER)[0]
        version, page_size = int(header["version"]), int(header["page_size"])
        power_of_two = page_size >= fmt.MIN_PAGE_SIZE and page_size & (page_size - 1) == 0
        if version != fmt.VERSION or not power_of_two or not 1 <= header["num_fields"] <= 64:
            raise BetonError(
                f"{self.path} is not a beton of version {fmt.VERSION} (it starts with {self.map[:8].tobytes().hex(' ')}); "
                f"pack a folder with {typed('pack')}"
            )
        if header["alloc_table_ptr"] == 0:
            raise BetonError(f"{self.path} is unfinished: its writer was interrupted; pack it again")
        if header["num_samples"] > fmt.MAX_SAMPLES:
            raise BetonError(
                f"{self.path} is truncated or corrupt: its header counts {header['num_samples']} samples; copy or pack it again"
            )
        if header["num_samples"] == 0:
            raise BetonError(f"{self.path} contains no samples; pack a folder that has images")
        return header

    def _fields(self, header: np.void) -> tuple[Field, ...]:
        start = fmt.metadata_offset(int(header["num_fields"]))
        if start > len(self.map):
            raise self._truncated(start)
        fields = fields_of(self._descriptors(header))
        if any(field.type_id not in fmt.METADATA for field in fields):
            raise BetonError(
                f"{self.path} has a field of an unknown type: {listed(fields)}; types 0 to 6 can be read"
            )
        there = {field.type_id for field in fields}
        if fmt.RGB_IMAGE_ID not in there or there.isdisjoint(LABEL.type_ids):
            raise BetonError(
                f"{self.path} needs one RGB image field and one int field or float field or array (the label), it has {listed(fields)}"
            )
        return fields

    def _descriptors(self, header: np.void) -> np.ndarray:
        """(num_fields,) ``format.FIELD``"""
        return self.map[fmt.HEADER.itemsize : fmt.metadata_offset(int(header["num_fields"]))].view(fmt.FIELD)

    def _marked_label(self, header: np.void) -> str | None:
        """The name of the field that our packer says is the label; None where it does not say."""
        marked = np.flatnonzero(
            (self._descriptors(header)["args"][:, -len(fmt.IS_LABEL) :] == list(fmt.IS_LABEL)).all(1)
        )
        return self.fields[marked[0]].name if len(marked) == 1 else None

    def _chosen(self, image_field: str | None, label_field: str | None) -> tuple[int, int]:
        """The positions of the image and the label among the fields."""
        try:
            return (
                choose(self.fields, IMAGE, image_field),
                choose(self.fields, LABEL, label_field),
            )
        except ValueError as error:
            raise FieldError(f"{self.path} {error}") from None

    def _records(self, header: np.void) -> np.ndarray:
        """The (N,) metadata records."""
        start = fmt.metadata_offset(len(self.fields))
        dtype = fmt.record_dtype([field.type_id for field in self.fields])
        end = start + self.num_samples * dtype.itemsize
        if end > len(self.map):
            raise self._truncated(end)
        records: np.ndarray = self.map[start:end].view(dtype)
        return records

    def _sizes(self, table_ptr: int, num_fields: int, record_bytes: int) -> np.ndarray:
        """Join the images' pointers with the allocation table, and check both against the file."""
        if table_ptr > len(self.map) or (len(self.map) - table_ptr) % fmt.ALLOCATION.itemsize:
            raise self._truncated(table_ptr)
        data_start = fmt.metadata_offset(num_fields) + self.num_samples * record_bytes
        table = self.map[table_ptr:].view(fmt.ALLOCATION)
        # Checked before any of it is read: with a pointer that is too small, all payloads would be read as the table.
        if table_ptr < data_start or len(table) > self.num_samples * num_fields:
            raise BetonError(
                f"{self.path}: its allocation table cannot start at {table_ptr}; the header is corrupt, so pack it again"
            )
        sizes = self._joined(table)
        for part in self._parts():
            self._check_samples(part, sizes[part], data_start, table_ptr)
        return sizes

    def _parts(self) -> Iterator[slice]:
        """All samples, PART at a time."""
        return (slice(start, start + PART) for start in range(0, self.num_samples, PART))

    def _check_samples(self, part: slice, sizes: np.ndarray, data_start: int, table_ptr: int) -> None:
        """Check that the metadata of some samples is possible."""
        images = self.images[part]
        ptrs = np.ascontiguousarray(images["data_ptr"])
        # Not ptr + size <= table_ptr: a hostile size would wrap around.
        inside = (data_start <= ptrs) & (ptrs <= table_ptr)
        inside &= sizes <= table_ptr - np.minimum(ptrs, table_ptr)
        # No writer lets a payload cross a page boundary, and a decoder allocates memory for a complete payload.
        inside &= sizes <= self.page_size
        pixels = images["width"].astype(np.uint64)
        pixels *= images["height"]
        mode = images["mode"]
        known = (mode == fmt.JPEG) | ((mode == fmt.RAW) & (sizes == 3 * pixels))
        bad = ~(inside & known & (sizes > 0) & (pixels > 0))
        if bad.any():
            i = int(np.argmax(bad))
            raise BetonError(
                f"{self.path}: sample {part.start + i} is impossible: {dict(zip(fmt.RGB_IMAGE.names or (), images[i].item()))} "
                f"with {int(sizes[i])} bytes in a file whose payloads are between {data_start} and {table_ptr}, in pages of "
                f"{self.page_size}; pack it again"
            )

    def _joined(self, table: np.ndarray) -> np.ndarray:
        """The sizes of the samples' payloads; the allocation table may have any order."""
        wanted = self.images["data_ptr"]
        if len(table) == len(wanted) and np.array_equal(table["ptr"], wanted):  # ours: in the samples' order
            return np.ascontiguousarray(table["size"])
        if not table["size"].all():  # FFCV gives an empty bytes field the pointer of the next payload
            table = table[table["size"] > 0]
        order = np.argsort(table["ptr"], kind="stable")  # FFCV's: in the order in which its workers ended
        ptrs, sizes = table["ptr"][order], np.empty(len(wanted), np.uint64)
        of_one = np.flatnonzero(ptrs[1:] == ptrs[:-1])
        if len(of_one) and (table["size"][order[of_one]] != table["size"][order[of_one + 1]]).any():
            raise BetonError(
                f"{self.path}: the allocation table gives one payload two sizes; the file is corrupt, so write it again"
            )
        for part in self._parts():
            place = np.minimum(np.searchsorted(ptrs, wanted[part]), max(len(ptrs) - 1, 0))
            if len(ptrs) == 0 or not np.array_equal(ptrs[place], wanted[part]):
                missing = part.start + (int(np.argmax(ptrs[place] != wanted[part])) if len(ptrs) else 0)
                raise BetonError(
                    f"{self.path}: the allocation table does not contain sample {missing}; the file is truncated or corrupt"
                )
            sizes[part] = table["size"][order[place]]
        return sizes

    def _truncated(self, expected: int) -> BetonError:
        return BetonError(
            f"{self.path} is truncated: it has {len(self.map)} bytes and needs more than {expected}; copy or pack it again"
        )


def _open_map(path: Path, room: Room | None) -> MappedFile:
    try:
        return MappedFile(path, room)
    except FileNotFoundError:
        raise BetonError(
            f"{path} does not exist{_others_there(path)}; pack one with {typed('pack')} --data FOLDER --out FOLDER"
        ) from None
    except OSError as error:
        remedy = "; raise ulimit -n, or give fewer, larger files" if error.errno == errno.EMFILE else ""
        raise BetonError(f"cannot read {path}: {error.strerror or error}{remedy}") from error
    except ValueError as error:
        raise BetonError(f"{path} is not a beton: {error}") from None


def _others_there(path: Path) -> str:
    """The betons that do exist in the same folder, for a message."""
    with suppress(OSError):
        if found := sorted(printable(other.name) for other in path.parent.glob("*.beton"))[:3]:
            return f", only {' and '.join(found)} there"
    return ""
