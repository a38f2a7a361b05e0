"""Where a file comes from: what is known of it there, and ranges of its bytes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..common.urls import scheme_of, scrubbed, shown
from ..errors import UserError

Sink = Callable[[bytes], None]
"""Takes the bytes of a range one after the other."""
ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5"}


class Refused(UserError):
    """The server's answer will stay the same: there is no such file, or it may not be read."""


class Missing(Refused):
    """There is no such file."""


class Unreachable(UserError):
    """Nothing arrived, however often it was tried."""


class Transient(Exception):
    """A failure after which another try may succeed; the text is the reason, without secrets."""


class WrongBytes(Transient):
    """The bytes of a range do not have the checksum that the server gave with them."""


class NoRanges(Exception):
    """The server sends the complete file, whatever range is asked for."""


class Changed(Exception):
    """The file is another one than when its fetch began."""


@dataclass(frozen=True)
class Digest:
    """A checksum of a complete file: hashlib's name of the algorithm, and hex digits."""

    algorithm: str
    hex: str


@dataclass(frozen=True)
class Facts:
    """What a server says of a file.

    Attributes:
        size: in bytes.
        tag: its ETag, generation or the like, which changes with its content; "" if the server gives none.
        modified: when it was written, in the server's words; "" if it does not say.
        digest: of the complete file, if the server gives one.
        has_ranges: whether it sends parts of the file.
    """

    size: int
    tag: str = ""
    modified: str = ""
    digest: Digest | None = None
    has_ranges: bool = True

    @property
    def version(self) -> str:
        """Equal for two files that are the same as far as the server says."""
        known = self.tag or self.modified
        return hashlib.sha256(f"{self.size} {known}".encode()).hexdigest()[:12]


class Origin(Protocol):
    """A file that is elsewhere. Its methods may be called by several threads."""

    url: str

    def facts(self) -> Facts:
        """Raises Refused, or Transient."""
        ...

    def read(self, start: int, end: int, sink: Sink) -> None:
        """Read bytes start to end - 1, or the first of them.

        Raises:
            Refused, Changed, NoRanges: it cannot be read so.
            Transient: another try may succeed, at the byte after the last that ``sink`` has got.
            WrongBytes: what ``sink`` has got is wrong.
        """
        ...

    def read_all(self, sink: Sink) -> None:
        """Read the complete file, from a server without ranges; raises as ``read``."""
        ...

    def beside(self, suffix: str) -> Origin:
        """The file whose name is this one's and a suffix, by the same connections."""
        ...

    def stop(self) -> None:
        """Give up the requests that other threads wait for, as after Ctrl-C: a server may not answer for long."""
        ...

    def close(self) -> None:
        """Close its connections."""
        ...


@contextmanager
def open_origin(url: str, stall_s: float) -> Iterator[Origin]:
    """The file at a URL; nothing is asked yet. Its connections end with the body.

    stall_s: seconds without a byte after which a connection is given up.

    Raises:
        UserError: the protocol is not known, or its package is not installed.
    """
    from .event_loop import event_loop

    with event_loop() as loop:
        try:
            origin: Origin
            if scheme_of(url) in ("http", "https"):
                from .http import HttpOrigin

                origin = HttpOrigin(url, stall_s, loop)
            else:
                from .objects import ObjectOrigin

                origin = ObjectOrigin(url, stall_s, loop)
        except ImportError as error:
            raise UserError(
                f"{shown(url)} needs a package that is not installed ({scrubbed(str(error))}): pip install 'alexnet_fast[remote]'"
            ) from None
        try:
            yield origin
        finally:
            origin.close()


def digest_in(header: str | None) -> Digest | None:
    """The first checksum that we know of a header such as ``sha-256=:BASE64:`` (RFC 9530) or ``SHA-256=BASE64`` (RFC 3230)."""
    for name, text in re.findall(r"([\w-]+)=:?([A-Za-z0-9+/=]+):?", header or ""):
        if (algorithm := ALGORITHMS.get(name.lower())) is not None:
            return from_base64(algorithm, text)
    return None


def from_base64(algorithm: str, text: object) -> Digest | None:
    """The checksum; None if the text is not one of this algorithm."""
    try:
        found = base64.b64decode(str(text), validate=True)
    except ValueError:
        return None
    return Digest(algorithm, found.hex()) if len(found) == hashlib.new(algorithm).digest_size else None
