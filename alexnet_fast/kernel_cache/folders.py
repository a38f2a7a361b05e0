"""The folders in which compiled kernels may be kept.

Of a checkout they are kept next to their sources, so that whoever copies or deletes the folder has or deletes both.  Of an installed
package they are kept in the user's cache: pip removes only the files that it has written, and a folder with others in it stays.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from numba.core import config

logger = logging.getLogger("alexnet_fast")


def search_path(source_folder: Path) -> Iterator[Path]:
    """Where to look for the compiled kernels of a source folder, best first. A package that is not writable may contain them."""
    yield from (lasting := list(_lasting(source_folder)))
    if not config.CACHE_DIR and (beside := _beside(source_folder)) not in lasting:
        yield beside
    if (temporary := _temporary()) is not None and _is_private(temporary):
        yield temporary / _own_name(source_folder)


@cache
def writable_folder(source_folder: Path) -> Path | None:
    """The first of these folders that can be written, created if needed; logs a warning if it is not a permanent one."""
    for permanent in (places := list(_lasting(source_folder))):
        if _can_be_written(permanent):
            return permanent
    place = _create_temporary(source_folder)
    logger.warning(
        "compiled kernels cannot be written to %s, so %s; set NUMBA_CACHE_DIR to a folder that can be written",
        " or ".join(map(str, places)),
        f"they are kept in {place} for now" if place else "each process compiles them for itself",
    )
    return place


def _lasting(source_folder: Path) -> Iterator[Path]:
    if config.CACHE_DIR:  # NUMBA_CACHE_DIR
        yield Path(config.CACHE_DIR).absolute() / _own_name(source_folder)
        return
    if not _is_installed(source_folder):
        yield _beside(source_folder)
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if home.is_absolute():  # without a home, "~" stays
        yield home / "alexnet_fast" / _own_name(source_folder)


def _beside(source_folder: Path) -> Path:
    return source_folder / "__pycache__" / "kernels"


def _is_installed(source_folder: Path) -> bool:
    """Whether an installer has put the package here, which keeps a list of what it may remove next to the package."""
    top = source_folder
    while (top.parent / "__init__.py").is_file():
        top = top.parent
    return any(top.parent.glob(f"{top.name}-*.dist-info"))


def _own_name(source_folder: Path) -> str:
    """A name that no other installation uses."""
    return f"{source_folder.name}-{hashlib.sha256(bytes(source_folder)).hexdigest()[:12]}"


def _temporary() -> Path | None:
    try:
        return Path(tempfile.gettempdir()) / f"alexnet_fast-{os.getuid()}"
    except FileNotFoundError:  # no temporary folder can be written
        return None


def _create_temporary(source_folder: Path) -> Path | None:
    if (temporary := _temporary()) is None:
        return None
    with suppress(OSError):
        temporary.mkdir(mode=0o700, exist_ok=True)
    place = temporary / _own_name(source_folder)
    return place if _is_private(temporary) and _can_be_written(place) else None


def _is_private(folder: Path) -> bool:
    """Whether only this user can write the folder. Anybody can create a folder in /tmp, and the code in it is run."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
