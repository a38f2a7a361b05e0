"""Whether checkpoints fit on the disk of a run's folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_fast.common.disk_space import room_for_checkpoints

KIB = 1 << 10


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk of blocks of 1 KiB, 16 of them free for us."""
    found = SimpleNamespace(f_frsize=KIB, f_bavail=16, f_bfree=99)
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    return found


@pytest.mark.usefixtures("disk")
def test_two_float32_a_parameter_are_wanted_for_each_file(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "not there yet"
    assert room_for_checkpoints(folder, 2, KIB) == (f"{folder}: 16 KiB free", "")
    assert room_for_checkpoints(folder, 3, KIB) == (
        f"{folder}: 16 KiB free, checkpoints take 24 KiB more",
        "--set run.out=FOLDER, on a larger disk",
    )


@pytest.mark.usefixtures("disk")
def test_checkpoints_that_a_resume_replaces_count_as_room_once_each(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_last.pt").write_bytes(bytes(8 * KIB))
    assert room_for_checkpoints(tmp_path, 3, KIB).remedy == ""
    os.link(tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_best.pt")
    assert "checkpoints take 24 KiB more" in room_for_checkpoints(tmp_path, 4, KIB).found


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found, remedy = room_for_checkpoints(tmp_path / "file" / "run", 0, 0)
    assert found.endswith(f"{tmp_path / 'file'} cannot be written") and "run.out=FOLDER" in remedy
