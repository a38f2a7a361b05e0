"""What a packing says it will take of the disk is what it takes, within a tenth; a disk that is too small is named before it begins."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.forecast import forecast
from alexnet_fast.packing.partial_file import partial_path
from alexnet_fast.packing.sources.image_folder import scan_folder
from alexnet_fast.packing.writer import write_beton


@pytest.mark.parametrize("encoding", [Encoding(), Encoding(mode="raw", max_resolution=64)])
def test_the_forecast_is_what_the_packing_takes(
    tiny_imagenet: Path, tmp_path: Path, encoding: Encoding
) -> None:
    split = scan_folder(tiny_imagenet / "train").shuffled(0).limited(400)
    takes = forecast(split, tmp_path / "new/a.beton", encoding)
    assert takes and takes.images == 400
    packed = write_beton(split, tmp_path / "new/a.beton", encoding, workers=1)
    assert takes.needed == pytest.approx(packed.file_bytes, rel=0.1)
    assert f"{tmp_path}/new/a.beton will take about 16.0 MiB of the disk for 400 images; " in str(takes)


def test_what_an_interrupted_packing_has_written_is_not_needed_again(
    tiny_imagenet: Path, tmp_path: Path
) -> None:
    split, path = scan_folder(tiny_imagenet / "val").limited(20), tmp_path / "a.beton"
    whole = forecast(split, path, Encoding())
    partial_path(path).write_bytes(b"x" * (1 << 20))
    rest = forecast(split, path, Encoding())
    assert whole and rest and whole.needed - rest.needed == os.stat(partial_path(path)).st_blocks * 512


def test_a_disk_that_is_too_small_is_a_warning(
    tiny_imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = scan_folder(tiny_imagenet / "val").limited(20)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=20 << 8, f_frsize=4096))
    assert str(forecast(split, tmp_path / "a.beton", Encoding())).startswith(str(tmp_path))
    both = str(forecast(split, tmp_path / "a.beton", Encoding(), before=10 << 20))
    assert both.startswith("warning: ") and "20 MiB are free: make room, or it stops" in both


def test_without_a_readable_image_there_is_no_forecast(tmp_path: Path) -> None:
    (tmp_path / "train/ant").mkdir(parents=True)
    (tmp_path / "train/ant/a.JPEG").write_bytes(b"no image")
    assert forecast(scan_folder(tmp_path / "train"), tmp_path / "a.beton", Encoding()) is None
