"""The index of a set in several files: a small JSON that names its parts, how many samples each has, and their checksums.

    train.index.json
    {"format": "beton index", "version": 1, "samples": 1281167, "classes": [...],
     "parts": [{"file": "train-1-of-8.beton", "samples": 160146, "bytes": ..., "index_crc32": "...", "samples_crc32": "..."}, ...]}

A part's ``file`` is relative to the index.  A part has ``classes`` of its own where they are not those of the set.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.files import write_text
from ..common.untrusted import printable, read_json
from .errors import BetonError

SUFFIX = ".index.json"
FORMAT, VERSION = "beton index", 1
MAX_BYTES = 1 << 26
"""Maximum size of an index: that of 4,000 parts and 20,000 classes has 2 MB."""
MAX_PARTS = 4096
"""As many files as ``sigbus`` can protect."""


@dataclass(frozen=True)
class IndexedPart:
    """What an index says about one of its parts.

    Attributes:
        file: its path, relative to the index.
        samples: how many it has.
        bytes: the file's size.
        index_crc32: CRC-32 of everything in it except the payloads (``Beton.index_checksum``), eight hex digits.
        samples_crc32: CRC-32 of the list of its samples' checksums, as its json has them; empty if it has none.
        classes: of labels 0, 1, ... in this part; None = those of the set.
    """

    file: str
    samples: int
    bytes: int
    index_crc32: str
    samples_crc32: str = ""
    classes: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The form in the index."""
        made = {
            "file": self.file,
            "samples": self.samples,
            "bytes": self.bytes,
            "index_crc32": self.index_crc32,
            "samples_crc32": self.samples_crc32,
        }
        return made if self.classes is None else {**made, "classes": list(self.classes)}


@dataclass(frozen=True)
class IndexFile:
    """An index, as it was read or is to be written.

    Attributes:
        path: of the index.
        parts: in the order of their samples.
        classes: of labels 0, 1, ... of the set; empty if their names are not known, or labels are numbers.
    """

    path: Path
    parts: tuple[IndexedPart, ...]
    classes: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Of all parts."""
        return sum(part.samples for part in self.parts)

    def place(self, part: IndexedPart) -> Path:
        """Where a part is."""
        return self.path.parent / part.file

    def write(self) -> None:
        """Write it, so that its path is always the complete old index or the complete new one."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "samples": self.samples,
            "classes": list(self.classes),
            "parts": [part.to_json() for part in self.parts],
        }
        write_text(self.path, json.dumps(document, indent=1) + "\n")


def index_path(beton: Path) -> Path:
    """The index of the parts of a set: of train.beton it is train.index.json."""
    return beton.with_name(beton.stem + SUFFIX)


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as that of an index."""
    return os.fspath(path).endswith(".json")


def read_index(path: Path) -> IndexFile:
    """The index at ``path``.

    Raises:
        BetonError: there is none, or it is not what is expected.
    """
    try:
        document = read_json(path, MAX_BYTES)
        if document.get("format") != FORMAT:
            raise ValueError(f'its "format" is not "{FORMAT}"')
        if document.get("version") != VERSION:
            raise ValueError(f"its version is {_shown(document.get('version'))}, expected {VERSION}")
        parts = document.get("parts")
        if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
            raise ValueError(f'its "parts" are {_shown(parts)}, expected a list of 1 to {MAX_PARTS}')
        index = IndexFile(path, tuple(map(_part, parts)), _names(document.get("classes")) or ())
        if document.get("samples") != index.samples:
            raise ValueError(
                f"it counts {_shown(document.get('samples'))} samples, and its parts {index.samples}"
            )
    except FileNotFoundError:
        raise BetonError(
            f"{path} does not exist; write it with pack --join INDEX FILE ..., or name the files themselves"
        ) from None
    except OSError as error:
        raise BetonError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BetonError(
            f"{path} is not the index of a set: {printable(str(error))}; write it again with pack --join"
        ) from None
    return index


def _part(document: object) -> IndexedPart:
    if not isinstance(document, dict):
        raise ValueError(f"one of its parts is {_shown(document)}, expected an object")
    file, samples, size = (document.get(key) for key in ("file", "samples", "bytes"))
    index_crc32, samples_crc32 = document.get("index_crc32"), document.get("samples_crc32", "")
    if not isinstance(file, str) or not file or "\0" in file:
        raise ValueError(f"one of its parts has the file {_shown(file)}, expected a path")
    if type(samples) is not int or type(size) is not int or min(samples, size) < 1:
        raise ValueError(f"the part {_shown(file)} has impossible numbers of samples or bytes")
    if not isinstance(index_crc32, str) or not isinstance(samples_crc32, str):
        raise ValueError(f"the part {_shown(file)} has impossible checksums")
    return IndexedPart(file, samples, size, index_crc32, samples_crc32, _names(document.get("classes")))


def _names(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"its classes are {_shown(given)}, expected a list of names")
    return tuple(given)


def _shown(value: object) -> str:
    return printable(repr(value), 60)
