"""Where the members of a tar are, found by its headers alone: nothing is unpacked, and a tar that is cut off is an error.

Python's tarfile takes a tar that ends between two members, or in a header, for a complete one, and needs twice as long.
"""

from __future__ import annotations

import os
import posixpath
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

from ...common.untrusted import printable
from .listing import FolderError

BLOCK = 512
FILES = (b"0", b"\0", b"7")  # types of regular files
HARD_LINK, LONG_NAME, LONG_LINK, PAX, PAX_FOR_ALL = b"1", b"L", b"K", b"x", b"g"
KINDS = {b"5": "folder", b"2": "link", b"3": "device", b"4": "device", b"6": "pipe", b"S": "sparse file"}
MAX_NAME_BYTES = 1 << 20
INFLATE_BYTES = 1 << 20
ADVICE = "download or copy it again"


class Member(NamedTuple):
    """One entry of a tar."""

    name: str
    """Its path, without "./" before it."""
    kind: str
    """ "file", "folder", "link", "sparse file", ...; a hard link to a member before it is a file."""
    offset: int
    """Where its content begins, in bytes from the beginning of the file that was read."""
    size: int
    """In bytes."""


class Readable(Protocol):
    """What headers are read from; offsets only grow."""

    size: int
    """In bytes; -1 where it is known at the end only."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes, or fewer at the end."""

    def finish(self) -> None:
        """Check what comes after the tar."""


class OpenFile:
    """A file that is read at any offset.

    Args:
        size: of the file, in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._descriptor, self.size = file.fileno(), size

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def finish(self) -> None: ...


class Broken(ValueError):
    """A gzip file that cannot be read to its end; the message says where and what to do, as "is truncated: ...; copy it again"."""


class Inflated:
    """What a gzip file holds, read forwards.

    Args:
        most: bytes that it may hold.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._parts, self._most = inflated(file), most
        self._held, self._at, self.size = b"", 0, -1

    def read(self, offset: int, size: int) -> bytes:
        while self._at + len(self._held) < offset + size:
            if (part := next(self._parts, None)) is None:
                self.size = self._at + len(self._held)
                break
            kept = self._held[
                max(0, offset - self._at) :
            ]  # what comes before the offset is not needed any more
            self._at += len(self._held) - len(kept)
            self._held = kept + part
            if self._at + len(self._held) > self._most:
                raise Broken(
                    f"holds more than {self._most / 1e9:.0f} GB, too much for memory; unpack it with gunzip"
                )
        start = offset - self._at
        return self._held[start : start + size]

    def finish(self) -> None:
        for _ in self._parts:  # to the checksum at the end
            pass


def inflated(file: BinaryIO) -> Iterator[bytes]:
    """The content of a gzip file, in parts of ``INFLATE_BYTES`` at most.

    Raises:
        Broken: it is cut off or corrupt.
    """
    engine, at = zlib.decompressobj(31), 0
    while part := file.read(INFLATE_BYTES):
        at += len(part)
        while part:
            if engine.eof:  # gzip allows several streams, one after the other, and zeros at the end
                if not (part := part.lstrip(b"\0")):
                    break
                engine = zlib.decompressobj(31)
            try:
                content = engine.decompress(part, INFLATE_BYTES)
            except zlib.error as error:
                raise Broken(f"is corrupt before its byte {at:,} ({error}); {ADVICE}") from error
            if content:
                yield content
            part = engine.unused_data if engine.eof else engine.unconsumed_tail
    if not engine.eof:
        raise Broken(f"is truncated: it ends after {at:,} bytes, before its data do; {ADVICE}")


def members(source: Readable, place: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """The entries of a tar, in its order.

    Args:
        place: its name in messages.
        start, end: of the tar in ``source``, in bytes; by default all of it.

    Raises:
        FolderError: it is cut off or corrupt, or is not a tar; the message names the last member that is complete.
    """
    end = source.size if end is None else end
    at, name, last, last_end = start, "", "", start
    earlier: dict[str, tuple[int, int]] = {}
    pax: dict[str, str] = {}
    while True:
        try:
            header = source.read(at, BLOCK)
            if ended := len(header) == BLOCK and not any(header):
                source.finish()
        except Broken as error:
            after = f", after its member {printable(repr(last))}," if last else ""
            raise FolderError(f"{place}{after} {error}") from error
        if len(header) < BLOCK or 0 <= end < at + BLOCK:
            inside = 0 <= source.size < last_end
            raise _cut(place, at - start, last, last if inside else "", last_end - start)
        if ended:
            return
        kind = header[156:157]
        size = _checked(header, place, at - start, last)
        at += BLOCK
        if kind in (LONG_NAME, LONG_LINK, PAX, PAX_FOR_ALL):
            if size > MAX_NAME_BYTES:
                raise FolderError(f"{place}: the name of a member has {size:,} bytes; {ADVICE}")
            content = source.read(at, size)
            if len(content) < size:
                raise _cut(place, at - start, last)
            if kind == LONG_NAME:
                name = _text(content.split(b"\0")[0])
            elif kind == LONG_LINK:
                pax["linkpath"] = _text(content.split(b"\0")[0])
            elif kind == PAX:
                pax |= _records(content)
            at += _blocks(size)
            continue
        name = pax.get("path", name) or _name(header)
        if "size" in pax and pax["size"].isdecimal():
            size = int(pax["size"])
        clean = posixpath.normpath(name) if name else ""
        sparse = any(key.startswith("GNU.sparse.") for key in pax)
        if kind == HARD_LINK:
            target = posixpath.normpath(pax.get("linkpath") or _text(header[157:257].split(b"\0")[0]))
            found = earlier.get(target)
            yield Member(clean, "file", *found) if found else Member(clean, "link", at, 0)
            size = 0
        elif kind in FILES and not sparse and not name.endswith("/"):
            if 0 <= end < at + size:
                raise _cut(place, at - start, last, clean, at + size - start)
            earlier[clean] = (at, size)
            yield Member(clean, "file", at, size)
        else:
            size = size if kind in (*FILES, b"S") else 0
            shown = "sparse file" if sparse else "folder" if kind in FILES else KINDS.get(kind, "other")
            yield Member(clean, shown, at, size)
        last_end = at + size
        at += _blocks(size)
        name, last, pax = "", clean, {}


def _checked(header: bytes, place: str, at: int, last: str) -> int:
    """The size in a header; raises FolderError if it is none."""
    try:
        stored = int(header[148:156].split(b"\0")[0] or b"0", 8)
        # The sum of all bytes, with spaces for the checksum's own eight: adler32 has it modulo 65521, in a twentieth of sum()'s time.
        found = (zlib.adler32(header) & 0xFFFF) - 1 - sum(header[148:156]) + 8 * 0x20
        field = header[124:136]
        # Sizes of 8 GiB or more are binary, marked by the first bit.
        size = (
            int.from_bytes(field[1:], "big")
            if field[0] & 0x80
            else int(field.split(b"\0")[0].strip() or b"0", 8)
        )
    except ValueError:
        stored, found, size = 0, -1, 0
    if (stored - found) % 65521:
        what = f"is corrupt at byte {at:,}, after {printable(repr(last))}" if last else "is not a tar"
        raise FolderError(f"{place} {what}: there is no header of a member; {ADVICE}")
    return size


def _cut(place: str, at: int, last: str, member: str = "", needs: int = 0) -> FolderError:
    after = f"after {printable(repr(last))}, " if last else ""
    what = (
        f"in its member {printable(repr(member))}, which needs {needs:,} bytes"
        if member
        else f"{after}at byte {at:,}, without the block of zeros that ends a tar"
    )
    return FolderError(f"{place} is truncated: it ends {what}; {ADVICE}")


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    return _text(name)


def _records(content: bytes) -> dict[str, str]:
    """The records of a pax header: "27 path=a/long/name.JPEG\\n" ..."""
    found, at = dict[str, str](), 0
    while at < len(content):
        length, _, _ = content[at : at + 20].partition(b" ")
        if not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = content[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[_text(key)] = _text(value)
        at += int(length)
    return found


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def is_gzip(path: str) -> bool:
    """Whether a tar's name says that it is compressed."""
    return path.endswith((".gz", ".tgz"))
