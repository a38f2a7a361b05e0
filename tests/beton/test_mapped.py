"""A file that is written over while it is read is distinguished from one that only looks different, or lost its name."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.beton import sigbus
from alexnet_fast.beton.errors import BetonError
from alexnet_fast.beton.mapped import MappedFile, Witness

CONTENT = bytes(range(251)) * 4000  # 1 MB
LOG = "alexnet_fast"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.beton"
    path.write_bytes(CONTENT)
    return path


def over(path: Path, content: bytes, at: int = 0) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def copied_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(len(CONTENT)))
    subprocess.run(["cp", other, path], check=True)


def shrunk_and_grown(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, len(CONTENT))


WRITERS = {
    "other bytes, in place": (lambda path: over(path, bytes(9000)), "written over or touched"),
    "one byte, the same": (
        lambda path: over(path, CONTENT[-1:], len(CONTENT) - 1),
        "written over or touched",
    ),
    "cp": (copied_over, "written over or touched"),
    "shrunk and grown": (shrunk_and_grown, "written over or touched"),
    "touch": (os.utime, "written over or touched"),
    "shortened": (lambda path: os.truncate(path, 5), "shortened while it was open, from 1004000 bytes to 5"),
    "emptied": (lambda path: path.write_bytes(b""), "shortened .* to 0"),
    "lengthened": (lambda path: over(path, b"more", len(CONTENT)), "lengthened .* to 1004004"),
}


@pytest.mark.parametrize("how", WRITERS)
def test_every_write_to_an_open_file_is_detected(path: Path, how: str) -> None:
    write, words = WRITERS[how]
    file = MappedFile(path)
    with file.unchanged:
        assert file.bytes.tobytes() == CONTENT
    with pytest.raises(BetonError, match=f"^{path} was {words}.*rename that"), file.unchanged:
        write(path)
        file.bytes.sum()  # pages that are gone, too
    with pytest.raises(BetonError, match=words):
        file.check()


INNOCENT: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o600),
    "a link more": lambda path: os.link(path, path.with_name("link")),
    "a link less": lambda path: (os.link(path, path.with_name("link")), path.with_name("link").unlink()),
    "moved and back": lambda path: path.rename(path.with_name("b")).rename(path),
    "read": lambda path: path.read_bytes(),
    "its access time": lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns)),
}


@pytest.mark.parametrize("how", INNOCENT)
def test_what_leaves_the_bytes_and_the_name_alone_is_no_change(
    path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    file = MappedFile(path)
    with caplog.at_level(logging.WARNING, LOG), file.unchanged:
        INNOCENT[how](path)
    assert not caplog.records and not file.lost_its_name
    assert file.bytes.tobytes() == CONTENT


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.replace(other, path)


NAMES: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced": (replaced, "was replaced by another file"),
    "deleted": (os.unlink, "was deleted or moved"),
    "moved": (lambda path: path.rename(path.with_name("b")), "was deleted or moved"),
    "its folder removed": (lambda path: shutil.rmtree(path.parent), "was deleted or moved"),
}


@pytest.mark.parametrize("how", NAMES)
def test_a_file_that_loses_its_name_stays_readable_and_is_reported_once(
    path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    act, words = NAMES[how]
    file = MappedFile(path)
    with caplog.at_level(logging.WARNING, LOG):
        for _ in range(2):
            with file.unchanged:
                if path.exists() and not file.lost_its_name:
                    act(path)
                assert file.bytes.tobytes() == CONTENT
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} {words} while it was open: processes that have it open still read the old file, which is complete; "
        "those that open it from now on, as a resumed run does, do not"
    ]


def test_a_path_is_that_of_the_folder_in_which_it_was_given(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(path.parent)
    file = MappedFile(Path(path.name))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING, LOG):
        file.check()
    assert not caplog.records


def test_a_part_that_the_disk_cannot_read_is_an_error_that_says_where(path: Path) -> None:
    """As after a short failure of the disk: by now the file is what it was."""
    file = MappedFile(path)
    then = path.stat()
    with (
        pytest.raises(BetonError, match=r"its disk or network failed at byte 9,000 of its 1,004,000"),
        file.unchanged,
    ):
        os.truncate(path, 5000)
        assert file.bytes[9000:].sum() == 0
        path.write_bytes(CONTENT)
        os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    with pytest.raises(BetonError, match="is no longer readable"):  # zeros stay in the map
        file.check()


def test_an_error_that_the_change_caused_is_replaced_but_an_interruption_is_not(path: Path) -> None:
    file = MappedFile(path)
    with pytest.raises(ZeroDivisionError), file.unchanged:
        raise ZeroDivisionError
    with pytest.raises(BetonError, match="touched") as caught, file.unchanged:
        os.utime(path)
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    file = MappedFile(path)
    with pytest.raises(KeyboardInterrupt), file.unchanged:
        os.utime(path)
        raise KeyboardInterrupt


def test_a_disk_that_does_not_respond_is_an_error_that_names_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(descriptor: int) -> os.stat_result:
        raise OSError(116, "Stale file handle")

    file = MappedFile(path)
    with monkeypatch.context() as failing:
        failing.setattr(os, "fstat", stale)
        with pytest.raises(BetonError) as caught:
            file.check()
    assert str(caught.value).startswith(f"{path} is no longer accessible: Stale file handle")


def test_views_keep_a_closed_file_mapped_and_nothing_else_does(path: Path) -> None:
    def held() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text().count(str(path))
        descriptors = sum(
            os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in os.listdir("/proc/self/fd")
        )
        watched = range(sigbus.REGIONS + sigbus.END, sigbus.REGIONS + 3 * sigbus.MAX_REGIONS, 3)
        return maps, descriptors, sum(sigbus._words[word] != 0 for word in watched)

    gc.collect()
    before = held()
    for close in (True, False):
        file = MappedFile(path)
        part = file.bytes[100:].view("<u4")[::2]
        assert held() == (1, 2, before[2] + 1)  # a map keeps a descriptor of its own
        if close:
            file.close()
        del file
        assert held() == (1, 1, before[2] + 1)
        assert part[0] == int.from_bytes(CONTENT[100:104], "little")
        del part
        assert held() == before


def test_many_files_are_watched_at_a_time_and_one_beyond_the_maximum_is_still_read(path: Path) -> None:
    file = MappedFile(path)
    address = file.bytes.ctypes.data
    regions = [sigbus.watch(address, 1) for _ in range(sigbus.MAX_REGIONS)]
    try:
        one_more = MappedFile(path)
        with one_more.unchanged:
            assert np.array_equal(one_more.bytes, file.bytes)
        os.utime(path)
        with pytest.raises(BetonError):
            one_more.check()
    finally:
        for region in regions:
            region.forget()


def test_what_is_not_a_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for wrong, kind in ((tmp_path / "pipe", ValueError), (tmp_path, ValueError), (tmp_path / "no", OSError)):
        with pytest.raises(kind):
            Witness(wrong)
