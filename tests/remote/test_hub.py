"""hf:// against a server that answers as the Hugging Face Hub's API does."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

import components
from alexnet_fast.errors import UserError

from . import web_server as servers
from .test_cached_copy import BLOCKS, CONTENT, Fetched
from .web_server import Handler, WebServer

FILE = "/datasets/me/set/resolve/main/a.beton"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Hub(Handler):
    """One data set, me/set, with one file."""

    protocol_version = "HTTP/1.0"  # no kept connections: the client keeps its session until the process ends

    def answers(self) -> bool:
        if not self.path.startswith("/api/"):
            return False
        if self.path.startswith("/api/datasets/me/set/tree/"):
            size = len(CONTENT)
            lfs = {"oid": DIGEST, "size": size, "pointerSize": 134}
            self.answer([{"type": "file", "oid": "0", "size": size, "path": "a.beton", "lfs": lfs}])
        elif self.path.startswith("/api/datasets/me/set"):
            self.answer({"id": "me/set", "sha": "0", "siblings": [], "private": False, "tags": []})
        else:
            self.refuse(404)
        return True

    def answer(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    components.require("huggingface_hub")
    monkeypatch.setattr(servers, "Handler", Hub)
    with servers.web_server() as served:
        conf = importlib.import_module("fsspec.config").conf
        monkeypatch.setitem(conf, "hf", {"endpoint": served.url, "token": False})
        served.files[FILE] = CONTENT
        yield served


def test_a_file_of_the_hub_is_fetched_in_ranges_and_checked_by_its_sha256(
    hub: WebServer, fetched: Fetched, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(handler: Handler, start: int, end: int) -> bool:
        handler.served.fault = None
        handler.send(CONTENT, start, end, bytes(end - start))
        return True

    hub.fault = wrong
    assert fetched("hf://datasets/me/set/a.beton", ".json").read_bytes() == CONTENT
    assert f"the server says {DIGEST}: those bytes are fetched again" in caplog.text
    assert hub.ranges(FILE) == sorted(BLOCKS * 2), "no byte more than was asked for"


def test_what_the_hub_does_not_have_is_said_in_words(hub: WebServer, fetched: Fetched) -> None:
    with pytest.raises(UserError, match="hf://datasets/me/none/a.beton does not exist; check the URL"):
        fetched("hf://datasets/me/none/a.beton")
    with pytest.raises(UserError, match="hf://datasets/me/set/b.beton does not exist; check the URL"):
        fetched("hf://datasets/me/set/b.beton")
