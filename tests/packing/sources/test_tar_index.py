"""A tar's headers are read as Python's tarfile reads them, and what ends too early is refused with its last member."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from alexnet_fast.packing.sources.listing import FolderError
from alexnet_fast.packing.sources.tar_index import Inflated, Member, OpenFile, members
from imagenet_tars import add, tar_of

LONG = "deep/" * 30 + "äöü.JPEG"


def listed(path: Path, most: int = 1 << 30) -> list[Member]:
    with open(path, "rb") as file:
        source = Inflated(file, most) if path.suffix == ".gz" else OpenFile(file, path.stat().st_size)
        return list(members(source, path.name))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_members_are_where_tarfile_finds_them(tmp_path: Path, form: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w", format=form) as tar:
        names = ["./a.JPEG", "b/c.JPEG", "b" * 20 + "/" + "x" * 94 + ".JPEG", LONG, "empty", "z" * 100]
        for k, name in enumerate(names[: 3 if form == tarfile.USTAR_FORMAT else None]):
            add(tar, name, bytes([k]) * (0 if name == "empty" else 700 * k + 1))
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for kind, name in ((tarfile.SYMTYPE, "link"), (tarfile.FIFOTYPE, "pipe")):
            special = tarfile.TarInfo(name)
            special.type, special.linkname = kind, "a.JPEG"
            tar.addfile(special)
    with tarfile.open(path) as tar:
        expected = [
            (info.name.removeprefix("./"), info.offset_data, info.size) for info in tar if info.isfile()
        ]
    found = listed(path)
    assert [(name, offset, size) for name, kind, offset, size in found if kind == "file"] == expected
    assert [(name, kind) for name, kind, *_ in found if kind != "file"] == [
        ("folder", "folder"),
        ("link", "link"),
        ("pipe", "pipe"),
    ]


def test_a_hard_link_is_the_file_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "./a.JPEG", b"image")
        for name, target in (("b.JPEG", "./a.JPEG"), ("c.JPEG", "none")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            tar.addfile(link)
    a, b, c = listed(path)
    assert (b.kind, b.offset, b.size) == (a.kind, a.offset, 5) and c.kind == "link"


def test_a_size_beyond_eight_gigabytes_is_read(tmp_path: Path) -> None:
    path, size = tmp_path / "a.tar", 9 << 30
    info = tarfile.TarInfo("large.JPEG")
    info.size = size
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(512 + size + 1024)
        file.truncate()  # a hole
    assert listed(path) == [("large.JPEG", "file", 512, size)]


def test_wherever_a_tar_is_cut_off_it_is_refused(tmp_path: Path) -> None:
    """tarfile takes many of these for complete."""
    path = tmp_path / "a.tar"
    content = tar_of([("a.JPEG", b"x" * 1000), ("b.JPEG", b"y" * 10)])
    for end in range(0, 3 * 512 + 1024, 128):
        path.write_bytes(content[:end])
        with pytest.raises(FolderError, match=r"a\.tar is truncated: it ends .*download or copy it again"):
            listed(path)
    path.write_bytes(content[: 5 * 512 + 512])
    assert [member.name for member in listed(path)] == ["a.JPEG", "b.JPEG"]


@pytest.mark.parametrize("end", [0, 5, 30, -100, -9, -1])
def test_a_compressed_tar_that_is_cut_off_is_refused(tmp_path: Path, end: int) -> None:
    path = tmp_path / "a.tar.gz"
    noise = bytes(hash((k, "noise")) & 255 for k in range(5000))
    path.write_bytes(gzip.compress(tar_of([("a.JPEG", noise), ("b.JPEG", noise)]))[:end])
    with pytest.raises(FolderError, match=r"a\.tar\.gz(, after its member .*,)? is truncated: it ends"):
        listed(path)


def test_a_compressed_tar_that_is_corrupt_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    content = bytearray(gzip.compress(tar_of([("a.JPEG", b"x" * 100_000)])))
    path.write_bytes(content)
    with pytest.raises(
        FolderError, match=r"holds more than 0 GB, too much for memory; unpack it with gunzip$"
    ):
        listed(path, most=50_000)
    content[40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FolderError, match=r"a\.tar\.gz(, after its member .*,)? is corrupt before its byte"):
        listed(path)


def test_several_compressed_streams_in_one_file_are_read(tmp_path: Path) -> None:
    content = tar_of([("a.JPEG", b"x" * 5000), ("b.JPEG", b"y" * 10)])
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]) + bytes(50))
    assert [member.name for member in listed(path)] == ["a.JPEG", "b.JPEG"]


@pytest.mark.parametrize("content", [b"PK" * 600, b"\x80" * 1024, b"a" * 511 + b"\0" * 600])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(FolderError, match=r"a\.tar is not a tar: there is no header"):
        listed(path)


def test_a_sparse_file_and_a_name_without_end_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("sparse.JPEG")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "5"}
    info.size = 3
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(b"abc"))
    assert [member.kind for member in listed(path)] == ["sparse file"]
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 5 << 20
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(6 << 20))
    with pytest.raises(FolderError, match="the name of a member has"):
        listed(path)


def test_whatever_a_tar_holds_it_is_listed_or_refused(tmp_path: Path) -> None:
    path, draw = tmp_path / "a.tar", random.Random(0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.JPEG", LONG, "ä" * 60, "b/c.JPEG"):
            add(tar, name, name.encode() * 20)
    good = buffer.getvalue()
    listed_ones = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(draw.choice((1, 2, 8))):
            content[draw.randrange(6 * 512)] = draw.choice((0, 32, 48, 55, 255, draw.randrange(256)))
        path.write_bytes(content[: draw.choice((len(content), len(content), draw.randrange(len(content))))])
        try:
            found = listed(path)
        except FolderError as error:
            assert str(error).isprintable()
        else:
            assert all(0 <= member.offset + member.size <= len(content) for member in found)
            listed_ones += 1
    assert listed_ones
