"""A web server, a cache of its own for each test, and options that do not wait long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import components
from alexnet_fast.remote.fetch import FetchOptions

from .web_server import WebServer, web_server

BLOCK = 1 << 16
QUICK = FetchOptions(stall_s=20.0, tries=4, pause_s=0.0, connections=4, block_bytes=BLOCK)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache's folder."""
    monkeypatch.setenv("ALEXNET_FAST_CACHE", str(tmp_path / "cache"))
    for name in ("ALEXNET_FAST_CACHE_LIMIT", "ALEXNET_FAST_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as served:
        yield served


@pytest.fixture
def fetched(cache: Path) -> Callable[..., Path]:
    """cached_copy with options that do not wait."""
    from alexnet_fast.remote.cached_copy import cached_copy

    components.require("aiohttp")

    options: dict[str, Any] = {"options": QUICK}
    return partial(cached_copy, **options)
