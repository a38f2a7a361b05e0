"""The cache's bounds: what is removed, and what is not."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from alexnet_fast.errors import UserError
from alexnet_fast.remote import cache as module
from alexnet_fast.remote.cache import limit_of
from alexnet_fast.remote.cached_copy import copy_there

from .test_cached_copy import CONTENT, Fetched, Keeper
from .web_server import WebServer


def use_time(path: Path, seconds: float) -> None:
    os.utime(path.parent / "used", (seconds, seconds))


@pytest.fixture
def bounded(web: WebServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    """Five files, and room for three."""
    monkeypatch.setenv("ALEXNET_FAST_CACHE_LIMIT", str(3 * len(CONTENT) + 50_000))
    web.files |= {f"/{name}.beton": CONTENT for name in "abcde"}
    return web


def test_the_least_recently_used_file_makes_room_for_another(bounded: WebServer, fetched: Fetched) -> None:
    paths = {name: fetched(f"{bounded.url}/{name}.beton", keeper=Keeper()) for name in "abc"}
    gc.collect()
    for seconds, name in enumerate("bca"):
        use_time(paths[name], 1e9 + seconds)
    fetched(f"{bounded.url}/d.beton", keeper=Keeper())
    assert [name for name in "abcd" if copy_there(f"{bounded.url}/{name}.beton")] == ["a", "c", "d"]


def test_a_file_in_use_is_not_removed(bounded: WebServer, fetched: Fetched) -> None:
    keeper = Keeper()
    paths = {
        name: fetched(f"{bounded.url}/{name}.beton", keeper=keeper if name != "b" else Keeper())
        for name in "abc"
    }
    gc.collect()
    for seconds, name in enumerate("abc"):
        use_time(paths[name], 1e9 + seconds)
    fetched(f"{bounded.url}/d.beton", keeper=keeper)
    assert [name for name in "abcd" if copy_there(f"{bounded.url}/{name}.beton")] == ["a", "c", "d"]
    with pytest.raises(
        UserError, match=r"does not fit into the cache .*: 2.* are missing, and all files in it are in use"
    ):
        fetched(f"{bounded.url}/e.beton")
    del keeper
    gc.collect()
    assert fetched(f"{bounded.url}/e.beton", keeper=Keeper()).read_bytes() == CONTENT


def test_a_fetch_that_was_interrupted_makes_room_too(
    bounded: WebServer, cache: Path, fetched: Fetched
) -> None:
    abandoned = cache / "z.beton-0123456789ab" / "0123456789ab.part"
    abandoned.mkdir(parents=True)
    (abandoned / "z.beton").write_bytes(bytes(3 * len(CONTENT)))
    removed = cache / "z.beton-0123456789ab" / "ffff.removed"
    removed.mkdir()
    (removed / "z.beton").write_bytes(bytes(3 * len(CONTENT)))
    fetched(f"{bounded.url}/a.beton")
    assert not abandoned.exists() and not removed.exists()


def test_a_file_larger_than_the_limit_is_refused_before_it_is_fetched(
    web: WebServer, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_FAST_CACHE_LIMIT", "100K")
    web.files["/a.beton"] = CONTENT
    with pytest.raises(UserError, match="whose limit is 100 KiB: raise ALEXNET_FAST_CACHE_LIMIT"):
        fetched(f"{web.url}/a.beton")
    assert not web.asked


def test_a_disk_without_room_is_said_before_the_fetch(
    web: WebServer, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 1 << 60)
    web.files["/a.beton"] = CONTENT
    with pytest.raises(UserError, match="make room on its disk"):
        fetched(f"{web.url}/a.beton")
    assert not web.asked


def test_a_copy_of_which_somebody_deleted_a_file_is_fetched_again(web: WebServer, fetched: Fetched) -> None:
    web.files["/a.beton"] = CONTENT
    fetched(f"{web.url}/a.beton").unlink()
    assert fetched(f"{web.url}/a.beton").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_named(
    web: WebServer, tmp_path: Path, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALEXNET_FAST_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        UserError, match="file cannot be written .*: set ALEXNET_FAST_CACHE to another folder"
    ):
        fetched(f"{web.url}/a.beton")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("1000", 1000), ("100K", 102_400), ("1.5 GiB", 3 << 29), ("2tb", 2 << 40)],
)
def test_a_limit_is_a_number_with_a_unit(text: str, expected: int | None) -> None:
    assert limit_of(text) == expected


def test_another_limit_is_refused() -> None:
    with pytest.raises(UserError, match="ALEXNET_FAST_CACHE_LIMIT = 'much' is not a size"):
        limit_of("much")


def test_a_cache_that_cannot_be_written_still_serves_its_copies(
    web: WebServer, fetched: Fetched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one on a read-only disk, or another user's."""
    from alexnet_fast.remote import cached_copy

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    web.files["/a.beton"] = CONTENT
    path = fetched(f"{web.url}/a.beton")
    os.utime(path.parent / "record.json", (1e9, 1e9))
    monkeypatch.setattr(cached_copy, "hold_lock", refuse)
    monkeypatch.setattr(module.os, "utime", refuse)
    assert fetched(f"{web.url}/a.beton") == path
    assert "cannot be written (Permission denied): its copy" in caplog.text
