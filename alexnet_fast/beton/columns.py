"""The fields of a file that are no images: what their values are, how FFCV stores them, and reading them sample by sample.

====================  ===============================  ======================================================
type, in words        a value                          stored as
====================  ===============================  ======================================================
int, float            int64, float64                   the number, in the sample's record
float32[40]           an array of this dtype, shape    C-order bytes; FFCV's NDArrayField, or TorchTensorField
bytes                 any bytes                        these bytes
json                  what json.dumps takes            UTF-8 text and one NUL
====================  ===============================  ======================================================

The record of an array holds its offset in the file, that of bytes and JSON their offset and size.
"""

from __future__ import annotations

import json
import math
import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.untrusted import printable
from . import format as fmt
from .errors import BetonError

NUL = b"\x00"
ARRAY_ARGS = np.dtype([("shape", "<u8", 32), ("type_length", "<u8")])
"""FFCV's arguments of an array: its shape, filled up with zeros, and the length of the JSON text behind, which is the dtype's."""
ARRAYS = (fmt.NDARRAY_ID, fmt.TENSOR_ID)
NUMBERS = (fmt.INT_ID, fmt.FLOAT_ID)
SIZED = (fmt.BYTES_ID, fmt.JSON_ID)
MAX_ARRAY_BYTES = 1 << 26
"""Of one value: far above any target or embedding."""
EXPECTED = "int, float, bytes, json, or an array such as float32[40]"
_TYPE = re.compile(r"((?:u?int(?:8|16|32|64)|float(?:16|32|64))?)\[(\d+(?:,\d+)*)\]")
PART = 1 << 16
MIN_ROOM = 1 << 30
"""Bytes that all values of an array may have although the file is smaller: samples that are stored once and repeated."""


@dataclass(frozen=True)
class ColumnType:
    """What the values of a field are.

    Attributes:
        type_id: of the field in the file.
        dtype: of a number or of an array's elements; uint8 for bytes and JSON.
        shape: of an array; () for anything else.
    """

    type_id: int
    dtype: np.dtype
    shape: tuple[int, ...] = ()

    @property
    def is_number(self) -> bool:
        """Whether a value is in the sample's record, so that there is no payload."""
        return self.type_id in NUMBERS

    @property
    def is_array(self) -> bool:
        return self.type_id in ARRAYS

    @property
    def array_bytes(self) -> int:
        """Of one array."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def args(self) -> bytes:
        """The arguments in the field's descriptor, as FFCV writes them."""
        if not self.is_array:
            return b""
        text, made = json.dumps(self.dtype.descr).encode("ascii"), np.zeros(1, ARRAY_ARGS)
        made["shape"][0, : len(self.shape)] = self.shape
        made["type_length"] = len(text)
        return made.tobytes() + text

    def __str__(self) -> str:
        if self.is_array:
            return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"
        return {fmt.INT_ID: "int", fmt.FLOAT_ID: "float", fmt.BYTES_ID: "bytes"}.get(self.type_id, "json")

    def pack(self, value: Any) -> float | bytes:
        """A value as it is stored: a number, or a payload.

        Raises:
            ValueError: it is of another type, shape or range; the text says what was given.
        """
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a scalar of numpy or torch
            value = value.item()
        if self.type_id == fmt.INT_ID:
            return _int(value)
        if self.type_id == fmt.FLOAT_ID:
            return _float(value)
        if self.is_array:
            return self._array(value).tobytes()
        if self.type_id == fmt.BYTES_ID:
            return _bytes(value)
        try:
            return json.dumps(value).encode() + NUL
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{_shown(value)} is no JSON: {error}") from None

    def unpack(self, stored: np.ndarray) -> Any:
        """The value of a payload, (size,) uint8.

        Raises:
            ValueError: it is no JSON.
        """
        if self.is_array:
            return stored.view(self.dtype).reshape(self.shape)
        content = stored.tobytes()
        if self.type_id == fmt.BYTES_ID:
            return content
        try:
            return json.loads(content.partition(NUL)[0])
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None

    def _array(self, value: Any) -> np.ndarray:
        try:
            given = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # lists of several lengths, a tensor on a card
            raise ValueError(f"{_shown(value)} is no array: {printable(str(error))}") from None
        if given.shape != self.shape or given.dtype.kind not in "biuf":
            raise ValueError(
                f"{_shown(value)} is an array of {given.dtype} of shape {given.shape}, expected {self}"
            )
        with np.errstate(all="ignore"):
            made = given.astype(self.dtype)
        same = np.isfinite(made) == np.isfinite(given) if self.dtype.kind == "f" else made == given
        if not same.all():
            raise ValueError(f"{_shown(value)} does not fit into {self}")
        return made


INT_TYPE = ColumnType(fmt.INT_ID, np.dtype("<i8"))
FLOAT_TYPE = ColumnType(fmt.FLOAT_ID, np.dtype("<f8"))
BYTES_TYPE = ColumnType(fmt.BYTES_ID, np.dtype("u1"))
JSON_TYPE = ColumnType(fmt.JSON_ID, np.dtype("u1"))
_NAMED = {"int": INT_TYPE, "float": FLOAT_TYPE, "bytes": BYTES_TYPE, "json": JSON_TYPE}


def array_type(dtype: np.dtype | str, *shape: int) -> ColumnType:
    """The type of an array, as ``array_type("float32", 40)``."""
    return ColumnType(fmt.NDARRAY_ID, np.dtype(dtype).newbyteorder("<"), shape)


def type_of(text: str) -> ColumnType:
    """The type of its words: "int", "float", "bytes", "json", "float32[40]".

    Raises:
        ValueError: there is no such type.
    """
    if text in _NAMED:
        return _NAMED[text]
    found = _TYPE.fullmatch(text.replace(" ", ""))
    if not found or not found[1]:
        raise ValueError(f"{printable(repr(text))} is not the type of a field; expected {EXPECTED}")
    made = array_type(found[1], *map(int, found[2].split(",")))
    if not 0 < made.array_bytes <= MAX_ARRAY_BYTES or len(made.shape) > 32:
        raise ValueError(
            f"{printable(repr(text))} has {made.array_bytes:,} bytes a sample, expected 1 to {MAX_ARRAY_BYTES:,}"
        )
    return made


def stored_type(type_id: int, args: np.ndarray) -> ColumnType:
    """The type of a file's field, by its descriptor's arguments, (1024,) uint8.

    Raises:
        ValueError: it is an image, or an array that cannot be read; the text goes behind the field's name.
    """
    if type_id in NUMBERS or type_id in SIZED:
        return next(each for each in _NAMED.values() if each.type_id == type_id)
    if type_id not in ARRAYS:
        raise ValueError("is an image")
    header = args[: ARRAY_ARGS.itemsize].view(ARRAY_ARGS)[0]
    sides, length = header["shape"].tolist(), int(header["type_length"])
    while sides and sides[-1] == 0:
        sides.pop()
    try:
        text = args[ARRAY_ARGS.itemsize :][:length].tobytes().decode("ascii")
        ((name, words),) = json.loads(text)
        dtype = np.dtype(words) if isinstance(words, str) and isinstance(name, str) else np.dtype(object)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("is an array of no dtype that numpy knows") from None
    if dtype.kind not in "biuf":
        raise ValueError(f"is an array of {printable(str(dtype), 60)}, and only arrays of numbers are read")
    if not sides or math.prod(sides) * dtype.itemsize > MAX_ARRAY_BYTES or 0 in sides:
        raise ValueError(f"is an array of the shape {sides}, expected up to {MAX_ARRAY_BYTES:,} bytes")
    return ColumnType(type_id, dtype, tuple(sides))


class StoredColumn:
    """The values of one field of a file, which are read when they are asked for.

    Args:
        name: of the field.
        kind: what its values are.
        records: (N,) of ``format.METADATA``.
        file: (file size,) uint8, the map.
        payloads: where payloads may be, from and to.
        page_size: the largest payload.
        whose: the file, for messages.

    Raises:
        BetonError: a value's place in the file is impossible.
    """

    def __init__(
        self,
        name: str,
        kind: ColumnType,
        records: np.ndarray,
        file: np.ndarray,
        payloads: tuple[int, int],
        page_size: int,
        whose: str,
    ) -> None:
        self.name, self.kind, self._records, self._file, self.whose = name, kind, records, file, whose
        if kind.is_number:
            return
        start, end = payloads
        if kind.is_array and len(records) * kind.array_bytes > max(len(file), MIN_ROOM):
            raise BetonError(
                f"{whose}: {len(records):,} values of the field {printable(repr(name))} ({kind}) are more than the file holds; "
                "write it again"
            )
        for at in range(0, len(records), PART):
            ptrs, sizes = self._places(slice(at, at + PART))
            # Not ptr + size <= end: a hostile size would wrap around.
            inside = (start <= ptrs) & (ptrs <= end) & (sizes <= end - np.minimum(ptrs, np.uint64(end)))
            bad = ~(inside & (sizes <= page_size) | (sizes == 0))
            if bad.any():
                k = int(np.argmax(bad))
                raise BetonError(
                    f"{whose}: the field {printable(repr(name))} of sample {at + k} is impossible: {int(sizes[k])} bytes at "
                    f"{int(ptrs[k])} in a file whose payloads are between {start} and {end}; write it again"
                )

    def take(self, indices: np.ndarray | slice) -> np.ndarray | list[Any]:
        """The values of some samples, by their places in the file; of all, by a slice.

        Returns:
            (n,) int64 or float64, (n, *shape) of an array's dtype, or a list of bytes or of what the JSON says.

        Raises:
            BetonError: a sample's JSON cannot be read.
        """
        if self.kind.is_number:
            return np.ascontiguousarray(self._records[indices])
        ptrs, sizes = (each.tolist() for each in self._places(indices))
        if self.kind.is_array:
            out = np.empty((len(ptrs), self.kind.array_bytes), np.uint8)
            for row, ptr, size in zip(out, ptrs, sizes):
                row[:] = self._file[ptr : ptr + size]
            return out.view(self.kind.dtype).reshape(-1, *self.kind.shape)
        values, unpack = list[Any](), self.kind.unpack
        for k, (ptr, size) in enumerate(zip(ptrs, sizes)):
            try:
                values.append(unpack(self._file[ptr : ptr + size]))
            except ValueError as error:
                sample = np.arange(len(self._records))[indices][k]
                raise BetonError(
                    f"{self.whose}: the field {printable(repr(self.name))} of sample {sample} cannot be read: "
                    f"{printable(str(error))}; write it again"
                ) from None
        return values

    def stored(self, index: int) -> bytes:
        """The payload of one sample; empty for a number."""
        if self.kind.is_number:
            return b""
        (ptr,), (size,) = (each.tolist() for each in self._places(np.array([index])))
        return self._file[ptr : ptr + size].tobytes()

    def _places(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Offsets and sizes of payloads, (n,) uint64 each."""
        records = self._records[rows]
        if self.kind.is_array:
            return records.astype(np.uint64), np.full(len(records), self.kind.array_bytes, np.uint64)
        return records["ptr"].astype(np.uint64), records["size"].astype(np.uint64)


def _int(value: Any) -> int:
    try:
        number = int(operator.index(value))  # a bool is one too
    except TypeError:
        raise ValueError(f"{_shown(value)} is not a whole number") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{_shown(value)} does not fit into 64 bits")
    return number


def _float(value: Any) -> float:
    if isinstance(value, (str, bytes)):
        raise ValueError(f"{_shown(value)} is not a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{_shown(value)} is not a number") from None


def _bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        return value.tobytes()
    raise ValueError(f"{_shown(value)} is neither bytes nor an array of uint8 of one dimension")


def _shown(value: Any) -> str:
    return f"{printable(repr(value), 60)} ({type(value).__name__})"
