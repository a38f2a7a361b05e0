"""Lists a folder of classes: each real folder once, whatever links point to it; everything that is skipped is reported."""

from __future__ import annotations

import errno
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...common.untrusted import kind_of, open_regular
from ...errors import UserError
from ..kinds import HEAD_BYTES, format_of, image_suffixes

TOOLS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # of network disks
        *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
    )
)
"""Folders that other programs create next to images, in lower case.  Those that start with a dot are hidden anyway."""
MAX_LISTED = 10_000
"""Maximum number of ignored files that a sidecar names; all are counted.  A million names would exceed the size that its reader accepts."""
MAX_KINDS = 50
BROKEN_LINK = "broken link"


class FolderError(UserError):
    """A folder that is not what the packer expects."""


@dataclass
class Ignored:
    """What is in a folder of classes and is not packed, and why: kind -> how many.

    A kind is a suffix (".txt"), or words ("hidden", "no suffix", "pipe", "link that leads back").
    """

    counts: Counter[str] = field(default_factory=Counter)
    paths: list[str] = field(default_factory=list)
    """Paths below the folder; the first ``MAX_LISTED``."""

    def add(self, path: str, kind: str) -> None:
        self.counts[kind if kind in self.counts or len(self.counts) < MAX_KINDS else "other"] += 1
        if len(self.paths) < MAX_LISTED:
            self.paths.append(path)


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name.

    Raises:
        FolderError: it cannot be listed completely.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise cannot(f"list {folder}", error) from error


def class_names(root: Path, ignored: Ignored | None = None) -> list[str]:
    """The names of the class folders in a split's folder, in the order of labels.

    Args:
        ignored: receives everything else in the folder.

    Raises:
        FolderError: ``root`` cannot be listed, contains no folder of a class, or contains a broken link.
    """
    ignored = Ignored() if ignored is None else ignored
    names = []
    for entry in entries(root):
        if why := passed_over(entry.name):
            kind = why
        elif (kind := _kind(entry)) == "folder":
            names.append(entry.name)
            continue
        elif kind == BROKEN_LINK and suffix_of(entry.name) not in image_suffixes():
            raise _broken_link(entry.path)
        elif kind in ("file", BROKEN_LINK):
            kind = f"{suffix_of(entry.name)} next to the class folders"
        ignored.add(entry.name, kind)
    if not names:
        raise FolderError(f"{root} has no class folders; expected {root}/<class>/<image>{_flat(ignored)}")
    return names


class Listing:
    """The images of the classes below ``root``.

    Links to files and folders are followed, but each real folder is listed once: real folders before links, links by name.

    Args:
        ignored: receives what is not listed.

    Raises:
        FolderError: a folder cannot be listed; two classes share a folder; a link is broken, unless it has the name of an image:
            then the error comes when the image is read.
    """

    def __init__(self, root: Path, classes: list[str], ignored: Ignored) -> None:
        self._root, self._real_root, self._ignored = os.fspath(root), os.path.realpath(root), ignored
        self._suffixes = image_suffixes()
        self._taken: dict[str, str] = {}
        """Real path of each folder that was listed, and of each class -> its path below the root."""
        for name in classes:
            real = os.path.realpath(f"{self._root}/{name}")
            if self._leads_back(real):
                raise FolderError(
                    f"{self._root}/{name} is a link that leads back to {real}; expected a folder of the class's images"
                )
            self._take(real, name)
        self._paths: list[str] = []
        self._inodes = array("Q")
        self._linked: set[int] = set()

    def of_class(self, name: str) -> list[str]:
        """Paths of a class's images below the root, sorted."""
        found = sorted(self._walk(name))
        paths = [path for path, _ in found]
        self._paths += paths
        self._inodes.extend(inode for _, inode in found)
        return paths

    def in_several_classes(self) -> list[str]:
        """The images listed so far that are in more than one class through links."""
        if not self._linked:
            return []
        groups = defaultdict(list)
        for path, inode in zip(self._paths, self._inodes):
            if inode in self._linked:
                groups[inode].append(path)
        return [path for group in groups.values() for path in self._shared(group)]

    def _shared(self, paths: list[str]) -> list[str]:
        """Those of these paths whose file is also in another class; compares files, since inodes of two disks may be equal."""
        shared = []
        for path in paths:
            others = (other for other in paths if _class(other) != _class(path))
            if any(os.path.samefile(f"{self._root}/{path}", f"{self._root}/{other}") for other in others):
                shared.append(path)
        return shared

    def _walk(self, name: str) -> Iterator[tuple[str, int]]:
        """Each image of a class and its inode."""
        own = os.path.realpath(f"{self._root}/{name}")
        folders, links = [(name, own)], list[str]()
        while folders or links:
            if not folders:
                links.sort(reverse=True)
                path = links.pop()
                real = os.path.realpath(f"{self._root}/{path}")
                if self._leads_back(real) or real == own:
                    self._ignored.add(path, "link that leads back")
                elif self._take(real, path):
                    folders.append((path, real))
                continue
            folder, real = folders.pop()
            for entry in entries(f"{self._root}/{folder}"):
                path = f"{folder}/{entry.name}"
                if why := passed_over(entry.name):
                    self._ignored.add(path, why)
                elif (kind := _kind(entry)) != "folder":
                    if self._is_image(path, kind):
                        yield path, self._inode(entry, kind)
                elif entry.is_symlink():
                    links.append(path)
                elif self._take(f"{real.rstrip('/')}/{entry.name}", path):
                    folders.append((path, f"{real.rstrip('/')}/{entry.name}"))

    def _take(self, real: str, path: str) -> bool:
        """Whether to list a folder under this path: not if it is listed under another path of the same class."""
        if (other := self._taken.setdefault(real, path)) == path:
            return True
        if _class(other) != _class(path):
            raise FolderError(
                f"{self._root}/{path} and {self._root}/{other} are one folder, in two classes; "
                "remove the link from the class that it does not belong to"
            )
        self._ignored.add(path, "folder listed before")
        return False

    def _leads_back(self, real: str) -> bool:
        """Whether the root is this folder, or is below it."""
        return os.path.commonpath((real, self._real_root)) == real

    def _is_image(self, path: str, kind: str) -> bool:
        """Whether to read this path as an image.  A path with an image's suffix counts; if it is none, its reader reports it."""
        suffix = suffix_of(path)
        if suffix in self._suffixes:
            return True
        if kind == "file" and suffix == "no suffix" and self._starts_as_image(path):
            return True
        if kind == BROKEN_LINK:
            raise _broken_link(f"{self._root}/{path}")
        self._ignored.add(path, suffix if kind == "file" else kind)
        return False

    def _starts_as_image(self, path: str) -> bool:
        try:
            with open_regular(Path(f"{self._root}/{path}")) as file:
                return bool(format_of(file.read(HEAD_BYTES)))
        except OSError as error:
            raise cannot(f"read {self._root}/{path}, which may be an image", error) from error
        except ValueError:  # it was a file a moment ago
            return False

    def _inode(self, entry: os.DirEntry[str], kind: str) -> int:
        """The file's inode; 0 if it is not a file."""
        if kind != "file":
            return 0
        if not entry.is_symlink():
            return entry.inode()
        self._linked.add(inode := entry.stat().st_ino)
        return inode


def _flat(ignored: Ignored) -> str:
    """What to do about images that are next to the class folders; "" if there are none."""
    count = sum(count for kind, count in ignored.counts.items() if kind.partition(" ")[0] in image_suffixes())
    if not count:
        return ""
    return (
        f", but it contains {count:,} images itself: move each into the folder of its class; for ImageNet's validation images "
        "the well-known script valprep.sh does that"
    )


def _class(path: str) -> str:
    return path.partition("/")[0]


def suffix_of(path: str) -> str:
    """The suffix of a file's name in lower case, or "no suffix"."""
    return os.path.splitext(path)[1].lower() or "no suffix"


def passed_over(name: str) -> str:
    """Why an entry of that name is not an image or a class; "" if it may be one."""
    if name.startswith("."):
        return "hidden"
    return "folder of another program" if name.lower() in TOOLS else ""


def _kind(entry: os.DirEntry[str]) -> str:
    """ "file", "folder", "pipe", "socket" or "device", for a link that of its target, or ``BROKEN_LINK``."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return kind_of(entry.stat())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return BROKEN_LINK
        raise cannot(f"look at {entry.path}", error) from error


def _broken_link(path: str) -> FolderError:
    """The error for a broken link that may have been a class or a part of one, as when a disk is not mounted."""
    return FolderError(f"{path} is a broken link; restore its target, or remove it")


def cannot(what: str, error: OSError) -> FolderError:
    """The error for a file or folder that the system does not let us read."""
    return FolderError(
        f"cannot {what}: {error.strerror or error}; check that you may read it and that its disk or network is available, or move it away"
    )
