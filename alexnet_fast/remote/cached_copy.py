"""A URL's file on the local disk: from the cache, or fetched into it first."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..common.files import hold_lock
from ..common.progress import progress_bar
from ..common.urls import shown
from ..errors import UserError
from .blocks import PartFile
from .cache import FOLDER, Cache, Copy, Entry
from .fetch import DEFAULT, FetchOptions, fetch, fetch_stream, tried
from .origin import Changed, Facts, Missing, Origin, Refused, Unreachable, open_origin

OFFLINE, OUR_RANKS = "ALEXNET_FAST_OFFLINE", "ALEXNET_FAST_RANKS"
FRESH_S = 60.0
"""A copy that was checked less than this ago is not checked again: the ranks of a host open it one after the other."""
CHECK_S = 10.0  # for the server's answer where there is a copy
VERSIONS = 3  # of a file that changes while it is fetched, before that is an error

logger = logging.getLogger("alexnet_fast")

Spans = Sequence[tuple[int, int]]
Check = Callable[[Path], tuple[Spans, str]]
"""Looks at a fetched file: the bytes (start, end) of it that are wrong, and what is wrong, in words; nothing where it is right."""


def cached_copy(
    url: str,
    sidecar: str = "",
    check: Check = lambda path: ((), ""),
    keeper: object = None,
    options: FetchOptions = DEFAULT,
) -> Path:
    """The path of the local copy of a URL's file, fetched first if there is none.

    One process fetches, others wait for it.  A copy is checked with the server (by ETag, else by size and time) unless that was done
    in the last minute; if the server has another version, that is fetched.  If the server cannot be reached or refuses, the copy is
    used, and a warning on the log "alexnet_fast" says so; with the variable ALEXNET_FAST_OFFLINE nobody asks.

    Args:
        sidecar: the suffix of a second file that comes with it if there is one, whose name is this one's and the suffix.
        check: of the complete file; the blocks that it finds wrong are fetched once more.
        keeper: an object; the copy is not removed while it lives.  None = while this process lives.

    Raises:
        UserError: there is no such file, it may not be read, nothing arrives, what arrives is wrong, or there is no room for it.
    """
    cache = Cache()
    entry = cache.entry(url)
    for _ in range(VERSIONS):
        copy = _usable(entry) or _checked(cache, entry, url, sidecar, check, options)
        if (held := copy.hold()) is not None:
            if keeper is not None:
                weakref.finalize(keeper, os.close, held).atexit = False
            return copy.path
    raise UserError(
        f"{shown(url)} was removed from the cache {cache.root} as often as it was fetched: raise its limit"
    )


def copy_there(url: str) -> Path | None:
    """The path of a complete copy in the cache, whatever its age; nobody is asked."""
    copies = Cache().entry(url).copies()
    return copies[0].path if copies else None


def facts_of(url: str, options: FetchOptions = DEFAULT) -> Facts:
    """What the server says of a file; raises UserError."""
    with open_origin(url, options.stall_s) as origin:
        return tried(origin.facts, url, options)


def _usable(entry: Entry) -> Copy | None:
    """A copy that needs no check."""
    copies = entry.copies()
    if not copies:
        return None
    is_fresh = abs(time.time() - copies[0].checked_s) < FRESH_S
    # Our launcher has checked it for its ranks: they must all read the same version.
    return copies[0] if is_fresh or os.environ.get(OFFLINE) or os.environ.get(OUR_RANKS) else None


def _checked(cache: Cache, entry: Entry, url: str, sidecar: str, check: Check, options: FetchOptions) -> Copy:
    """The copy of the server's version, as the one process that may fetch it."""

    def waits() -> None:
        logger.warning("waiting for another process that fetches %s", shown(url))

    with ExitStack() as stack:
        try:
            entry.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_lock(entry.lock, waits))
        except OSError as error:
            if there := entry.copies():
                logger.warning(
                    "the cache %s cannot be written (%s): its copy of %s is used, without asking the server",
                    *(cache.root, error.strerror, shown(url)),
                )
                return there[0]
            raise UserError(
                f"the cache {cache.root} cannot be written ({error.strerror}): set {FOLDER} to another folder"
            ) from None
        if (copy := _usable(entry)) is not None:
            return copy
        there = entry.copies()
        if os.environ.get(OFFLINE):
            raise UserError(f"{shown(url)} is not in the cache {cache.root}, and {OFFLINE} is set: unset it")
        for _ in range(VERSIONS):
            asked = replace(options, stall_s=min(options.stall_s, CHECK_S), tries=1) if there else options
            with open_origin(url, asked.stall_s) as origin:
                try:
                    facts = tried(origin.facts, url, asked)
                except (Refused, Unreachable) as error:
                    if not there:
                        raise
                    when = there[0].record.get("fetched")
                    logger.warning("%s; the copy that was fetched at %s is used", error, when)
                    return there[0]
                for copy in there:
                    if copy.folder.name == facts.version:
                        copy.note_checked()
                        return copy
                try:
                    return _fetched(cache, entry, origin, facts, sidecar, check, options)
                except Changed:
                    logger.warning("%s changed while it was fetched: it is fetched again", shown(url))
        raise UserError(
            f"{shown(url)} changes again and again while it is fetched; start when it is complete"
        )


def _fetched(
    cache: Cache,
    entry: Entry,
    origin: Origin,
    facts: Facts,
    sidecar: str,
    check: Check,
    options: FetchOptions,
) -> Copy:
    folder = entry.part_of(facts)
    cache.make_room(folder, facts.size)
    if sidecar:
        _fetch_sidecar(origin.beside(sidecar), folder / (entry.name + sidecar), facts.size, options)
    with ExitStack() as stack:
        part = stack.enter_context(PartFile(folder / entry.name, facts.size, options.block_bytes))
        progress = stack.enter_context(progress_bar(f"fetching {shown(origin.url)}", facts.size, unit="B"))
        for is_last in (False, True):
            (fetch if facts.has_ranges else fetch_stream)(origin, part, options, progress)
            if tried(origin.facts, origin.url, options).version != facts.version:
                raise Changed
            spans, what = _wrong(part.path, facts, check)
            if not what:
                break
            if is_last:
                raise UserError(
                    f"{shown(origin.url)}: {what}, although those bytes were fetched twice; the file there is corrupt, or its sidecar "
                    f"{sidecar} is of another file: upload both again"
                )
            logger.warning("%s: %s: those bytes are fetched again", shown(origin.url), what)
            part.forget(spans)
        part.finish()
    copy = entry.publish(folder, facts)
    for old in entry.copies():
        if old.folder != copy.folder:
            old.remove()
    return copy


def _fetch_sidecar(origin: Origin, path: Path, main_bytes: int, options: FetchOptions) -> None:
    """Fetch the second file, if there is one."""
    path.unlink(missing_ok=True)  # of an earlier try; the server's may be newer
    try:
        facts = tried(origin.facts, origin.url, options)
    except Missing:
        return
    except Refused as error:  # a signature holds for one URL only
        logger.warning("%s; the file is fetched without it", error)
        return
    if facts.size > main_bytes + (1 << 24):
        logger.warning("%s is larger than its file, which is fetched without it", shown(origin.url))
        return
    with PartFile(path, facts.size, options.block_bytes) as part:
        (fetch if facts.has_ranges else fetch_stream)(origin, part, options, lambda done: None)
        part.finish()


def _wrong(path: Path, facts: Facts, check: Check) -> tuple[Spans, str]:
    """What is wrong with a complete file: the bytes, and in words."""
    spans, what = check(path)
    if what or facts.digest is None:
        return spans, what
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, facts.digest.algorithm).hexdigest()
    if found == facts.digest.hex:
        return (), ""
    return [(0, facts.size)], f"its {facts.digest.algorithm} is {found}, the server says {facts.digest.hex}"
