"""s3:// against a real S3-compatible server: fetched in ranges, with its checksums, through its faults."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import components
from alexnet_fast.errors import UserError
from alexnet_fast.remote.cached_copy import facts_of
from alexnet_fast.remote.origin import Digest

from .conftest import QUICK
from .s3_server import S3Server, s3_server
from .test_cached_copy import BLOCKS, CONTENT, Fetched

URL = "s3://bucket/sets/a.beton"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    for name in ("s3fs", "moto"):
        components.require(name)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "TESTING")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with s3_server() as served:
            patch.setenv("AWS_ENDPOINT_URL", served.url)
            served.client.create_bucket(Bucket="bucket")
            yield served


@pytest.fixture
def s3(server: S3Server) -> Iterator[S3Server]:
    """The server with one object, as it was written in one piece."""
    server.put("bucket", "sets/a.beton", CONTENT)
    server.asked.clear()
    yield server
    server.fault = None


def in_turn(*answers: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]) -> Any:
    """A fault that gives each of these answers once, then none."""
    left = list(answers)

    def fault(server: S3Server, environment: dict[str, Any], start_response: Any) -> Iterable[bytes] | None:
        with server.lock:
            answer = left.pop(0) if left else None
        return answer and answer(environment, start_response)

    return fault


def test_an_object_is_fetched_in_ranges_with_its_sidecar(s3: S3Server, fetched: Fetched) -> None:
    s3.put("bucket", "sets/a.beton.json", b"{}")
    path = fetched(URL, ".json")
    assert path.read_bytes() == CONTENT and path.with_name("a.beton.json").read_bytes() == b"{}"
    assert sorted((start, end) for name, start, end in s3.asked if name.endswith(".beton")) == BLOCKS
    s3.client.delete_object(Bucket="bucket", Key="sets/a.beton.json")


def test_a_503_and_a_connection_that_is_cut_cost_another_request(s3: S3Server, fetched: Fetched) -> None:
    def unavailable(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("503 Slow Down", [("Content-Length", "0")])
        return [b""]

    def cut(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start, _, last = environment["HTTP_RANGE"].removeprefix("bytes=").partition("-")
        headers = [
            ("Content-Length", str(int(last) + 1 - int(start))),
            ("Content-Range", f"bytes {start}-{last}/{len(CONTENT)}"),
            ("Connection", "close"),
        ]
        start_response("206 Partial Content", headers)
        return [CONTENT[int(start) : int(start) + 1000]]

    s3.fault = in_turn(unavailable, cut)
    assert fetched(URL).read_bytes() == CONTENT
    assert len(s3.asked) >= len(BLOCKS) + 2


def test_wrong_bytes_are_found_by_the_objects_md5(
    s3: S3Server, fetched: Fetched, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start, _, last = environment["HTTP_RANGE"].removeprefix("bytes=").partition("-")
        length = int(last) + 1 - int(start)
        start_response("206 Partial Content", [("Content-Length", str(length))])
        return [bytes(length)]

    s3.fault = in_turn(wrong)
    assert fetched(URL).read_bytes() == CONTENT
    assert f"the server says {hashlib.md5(CONTENT).hexdigest()}: those bytes are fetched again" in caplog.text


def test_the_tag_of_an_object_that_is_encrypted_or_in_parts_is_no_md5(s3: S3Server) -> None:
    assert facts_of(URL, QUICK).digest == Digest("md5", hashlib.md5(CONTENT).hexdigest())
    s3.put("bucket", "secret.beton", CONTENT, ServerSideEncryption="aws:kms")
    assert facts_of("s3://bucket/secret.beton", QUICK).digest is None


def test_what_does_not_exist_is_said_in_words(s3: S3Server, fetched: Fetched) -> None:
    with pytest.raises(UserError, match=r"s3://bucket/none.beton does not exist; check the URL"):
        fetched("s3://bucket/none.beton")


def test_what_may_not_be_read_is_said_in_words(
    s3: S3Server, fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(UserError, match=r"a.beton may not be read \(.*redentials.*\); check the credentials"):
        fetched(URL)


def test_a_folder_is_not_a_file(s3: S3Server, fetched: Fetched) -> None:
    with pytest.raises(UserError, match="s3://bucket/sets is not a file"):
        fetched("s3://bucket/sets")


def test_offline_a_complete_copy_is_used(
    s3: S3Server, fetched: Fetched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import os

    path = fetched(URL)
    os.utime(path.parent / "record.json", (1e9, 1e9))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetched(URL) == path
    assert "the copy that was fetched at" in caplog.text
