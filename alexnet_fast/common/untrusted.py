"""Text from others: read up to a size limit, parsed as data only, shown on one line."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import escaped

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


def read_text(path: Path, max_bytes: int) -> str:
    """The UTF-8 text of a regular file of at most ``max_bytes`` bytes; a byte-order mark is dropped.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: it cannot be read.
        ValueError: it is not a regular file, too large, or not UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return content.decode("utf-8-sig")


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """The object in a JSON file; raises as ``read_text`` does, and ValueError if it is not a JSON object."""
    try:
        document = json.loads(read_text(path, max_bytes))
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"it holds a {type(document).__name__}, expected an object")
    return document


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file to read it.  Opening a pipe would block, and reading a device might never end.

    Raises:
        FileNotFoundError: the file does not exist.
        OSError: it cannot be opened.
        ValueError: it is a folder, a pipe, a socket or a device, or its name contains a NUL.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENODEV):
            raise
        raise ValueError(f"it is a {kind_of(os.stat(path))}") from None
    kind = kind_of(os.fstat(descriptor))
    if kind != "file":
        os.close(descriptor)
        raise ValueError(f"it is a {kind}")
    return open(descriptor, "rb")


def kind_of(status: os.stat_result) -> str:
    """ "file", "folder", "pipe", "socket" or "device"."""
    return KINDS.get(stat.S_IFMT(status.st_mode), "device")


def printable(text: str, most: int = 200) -> str:
    """Text for a one-line message: cut after ``most`` characters, with control characters and unprintable ones escaped."""
    return escaped(text if len(text) <= most else f"{text[:most]}...")
