"""Promise 7, for files: nothing half-written is ever taken for whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_fast import Beton
from alexnet_fast.beton.encode import Encoding
from alexnet_fast.beton.reader import BetonError
from alexnet_fast.beton.writer import Split, write_beton
from betons import Entry, picture, write
from components import ROOT


class Stop(BaseException):
    pass


def test_a_packing_that_stops_anywhere_leaves_no_beton(tmp_path: Path) -> None:
    for k in range(20):
        picture(60, 40, k).save(tmp_path / f"{k}.png")
    split = Split(tmp_path, [f"{k}.png" for k in range(20)], [0] * 20, ["only"])

    for last in (1, 10, 20):

        def progress(done: int, last: int = last) -> None:
            if done == last:
                raise Stop

        with pytest.raises(Stop):
            write_beton(split, tmp_path / "out/a.beton", Encoding(), workers=1, progress=progress)
        assert os.listdir(tmp_path / "out") == []


def test_a_packer_that_is_killed_leaves_no_beton_and_its_rest_is_refused(tmp_path: Path) -> None:
    """SIGKILL leaves the partial file behind, under its own name; even renamed it is not taken for whole."""
    (tmp_path / "data/train/ant").mkdir(parents=True)
    for k in range(3):
        picture(1200, 900, k).save(tmp_path / f"data/train/ant/{k}.bmp")
    for k in range(3, 300):
        (tmp_path / f"data/train/ant/{k}.bmp").symlink_to(tmp_path / f"data/train/ant/{k % 3}.bmp")
    command = [
        sys.executable,
        ROOT / "tools/write_beton.py",
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "out",
    ]
    options = ["--workers", "1", "--max-resolution", "0"]
    packer = subprocess.Popen(
        [*map(str, command), *options], env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    partial, patience = tmp_path / "out/train.beton.partial", time.monotonic() + 60
    while (
        not (partial.exists() and partial.stat().st_size > 9 << 20)
        and packer.poll() is None
        and time.monotonic() < patience
    ):
        time.sleep(0.02)
    packer.send_signal(signal.SIGKILL)
    packer.wait()
    assert os.listdir(tmp_path / "out") == ["train.beton.partial"]
    with pytest.raises(BetonError):
        Beton(partial.rename(tmp_path / "out/train.beton"))


def test_a_copy_that_stopped_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.beton", [Entry.raw(picture(60, 40, k)) for k in range(5)]).read_bytes()
    for length in [
        0,
        1,
        23,
        24,
        2105,
        2106,
        2200,
        1 << 21,
        (1 << 21) + 40_000,
        (1 << 22) - 1,
        1 << 22,
        len(whole) - 24,
        len(whole) - 1,
    ]:
        (tmp_path / "copy.beton").write_bytes(whole[:length])
        with pytest.raises(BetonError, match=r"copy\.beton"):
            Beton(tmp_path / "copy.beton")
