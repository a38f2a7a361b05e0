"""Fetches the missing blocks of a file, several at a time, and tries again what fails."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from ..common.urls import shown
from .blocks import BLOCK_BYTES, PartFile
from .origin import NoRanges, Origin, Transient, Unreachable, WrongBytes

T = TypeVar("T")


@dataclass(frozen=True)
class FetchOptions:
    """How a file is fetched, and how long a server that fails is given.

    Attributes:
        stall_s: seconds without a byte after which a connection is given up.
        tries: in a row without a new byte, after which the fetch is given up.
        pause_s: before the second try; it doubles with each, up to ``longest_pause_s``.
        connections: at a time.
        block_bytes: that are asked for at a time.
    """

    stall_s: float = 30.0
    tries: int = 7
    pause_s: float = 1.0
    longest_pause_s: float = 30.0
    connections: int = 8
    block_bytes: int = BLOCK_BYTES

    def pause_before(self, again: int) -> float:
        return min(self.pause_s * 2.0 ** (again - 1), self.longest_pause_s)


DEFAULT = FetchOptions()


class _Stopped(Exception):
    """Another block has failed for good, or the user stopped the fetch."""


def tried(call: Callable[[], T], url: str, options: FetchOptions, stop: threading.Event | None = None) -> T:
    """What a call returns, which is made again after a Transient; raises Unreachable in the end."""
    failures = 0
    while True:
        try:
            return call()
        except Transient as error:
            failures += 1
            _pause(failures, error, url, options, stop or threading.Event())


def fetch(origin: Origin, part: PartFile, options: FetchOptions, progress: Callable[[int], None]) -> None:
    """Fetch the missing blocks of a file.

    progress: called with the number of bytes that are there.

    Raises:
        Refused, Changed: the file cannot be read there any more, or is another one.
        Unreachable: it was tried ``options.tries`` times in a row, and nothing arrived.
        UserError: the disk is full.
    """
    try:
        _fetch_ranges(origin, part, options, progress)
    except NoRanges:
        fetch_stream(origin, part, options, progress)


def _fetch_ranges(
    origin: Origin, part: PartFile, options: FetchOptions, progress: Callable[[int], None]
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(options.connections, "fetch") as pool:
        left = {pool.submit(_fetch_block, origin, part, block, options, stop) for block in part.missing}
        try:
            progress(part.done_bytes)
            while left:
                done, left = wait(left, 1.0, FIRST_COMPLETED)  # not for ever: Ctrl-C must come through
                for each in done:
                    each.result()
                progress(part.done_bytes)
        except BaseException:
            stop.set()
            for each in left:
                each.cancel()
            origin.stop()
            raise


def _fetch_block(
    origin: Origin, part: PartFile, block: int, options: FetchOptions, stop: threading.Event
) -> None:
    start, end = part.span(block)
    at, crc, failures = start, 0, 0

    def sink(data: bytes) -> None:
        nonlocal at, crc
        if stop.is_set():
            raise _Stopped
        data = data[: end - at]
        part.write(at, data)
        at, crc = at + len(data), zlib.crc32(data, crc)

    while at < end:
        if stop.is_set():
            raise _Stopped
        before = at
        try:
            origin.read(at, end, sink)
            if at == before:
                raise Transient("it sent nothing")
        except Transient as error:
            if isinstance(error, WrongBytes):
                at, crc = start, 0
            elif at > before:
                failures = 0
            failures += 1
            _pause(failures, error, origin.url, options, stop)
    part.complete(block, crc)


def fetch_stream(
    origin: Origin, part: PartFile, options: FetchOptions, progress: Callable[[int], None]
) -> None:
    """As ``fetch``, from a server without ranges: the file from its beginning, of which only missing blocks are kept."""
    failures, had = 0, len(part.done)
    while part.missing:
        progress(part.done_bytes)
        stream = _Stream(part, progress)
        try:
            origin.read_all(stream.take)
            if part.missing:
                raise Transient(f"the connection ended after {stream.at} of {part.size} bytes")
        except Transient as error:
            if isinstance(error, WrongBytes):
                part.forget([(0, part.size)])
            elif len(part.done) > had:
                failures = 0
            had, failures = len(part.done), failures + 1
            _pause(failures, error, origin.url, options, threading.Event())


class _Stream:
    """Takes a file from its beginning, and cuts it into blocks."""

    def __init__(self, part: PartFile, progress: Callable[[int], None]) -> None:
        self._part, self._progress = part, progress
        self.at = self._crc = 0

    def take(self, data: bytes) -> None:
        view = memoryview(data)[: self._part.size - self.at]
        while len(view):
            block = self.at // self._part.block_bytes
            _, end = self._part.span(block)
            piece = bytes(view[: end - self.at])
            if block not in self._part.done:
                self._part.write(self.at, piece)
            self.at, self._crc = self.at + len(piece), zlib.crc32(piece, self._crc)
            view = view[len(piece) :]
            if self.at == end:
                if block not in self._part.done:
                    self._part.complete(block, self._crc)
                    self._progress(self._part.done_bytes)
                self._crc = 0


def _pause(failures: int, error: Transient, url: str, options: FetchOptions, stop: threading.Event) -> None:
    """Wait before the next try; raises Unreachable if there is none."""
    if failures >= options.tries:
        raise Unreachable(
            f"{shown(url)} cannot be fetched: {error} ({failures} times in a row); check the network and start again: what has arrived is kept"
        ) from None
    stop.wait(options.pause_before(failures))
