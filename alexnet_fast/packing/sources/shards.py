"""Which files a set in several files is, and which split each is of: a folder, a file, or a pattern such as train-{000..146}.tar."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...common.untrusted import printable
from .image_folder import SPLITS
from .listing import FolderError, cannot, entries, passed_over

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)
MAX_FILES = 1 << 20
NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words in names of files and folders -> the split."""


class Shards:
    """The files of a set, by split.

    Attributes:
        root: the folder that keys are relative to.
        splits: name -> its files, in order.

    Args:
        given: a folder, which is searched with the folders in it; a file; or a pattern with {a,b}, {000..146} or *.
        suffixes: of the files, in lower case.
        what: they are, for messages.

    Raises:
        FolderError: there are none, one that the pattern names is missing, or of some it is not clear of which split they are.
    """

    def __init__(self, given: Path, suffixes: tuple[str, ...], what: str) -> None:
        self.given = given
        if os.path.isdir(given):
            self.root, files = given, _below(given, suffixes)
            if not files:
                raise FolderError(
                    f"{given} contains no {what}; expected files ending in {', '.join(suffixes)}"
                )
        else:
            files = list(_named(given, what))
            self.root = Path(os.path.commonpath([file.parent for file in files]))
        self.splits = self._by_split(files)

    def wanted(self) -> list[str]:
        """The splits to pack: train and val, or, if there is neither, all."""
        return [split for split in SPLITS if split in self.splits] or list(self.splits)

    def files(self, split: str) -> list[Path]:
        """The files of a split.

        Raises:
            FolderError: there is no such split.
        """
        if split not in self.splits:
            raise FolderError(f"{self.given} has no split {split!r}; expected {' or '.join(self.splits)}")
        return self.splits[split]

    def _by_split(self, files: list[Path]) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for file in files:
            found.setdefault(split_named(os.path.relpath(file, self.root)), []).append(file)
        unknown = found.pop("", [])
        if unknown and found:
            raise FolderError(
                f"the name of {unknown[0]} does not say of which split it is, as that of {next(iter(found.values()))[0]} does; name one "
                "split's files with a pattern"
            )
        if unknown:
            found[split_named(self.root.name) or self._stem()] = unknown
        return found

    def _stem(self) -> str:
        """What a set without names of splits is called: as its folder, or as the beginning of its pattern."""
        name = self.root.name if self.given == self.root else re.split(r"[{*?\[.]", self.given.name)[0]
        return name.rstrip("-_. ") or self.root.absolute().name or "all"


def first_below(folder: Path, suffixes: tuple[str, ...]) -> Path | None:
    """The first file with one of these suffixes in a folder, or in the usual ones in it: as in a copy of a repository of the Hub, or
    what ``save_to_disk`` writes.

    None if there is none, or if train/ or val/ have folders: those are of classes, and files next to them are something else.
    """
    try:
        if any(
            entry.is_dir()
            for split in SPLITS
            if (folder / split).is_dir()
            for entry in entries(folder / split)
        ):
            return None
        for place in (folder, *(folder / name for name in ("data", "train", "validation", "val"))):
            if place.is_dir():
                names = (entry.name for entry in entries(place) if not passed_over(entry.name))
                if found := [name for name in names if name.lower().endswith(suffixes)]:
                    return place / found[0]
    except (OSError, FolderError):  # whoever lists it reports that
        pass
    return None


def split_named(path: str) -> str:
    """The split that a path names, by its last word that is one; else ""."""
    words = re.findall(r"[a-z]+", path.lower())
    return next((NAMES[word] for word in reversed(words) if word in NAMES), "")


def expanded(pattern: str) -> Iterator[str]:
    """A pattern with each of its braces' values, as a shell expands it."""
    if not (braces := BRACES.search(pattern)):
        yield pattern
        return
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    if span := RANGE.fullmatch(braces[1]):
        first, last = int(span[1]), int(span[2])
        width = max(len(span[1]), len(span[2])) if "0" in (span[1][0], span[2][0]) else 0
        step = 1 if last >= first else -1
        values: Iterator[str] = (f"{k:0{width}}" for k in range(first, last + step, step))
    else:
        values = iter(braces[1].split(","))
    for value in values:
        yield from expanded(before + value + after)


def _named(given: Path, what: str) -> Iterator[Path]:
    """The files of a pattern."""
    for name in itertools.islice(expanded(str(given)), MAX_FILES):
        found = sorted(glob.glob(name)) if glob.has_magic(name) and not os.path.exists(name) else [name]
        if not found or not os.path.isfile(found[0]):
            of = f", which {given} names," if name != str(given) else ""
            raise FolderError(
                f"{printable(name, 1000)}{of} is not a file; expected {what}, a folder of them, or a pattern as train-{{000..146}}.tar"
            )
        yield from map(Path, found)


def _below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder and the folders in it, sorted by path."""

    def failed(error: OSError) -> None:
        raise cannot(f"list {error.filename}", error) from error

    found = []
    for here, folders, names in os.walk(folder, onerror=failed, followlinks=False):
        folders[:] = sorted(name for name in folders if not passed_over(name))
        found += [
            Path(here, name) for name in names if name.lower().endswith(suffixes) and not passed_over(name)
        ]
    return sorted(found)
