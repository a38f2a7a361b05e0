"""URLs in place of paths, and what of them is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.common.cli import file_path
from alexnet_fast.common.urls import beside, file_name, identity, scrubbed, shown, url_of


@pytest.mark.parametrize(
    "url", ["s3://bucket/a.beton", "https://host/a/b.beton?x=1", "hf://datasets/a/b/c.beton"]
)
def test_a_url_is_recognized_as_text_and_as_a_path(url: str) -> None:
    assert url_of(url) == url
    assert url_of(Path(url)) == url, "a Path removes one of the slashes"


@pytest.mark.parametrize(
    "path", ["a.beton", "/a/b.beton", "a:/b", "C:/x", Path("s3"), "", b"s3://a/b", None, 3]
)
def test_anything_else_is_none(path: object) -> None:
    assert url_of(path) is None


def test_a_folder_that_is_called_like_a_protocol_stays_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s3:").mkdir()
    monkeypatch.chdir(tmp_path)
    assert url_of(Path("s3:/a.beton")) is None


def test_what_is_shown_has_no_password_and_no_query() -> None:
    assert shown("https://me:secret@host:8/a.beton?sig=secret") == "https://host:8/a.beton?..."
    assert shown("s3://bucket/a\x1b[31m.beton") == r"s3://bucket/a\x1b[31m.beton"
    said = "Cannot connect to https://me:secret@host/a?token=secret ssl:default"
    assert scrubbed(said) == "Cannot connect to https://host/a?... ssl:default"


def test_a_file_is_the_same_however_it_is_signed() -> None:
    signed = "https://me:pw@host/a.beton?v=2&X-Amz-Signature=1&X-Amz-Expires=3"
    assert (
        identity(signed)
        == identity("https://host/a.beton?v=2&X-Amz-Signature=9")
        == "https://host/a.beton?v=2"
    )
    assert identity("https://h/a?sv=1&se=2&sp=r&sig=x&id=7") == "https://h/a?id=7"
    assert identity("https://h/a?sv=1") != identity("https://h/a?sv=2"), "not a signature without sig"


def test_names_and_the_file_beside() -> None:
    assert file_name("https://host/x/a%20b.beton?y=1") == "a b.beton"
    assert file_name("https://host/") == "file" and "/" not in file_name("https://h/..%2F..%2Fetc")
    assert beside("https://host/a.beton?v=2", ".json") == "https://host/a.beton.json?v=2"


def test_a_flag_for_a_local_path_refuses_a_url() -> None:
    with pytest.raises(Exception, match="s3://bucket/out is a URL, .*: give a local path"):
        file_path("s3://bucket/out")
