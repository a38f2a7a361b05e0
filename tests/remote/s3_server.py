"""moto's S3 on the loopback address, in front of which requests can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Fault = Callable[["S3Server", dict[str, Any], Callable[..., Any]], Iterable[bytes] | None]
"""Called for each request of a range, with WSGI's environment and start_response; returns what is answered, or None for S3's own."""


@dataclass
class S3Server:
    """asked: the ranges of all requests for parts of objects, as (path, start, end), in order."""

    url: str = ""
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    fault: Fault | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, bucket: str, key: str, content: bytes, **more: str) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content, **more)

    @cached_property
    def client(self) -> Any:
        """Made once: it takes a second."""
        import boto3

        return boto3.client("s3", endpoint_url=self.url)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            pass

    served, moto = S3Server(), DomainDispatcherApplication(create_backend_app)

    def application(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = environment.get("HTTP_RANGE", "")
        if environment["REQUEST_METHOD"] == "GET" and given:
            start, _, last = given.removeprefix("bytes=").partition("-")
            with served.lock:
                served.asked.append((environment["PATH_INFO"], int(start), int(last) + 1))
            if served.fault is not None:
                answer = served.fault(served, environment, start_response)
                if answer is not None:
                    return answer
        return moto(environment, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    server.daemon_threads, server.block_on_close = True, False
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
