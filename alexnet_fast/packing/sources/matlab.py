"""Reads tables out of MATLAB files (version 5), as far as ImageNet's meta.mat needs it; scipy would be 40 MB for one file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
STRUCT, CHAR = 2, 4
MAX_BYTES = 64 << 20

Value = str | float | list[float] | None


def read_structs(content: bytes, name: str) -> list[dict[str, Value]]:
    """The rows of an array of structs.

    Raises:
        ValueError: the file has no such array, or is none of this kind.
    """
    if content[126:128] != b"IM":
        raise ValueError("it is not a MATLAB file of version 5")
    try:
        for kind, body in _elements(content[HEADER_BYTES:]):
            if kind == COMPRESSED:
                engine = zlib.decompressobj()
                kind, body = next(_elements(engine.decompress(body, MAX_BYTES)))
            if kind == MATRIX and (rows := _structs(body, name)) is not None:
                return rows
    except (struct.error, zlib.error, UnicodeDecodeError, LookupError, StopIteration) as error:
        raise ValueError(f"it is corrupt ({error})") from error
    raise ValueError(f"it has no array {name!r} of structs")


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind >> 16:  # up to four bytes, next to their size
            yield kind & 0xFFFF, content[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        if at + 8 + size > len(content):
            raise struct.error("it ends in the middle of an element")
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)


def _structs(body: bytes, wanted: str) -> list[dict[str, Value]] | None:
    parts = _elements(body)
    flags, dimensions, (_, name) = next(parts)[1], next(parts)[1], next(parts)
    if flags[0] != STRUCT or name.decode() != wanted:
        return None
    count = 1
    for length in struct.unpack(f"<{len(dimensions) // 4}i", dimensions):
        count *= length
    width = struct.unpack("<i", next(parts)[1])[0]
    names = next(parts)[1]
    fields = [names[at : at + width].split(b"\0")[0].decode() for at in range(0, len(names), width)]
    return [{field: _value(next(parts)[1]) for field in fields} for _ in range(count)]


def _value(body: bytes) -> Value:
    parts = list(_elements(body))
    if len(parts) < 4:
        return None
    kind, content = parts[3]
    if parts[0][1][0] == CHAR:
        return content.decode(TEXT[kind])
    numbers = list(
        struct.unpack(f"<{len(content) // struct.calcsize(NUMBERS[kind])}{NUMBERS[kind]}", content)
    )
    return numbers[0] if len(numbers) == 1 else numbers
