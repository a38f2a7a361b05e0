"""A lock to wait for, and folders whose file names survive a power cut."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from alexnet_fast.common.files import hold_lock, open_locked, sync_folder


def test_a_taken_lock_is_reported_and_waited_for_even_if_its_holder_deletes_the_file(tmp_path: Path) -> None:
    path, reported = tmp_path / "a.lock", threading.Event()
    first = open_locked(path, pytest.fail)
    got: list[int] = []
    second = threading.Thread(target=lambda: got.append(open_locked(path, reported.set)))
    second.start()
    assert reported.wait(10) and not got
    path.unlink()
    os.close(first)
    second.join(10)
    assert os.path.samestat(os.fstat(got[0]), os.stat(path))
    os.close(got[0])


def test_a_caller_that_does_not_wait_for_a_lock_raises_and_leaks_no_descriptor(tmp_path: Path) -> None:
    first = open_locked(tmp_path / "a.lock", pytest.fail)
    before = set(os.listdir("/proc/self/fd"))

    def refuse() -> None:
        raise ValueError("taken")

    with pytest.raises(ValueError, match="taken"):
        open_locked(tmp_path / "a.lock", refuse)
    assert set(os.listdir("/proc/self/fd")) <= before
    os.close(first)


def test_a_held_lock_leaves_no_file_however_it_ends(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in the body"), hold_lock(tmp_path / "a.lock", pytest.fail):
        assert os.listdir(tmp_path) == ["a.lock"]
        raise ValueError("in the body")
    with hold_lock(tmp_path / "a.lock", pytest.fail):
        (tmp_path / "a.lock").unlink()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_its_file_system_cannot_sync_is_no_error_and_a_failing_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_folder(tmp_path)
    for number, raised in ((errno.EINVAL, False), (errno.EIO, True)):

        def fsync(_: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            if raised:
                with pytest.raises(OSError, match="Input/output error"):
                    sync_folder(tmp_path)
            else:
                sync_folder(tmp_path)
