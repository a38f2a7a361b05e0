"""A web server on the loopback address with ranges and ETags, that counts what is asked of it and can be told to fail."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler", int, int], bool]
"""Called for a request of bytes start to end - 1 of a file; True if it has answered."""


@dataclass
class WebServer:
    """files: path -> content.  asked: (path, start, end) of each request that was answered with bytes, in order, without the
    requests of one byte, by which the client learns the size."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    contacts: int = 0
    fault: Fault | None = None
    has_ranges: bool = True
    has_digests: bool = False
    has_etags: bool = True
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self, path: str) -> list[tuple[int, int]]:
        """What was asked of one file, sorted."""
        return sorted((start, end) for name, start, end in self.asked if name == path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: WebServer

    def answers(self) -> bool:
        """Whether this request is for something else than a file, and is answered."""
        return False

    def do_GET(self) -> None:
        if self.answers():
            return
        served, path = self.served, self.path.partition("?")[0]
        with served.lock:
            served.contacts += 1
            served.headers.append(dict(self.headers))
        content = served.files.get(path)
        if content is None:
            self.refuse(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, end = (int(match[1]), min(int(match[2]) + 1, len(content))) if match else (0, len(content))
        if (start, end) == (0, 1) and served.has_ranges:
            self.send(content, 0, 1)
            return
        with served.lock:
            served.asked.append((path, start, end))
        if served.fault is None or not served.fault(self, start, end):
            self.send(content, start, end) if served.has_ranges and match else self.send_whole(content)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content: bytes, start: int, end: int, body: bytes | None = None) -> None:
        """A range, with the headers of the right bytes; body: what is sent in their place."""
        right = content[start:end]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.begin(content, len(right))
        if self.served.has_digests:
            self.send_header(
                "Content-Digest", f"sha-256=:{base64.b64encode(hashlib.sha256(right).digest()).decode()}:"
            )
        self.end_headers()
        self.wfile.write(right if body is None else body)

    def send_whole(self, content: bytes) -> None:
        self.send_response(200)
        self.begin(content, len(content))
        self.end_headers()
        self.wfile.write(content)

    def begin(self, content: bytes, length: int) -> None:
        self.send_header("Content-Length", str(length))
        if self.served.has_etags:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:16]}"')

    def cut(self, content: bytes, start: int, end: int, after: int) -> None:
        """Send a few bytes of a range, then close the connection."""
        self.send(content, start, end, content[start : start + after])
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    def log_message(self, *arguments: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(
        self, *arguments: Any
    ) -> None:  # clients that are killed, and connections that tests cut
        pass


@contextmanager
def web_server() -> Iterator[WebServer]:
    served = WebServer()
    handler = type("Served", (Handler,), {"served": served})
    server = _Server(("127.0.0.1", 0), handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
