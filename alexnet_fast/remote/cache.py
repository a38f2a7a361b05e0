"""The folder of fetched files: which are complete, which are in use, and which are removed when there is no room.

    <cache>/<name>-<digest of the URL>/<version>/<name>             a complete file
                                                <name>.json         its sidecar, if it has one
                                                record.json         where it is from; its time is the last check with the server
                                                used                locked by processes that have the file open; its time is the last use
                                      /<version>.part/...           one that is being fetched

A version's folder gets its name by one rename, when everything in it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.files import hold_lock, sync_folder
from ..common.text import size as in_units
from ..common.untrusted import read_json
from ..common.urls import file_name, identity
from ..errors import UserError
from .origin import Facts

FOLDER, LIMIT = "ALEXNET_FAST_CACHE", "ALEXNET_FAST_CACHE_LIMIT"
LOCK, PART, REMOVED = "fetching.lock", ".part", ".removed"
SPARE_BYTES = 1 << 30
"""That a fetch leaves free on the disk."""
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Copy:
    """A complete file of the cache."""

    folder: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        try:
            return read_json(self.folder / "record.json", 1 << 16)
        except (OSError, ValueError):
            return {}

    @property
    def path(self) -> Path:
        return self.folder / str(self.record.get("name"))

    @property
    def is_complete(self) -> bool:
        try:
            return "name" in self.record and self.path.stat().st_size == self.record.get("size")
        except OSError:
            return False

    @property
    def checked_s(self) -> float:
        """When the server was asked last whether it has changed; 0 if the copy is gone."""
        return _time_of(self.folder / "record.json")

    @property
    def used_s(self) -> float:
        return _time_of(self.folder / "used")

    def note_checked(self) -> None:
        with suppress(OSError):
            os.utime(self.folder / "record.json")

    def hold(self) -> int | None:
        """A descriptor that keeps the copy from being removed until it is closed; None if the copy was just removed."""
        used = self.folder / "used"
        try:
            held = os.open(used, os.O_RDONLY | os.O_CLOEXEC)  # which is enough: it may be another user's
        except FileNotFoundError:
            return None
        with suppress(OSError):  # a file system without locks: then nothing is removed either
            fcntl.flock(held, fcntl.LOCK_SH)
        with suppress(OSError):
            if os.path.samestat(os.fstat(held), os.stat(used)):
                with suppress(PermissionError):
                    os.utime(used)
                return held
        os.close(held)
        return None

    def remove(self) -> bool:
        """Remove it, unless a process uses it."""
        try:
            held = os.open(self.folder / "used", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_folder(self.folder)
        except OSError:
            return False
        finally:
            os.close(held)
        return True


@dataclass(frozen=True)
class Part:
    """A file of the cache that is not complete: one that is being fetched, or whose fetch was interrupted."""

    folder: Path

    @property
    def used_s(self) -> float:
        return max((found.st_mtime for found in _files_in(self.folder)), default=0.0)

    def remove(self) -> bool:
        """Remove it, unless a process fetches it."""
        try:
            with hold_lock(self.folder.parent / LOCK, _raise_in_use):
                _remove_folder(self.folder)
        except OSError:
            return False
        return True


def _raise_in_use() -> None:
    raise BlockingIOError


class Entry:
    """The copies of one URL's file."""

    def __init__(self, root: Path, url: str) -> None:
        self.url, self.name = identity(url), file_name(url)
        self.folder = root / f"{self.name}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}"
        self.lock = self.folder / LOCK

    def copies(self) -> list[Copy]:
        """The complete ones, the last checked first."""
        found = [Copy(folder) for folder in _folders_in(self.folder) if not folder.suffix]
        return sorted((each for each in found if each.is_complete), key=lambda each: -each.checked_s)

    def part_of(self, facts: Facts) -> Path:
        """The folder in which a version is fetched; those of other versions, which will never be completed, are removed."""
        own = self.folder / f"{facts.version}{PART}"
        for folder in _folders_in(self.folder):
            if folder.suffix in (PART, REMOVED) and folder != own:
                shutil.rmtree(folder, ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        return own

    def publish(self, part: Path, facts: Facts) -> Copy:
        """Make a fetched version complete."""
        record = {
            "url": self.url,
            "name": self.name,
            "size": facts.size,
            "tag": facts.tag,
            "modified": facts.modified,
            "fetched": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        (part / "used").touch()
        (part / "record.json").write_text(json.dumps(record, indent=1))
        sync_folder(part)
        made = Copy(part.with_suffix(""))
        if made.folder.exists():  # one that is not complete: somebody deleted files in it
            _remove_folder(made.folder)
        os.rename(part, made.folder)
        sync_folder(self.folder)
        return made


class Cache:
    """All fetched files of this user on this host, or of all users that share the folder.

    Attributes:
        root: the folder, from the variable ALEXNET_FAST_CACHE, else ~/.cache/alexnet_fast/files.
        limit_bytes: which the files may take, from ALEXNET_FAST_CACHE_LIMIT; None = what the disk has.

    Raises:
        UserError: a variable cannot be read so.
    """

    def __init__(self) -> None:
        given = os.environ.get(FOLDER, "")
        home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
        self.root = Path(given).expanduser().absolute() if given else home / "alexnet_fast" / "files"
        if not self.root.is_absolute():
            raise UserError(f"there is no home folder for fetched files: set {FOLDER} to a folder")
        self.limit_bytes = limit_of(os.environ.get(LIMIT, ""))

    def entry(self, url: str) -> Entry:
        return Entry(self.root, url)

    def make_room(self, part: Path, wanted_bytes: int) -> None:
        """Remove the least recently used files that no process uses, until a file fits.

        part: the folder in which it is fetched.  wanted_bytes: its size.

        Raises:
            UserError: it does not fit, whatever is removed.
        """
        with hold_lock(self.root / "room.lock", lambda: None):
            for folder in self._versions():
                if folder.suffix == REMOVED:  # its removal was interrupted
                    shutil.rmtree(folder, ignore_errors=True)
            candidates = sorted(self._removable(part), key=lambda each: each.used_s)
            while (short := self._short_bytes(part, wanted_bytes)) > 0:
                if not any(each.remove() for each in _drained(candidates)):
                    raise UserError(self._no_room(wanted_bytes, short))

    def _short_bytes(self, part: Path, wanted_bytes: int) -> int:
        """How many bytes are missing for a file."""
        others = [folder for folder in self._versions() if folder != part]
        to_come = sum(_size(folder) - _allocated(folder) for folder in others if folder.suffix == PART)
        disk = os.statvfs(self.root)
        free = disk.f_frsize * disk.f_bavail - SPARE_BYTES - to_come
        short = wanted_bytes - _allocated(part) - free
        if self.limit_bytes is not None:
            short = max(short, wanted_bytes + sum(map(_size, others)) - self.limit_bytes)
        return short

    def _no_room(self, wanted_bytes: int, short_bytes: int) -> str:
        what = f"a file of {in_units(wanted_bytes)} does not fit into the cache {self.root}"
        if self.limit_bytes is not None and wanted_bytes > self.limit_bytes:
            return f"{what}, whose limit is {in_units(self.limit_bytes)}: raise {LIMIT}"
        return (
            f"{what}: {in_units(short_bytes)} are missing, and all files in it are in use or being fetched; make room on its disk, "
            f"raise {LIMIT} if it is set, or set {FOLDER} to a folder on a larger disk"
        )

    def _removable(self, own: Path) -> list[Copy | Part]:
        return [
            Part(folder) if folder.suffix == PART else Copy(folder)
            for folder in self._versions()
            if folder != own
        ]

    def _versions(self) -> list[Path]:
        return [version for entry in _folders_in(self.root) for version in _folders_in(entry)]


def limit_of(text: str) -> int | None:
    """The number of bytes that a text such as "500G" means, in binary units; None for an empty one."""
    if not text.strip():
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"{LIMIT} = {text!r} is not a size: expected a number of bytes, or one such as 500G")
    return int(float(match.group(1)) * UNITS[match.group(2).upper()])


def _drained(candidates: list[Copy | Part]) -> Iterator[Copy | Part]:
    while candidates:
        yield candidates.pop(0)


def _remove_folder(folder: Path) -> None:
    """By a rename first: a folder that has lost only some of its files must not be taken for a complete one."""
    removed = folder.with_name(f"{folder.name}{REMOVED}")
    shutil.rmtree(removed, ignore_errors=True)
    os.rename(folder, removed)
    shutil.rmtree(removed, ignore_errors=True)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _size(folder: Path) -> int:
    return sum(found.st_size for found in _files_in(folder))


def _allocated(folder: Path) -> int:
    return sum(min(512 * found.st_blocks, found.st_size) for found in _files_in(folder))


def _files_in(folder: Path) -> Iterator[os.stat_result]:
    for path in folder.glob("*"):
        with suppress(OSError):
            yield path.stat()


def _time_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
