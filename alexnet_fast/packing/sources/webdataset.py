"""webdataset's shards, as a source: tars in which the files of a sample have one name, as 0001.jpg and 0001.cls.

The image is the member with an image's suffix.  The label is in NAME.cls, or in NAME.json under "label" or another usual name;
``--columns png,json.species`` names others.  A .tar is read at its members' offsets; a .tar.gz has to be unpacked as a whole, once,
into memory that all workers share (``shared_groups``), so its images are shuffled among themselves only, and the shards too.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...common.progress import progress_bar
from ...common.untrusted import printable
from ..kinds import image_suffixes
from . import Choices, LabelType
from .archives import ArchiveDataset, Found, Listing, TarReader
from .key_table import Archive, KeyTable
from .label_numbers import numbered
from .list_rows import LABELS, chosen, label_text
from .listing import FolderError, Ignored, passed_over
from .shards import first_below
from .shared_groups import MAX_GROUP_BYTES
from .tar_index import Broken, Inflated, Member, OpenFile, Readable, is_gzip, members

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_LABEL_BYTES = 1 << 20
EXPECTED = "samples as 0001.jpg with 0001.cls or 0001.json"


class WebDataset(ArchiveDataset):
    """A folder of shards, or a pattern of their names."""

    kind = "webdataset"
    suffixes, what = SUFFIXES, "webdataset's shards"

    def list_files(self, archives: tuple[Archive, ...]) -> Listing:
        return _listing(archives, str(self.shards().root), self.choices.columns, self.choices.label_type)

    def made_reader(self, place: str, root: str, table: KeyTable) -> TarReader:
        return TarReader(place, root, table)


def opened(folder: Path, file: Path | None, choices: Choices) -> WebDataset:
    """The shards of a folder or a pattern."""
    return WebDataset(file or folder, choices)


def recognises(folder: Path) -> bool:
    """Whether a folder holds shards: tars that begin with a sample."""
    if (first := first_below(folder, SUFFIXES)) is None:
        return False
    try:
        archive = Archive.of(first)
        with archive.opened() as file:
            begin = itertools.islice(members(_readable(archive, file), archive.path), 100)
            parts = [_parts(member.name) for member in begin]
    except (OSError, ValueError, FolderError):
        return False
    labelled = {name for name, suffix in parts if suffix in LABEL_PARTS}
    return any(
        f".{suffix.rpartition('.')[2]}" in image_suffixes() for name, suffix in parts if name in labelled
    )


LABEL_PARTS = ("cls", "json")


@dataclass
class _Sample:
    images: list[tuple[str, Member]] = field(default_factory=list)
    label: str | None = None
    ranked: int = 99
    """By which of ``LABEL_PARTS`` the label is; the first counts."""


@lru_cache(maxsize=2)
def _listing(
    archives: tuple[Archive, ...], root: str, columns: tuple[str, str] | None, label_type: LabelType
) -> Listing:
    found, ignored, labels = Found(), Ignored(), list[str]()
    with progress_bar("listing shards", len(archives), unit="shards") as progress:
        for number, archive in enumerate(archives):
            place = os.path.relpath(archive.path, root)
            for name, sample in _samples(archive, place, columns, ignored).items():
                if not sample.images:
                    ignored.add(f"{place}/{name}", "sample without an image")
                    continue
                if len(sample.images) > 1:
                    several = " and ".join(printable(member.name) for _, member in sample.images[:2])
                    raise FolderError(
                        f"{archive.path}: the sample {printable(repr(name))} has several images ({several}): name one with --columns, as "
                        f"{printable(sample.images[0][0])},cls"
                    )
                member = sample.images[0][1]
                if sample.label is None:
                    raise FolderError(
                        f"{archive.path}: the image {printable(repr(member.name))} has no label; expected {EXPECTED}, or name where it is "
                        "with --columns, as jpg,json.label"
                    )
                found.add(f"{place}/{member.name}", number, member.offset, member.size)
                labels.append(sample.label)
            progress(number + 1)
    if not found.keys:
        raise FolderError(f"{archives[0].path} and the other shards hold no image; expected {EXPECTED}")
    numbers, classes = numbered(found.keys, labels, root, label_type)
    groups = found.archive if any(is_gzip(archive.path) for archive in archives) else ()
    return Listing(found.keys, labels, classes, found.table(numbers, classes, archives), ignored, groups)


def _samples(
    archive: Archive, place: str, columns: tuple[str, str] | None, ignored: Ignored
) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    image, label = columns or ("", "")
    part, _, key = label.partition(".") if label.startswith("json.") else (label, "", "")
    parts = (part,) if part else LABEL_PARTS
    with archive.opened() as file:
        source = _readable(archive, file)
        for member in members(source, archive.path):
            name, suffix = _parts(member.name)
            outside = member.name.startswith("/") or ".." in member.name.split("/")
            if member.kind == "folder":
                continue
            why = "" if member.kind == "file" else member.kind
            if why := why or ("path out of the tar" if outside else "") or _passed(member.name):
                ignored.add(f"{place}/{member.name}", why)
                continue
            sample = samples.setdefault(name, _Sample())
            if suffix in parts:
                if parts.index(suffix) < sample.ranked:
                    sample.ranked = parts.index(suffix)
                    sample.label = _label(archive, member, source, suffix, key)
            elif suffix == image if image else f".{suffix.rpartition('.')[2]}" in image_suffixes():
                sample.images.append((suffix, member))
            else:
                ignored.add(f"{place}/{member.name}", f".{suffix}")
    return samples


def _label(archive: Archive, member: Member, source: Readable, part: str, key: str) -> str | None:
    """The label in a member; None where a JSON has none, if no name was given."""
    place = f"{archive.path}/{member.name}"
    if member.size > MAX_LABEL_BYTES:
        raise FolderError(
            f"{printable(place, 1000)} has {member.size:,} bytes, too many for a label; name another with --columns"
        )
    try:
        text = source.read(member.offset, member.size).decode("utf-8")
        if part != "json":
            return text.strip() or None
        document = json.loads(text)
    except Broken as error:
        raise FolderError(f"{archive.path}, in its member {printable(repr(member.name))}, {error}") from error
    except (ValueError, RecursionError) as error:
        raise FolderError(f"cannot read {printable(place, 1000)}: {error}; expected a label") from error
    if not isinstance(document, dict):
        found: Any = document
    elif key:
        found = document.get(key)
    elif {name.lower() for name in document} & set(LABELS):
        _, name = chosen(place, ["image", *(name for name in document if name.lower() in LABELS)])
        found = document[name]
    else:
        return None
    if (label := label_text(found)) is None:
        raise FolderError(
            f"{printable(place, 1000)}: its label is {printable(repr(found))}; expected a number or a name"
        )
    return label or None


def _readable(archive: Archive, file: Any) -> Readable:
    return Inflated(file, MAX_GROUP_BYTES) if is_gzip(archive.path) else OpenFile(file, archive.size)


def _parts(name: str) -> tuple[str, str]:
    """The name of the sample, and what comes after its first dot, in lower case, as webdataset divides them."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", suffix.lower()


def _passed(name: str) -> str:
    return next(filter(None, map(passed_over, name.split("/"))), "")
