"""Files on a web server, by fsspec's session: ranges, with the server's answers checked."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import re
from typing import Any

import aiohttp
import fsspec
import yarl
from fsspec.asyn import sync

from ..common.urls import beside, scheme_of, scrubbed, shown
from ..errors import UserError
from .event_loop import cancel_tasks
from .origin import (
    Changed,
    Facts,
    Missing,
    NoRanges,
    Refused,
    Sink,
    Transient,
    WrongBytes,
    digest_in,
    from_base64,
)

CHUNK_BYTES = 1 << 18
LATER = (408, 425, 429)  # and 5xx: the server asks to try again
RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class HttpOrigin:
    """A file behind http:// or https://. Proxies and .netrc are used as the environment says; see fsspec's configuration for headers."""

    def __init__(self, url: str, stall_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        scheme = scheme_of(url)
        given = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
        self._loop = loop
        self._files: Any = fsspec.filesystem(
            scheme,
            client_kwargs={"trust_env": True, **given},
            asynchronous=True,
            loop=loop,
            skip_instance_cache=True,
        )
        self._url = _as_given(url)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
        self._stall_s = stall_s
        self._facts: Facts | None = None

    def facts(self) -> Facts:
        """One byte is asked for: a URL that is signed for reading does not allow HEAD, and the answer shows whether ranges work."""
        self._facts = self._run(self._ask())
        return self._facts

    def read(self, start: int, end: int, sink: Sink) -> None:
        self._run(self._read(start, end, sink))

    def read_all(self, sink: Sink) -> None:
        self._run(self._read(0, None, sink))

    def beside(self, suffix: str) -> HttpOrigin:
        other = copy.copy(self)
        other._facts, other.url = None, beside(self.url, suffix)
        other._url = _as_given(other.url)
        return other

    def stop(self) -> None:
        cancel_tasks(self._loop)

    def close(self) -> None:
        async def close() -> None:
            await (await self._files.set_session()).close()

        sync(self._loop, close)

    def _run(self, coroutine: Any) -> Any:
        async def run() -> Any:
            return await coroutine

        try:
            return sync(self._loop, run)
        except UserError:
            raise
        except TimeoutError:
            raise Transient(f"no byte in {self._stall_s:g} s") from None
        except aiohttp.InvalidURL:
            raise Refused(f"{shown(self.url)} is not a URL that can be read") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Transient(scrubbed(str(error)) or type(error).__name__) from None

    async def _ask(self) -> Facts:
        async with await self._get({"Range": "bytes=0-0"}) as answer:
            headers = answer.headers
            if answer.status == 416:
                raise Refused(f"{shown(self.url)} is empty")
            self._check_status(answer)
            tag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
            whole = digest_in(headers.get("Repr-Digest")) or digest_in(headers.get("Digest"))
            for google in headers.getall("x-goog-hash", ()):
                name, _, text = google.partition("=")
                whole = whole or (from_base64("md5", text) if name == "md5" else None)
            if answer.status == 206:
                _, _, total = self._range_of(answer)
                if total is None:
                    raise Refused(f"{shown(self.url)}: the server does not say how long it is")
                return Facts(total, tag, modified, whole)
            length = headers.get("Content-Length", "")
            answer.close()  # the complete file would follow
            if not length.isdigit() or "Content-Encoding" in headers:
                raise Refused(f"{shown(self.url)}: the server does not say how long it is")
            if int(length) == 0:
                raise Refused(f"{shown(self.url)} is empty")
            return Facts(int(length), tag, modified, whole, has_ranges=False)

    async def _read(self, start: int, end: int | None, sink: Sink) -> None:
        asked = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
        async with await self._get(asked) as answer:
            self._check_status(answer)
            known, length = self._facts, None
            if known is not None and known.tag and answer.headers.get("ETag", known.tag) != known.tag:
                raise Changed
            if end is not None:
                if answer.status != 206:
                    answer.close()
                    raise NoRanges
                first, last, total = self._range_of(answer)
                if known is not None and total not in (None, known.size):
                    raise Changed
                if first != start or not first <= last < end:
                    answer.close()
                    raise Transient(f"asked for bytes {start} to {end - 1}, it sent {first} to {last}")
                length = last - first + 1
            expected = digest_in(answer.headers.get("Content-Digest"))
            running = hashlib.new(expected.algorithm) if expected else None
            got = 0
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                if length is not None:
                    chunk = chunk[: length - got]
                got += len(chunk)
                if running is not None:
                    running.update(chunk)
                sink(chunk)
            if length is not None and got < length:
                raise Transient(f"the connection ended after {got} of {length} bytes")
            if running is not None and expected is not None and running.hexdigest() != expected.hex:
                raise WrongBytes("the bytes do not have the checksum that the server sent with them")

    async def _get(self, headers: dict[str, str]) -> Any:
        session = await self._files.set_session()
        given = self._files.kwargs.get("headers", {})
        asked = {**given, "Accept-Encoding": "identity", **headers}
        return session.get(self._url, headers=asked, timeout=self._timeout)

    def _range_of(self, answer: Any) -> tuple[int, int, int | None]:
        match = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None:
            raise Transient("it sent a part of the file without saying which")
        total = match.group(3)
        return int(match.group(1)), int(match.group(2)), None if total == "*" else int(total)

    def _check_status(self, answer: Any) -> None:
        status = answer.status
        if status in (200, 206):
            return
        said = f"{status} {scrubbed(answer.reason or '')}".strip()
        if status in LATER or status >= 500:
            raise Transient(f"the server answered {said}")
        if status in (404, 410):
            raise Missing(f"{shown(self.url)} does not exist: the server answered {said}; check the URL")
        if status in (401, 403, 407):
            raise Refused(
                f"{shown(self.url)} may not be read: the server answered {said}; check the credentials (.netrc, a signed URL that has expired)"
            )
        raise Refused(f"{shown(self.url)} cannot be read: the server answered {said}")


def _as_given(url: str) -> yarl.URL:
    """The URL without another spelling of it: a signature holds for one only."""
    return yarl.URL(url, encoded=url.isascii() and " " not in url)
