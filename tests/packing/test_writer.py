"""An image folder -> a file: what is written, and that it is written completely or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from alexnet_fast.beton.reader import Beton
from alexnet_fast.common.untrusted import open_regular
from alexnet_fast.errors import UserError
from alexnet_fast.packing import sources
from alexnet_fast.packing.encode import Encoding, UnreadableImage
from alexnet_fast.packing.errors import InputUnreadable
from alexnet_fast.packing.writer import ImageFolder, scan_folder, write_beton
from betons import difference, jpeg, picture, pixels
from folders import fill, listed

SMALL = Encoding(max_resolution=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("images") / "train", {"cat": 9, "ant": 8, "bee": 7})


def test_the_file_holds_every_image_with_its_label_in_the_splits_order(folder: Path, tmp_path: Path) -> None:
    split = scan_folder(folder).shuffled(3)
    packed = write_beton(split, tmp_path / "a.beton", Encoding(), workers=1)
    with Beton(packed.path) as beton:
        assert packed.samples == len(beton) == 24 and packed.resumed == 0
        assert beton.labels.tolist() == split.labels
        assert packed.payload_bytes == sum(beton.sizes)
        assert packed.file_bytes == packed.path.stat().st_size
        for i, path in enumerate(split.paths):
            assert difference(pixels(beton.payload(i).tobytes()), pixels((folder / path).read_bytes())) < 3


def test_the_sidecar_lists_classes_settings_counts_and_sources(folder: Path, tmp_path: Path) -> None:
    split = scan_folder(folder)
    write_beton(split, tmp_path / "a.beton", SMALL, workers=1, settings={"split": "train"})
    sidecar = json.loads((tmp_path / "a.beton.json").read_text())
    assert sidecar["packer"].startswith("alexnet_fast ")
    assert sidecar["classes"] == ["ant", "bee", "cat"]
    assert sidecar["settings"] == {
        "mode": "reencode", "max_resolution": 64, "min_side": 0, "quality": 90, "restart_mcus": Encoding.restart_mcus, "optimize": False,
        "split": "train"
    }  # fmt: skip
    assert sidecar["counts"]["samples"] == 24
    assert sidecar["counts"]["per_class"] == {"ant": 8, "bee": 7, "cat": 9}
    assert sidecar["paths"] == split.paths and sidecar["skipped"] == []
    assert Beton(tmp_path / "a.beton").sidecar == sidecar


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path, workers: int) -> None:
    split = scan_folder(folder).shuffled(0)
    for count in (1, workers):
        write_beton(split, tmp_path / f"{count}.beton", SMALL, workers=count)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / f"{workers}.beton").read_bytes()
    assert (tmp_path / "1.beton.json").read_bytes() == (tmp_path / f"{workers}.beton.json").read_bytes()


@pytest.fixture
def broken(tmp_path: Path) -> ImageFolder:
    """A split of which two images of five cannot be read."""
    root = fill(tmp_path / "images", {"ant": 3})
    (root / "ant/ant_1a.JPEG").write_bytes(b"no image")
    (root / "ant/ant_2a.JPEG").write_bytes(jpeg(picture(90, 70))[:1500])
    return scan_folder(root)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_ends_the_packing_and_what_was_packed_is_kept(
    broken: ImageFolder, tmp_path: Path, workers: int
) -> None:
    with pytest.raises(UnreadableImage, match=r"ant_1a\.JPEG"):
        write_beton(broken, tmp_path / "out/a.beton", SMALL, workers=workers)
    assert listed(tmp_path / "out") == ["a.beton.journal", "a.beton.partial"]


def test_where_the_first_image_is_unreadable_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "images/ant").mkdir(parents=True)
    (tmp_path / "images/ant/a.JPEG").write_bytes(b"no image")
    with pytest.raises(UnreadableImage):
        write_beton(scan_folder(tmp_path / "images"), tmp_path / "out/a.beton", SMALL, workers=1)
    assert listed(tmp_path / "out") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_are_skipped_and_listed_when_asked(
    broken: ImageFolder, tmp_path: Path, workers: int
) -> None:
    packed = write_beton(broken, tmp_path / "a.beton", SMALL, workers=workers, on_error="skip")
    assert packed.samples == 3 and packed.skipped == ["ant/ant_1a.JPEG", "ant/ant_2a.JPEG"]
    with Beton(tmp_path / "a.beton") as beton:
        assert len(beton) == 3
        assert beton.sidecar is not None and beton.sidecar["skipped"] == packed.skipped
        assert beton.sidecar["paths"] == ["ant/ant_0.JPEG", "ant/ant_1.JPEG", "ant/ant_2.JPEG"]
        assert beton.sidecar["counts"] == {
            "samples": 3, "payload_bytes": packed.payload_bytes, "per_class": {"ant": 3}, "converted": {}
        }  # fmt: skip


def test_where_no_image_is_readable_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "images/ant").mkdir(parents=True)
    (tmp_path / "images/ant/a.JPEG").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 1 images below .* could be read"):
        write_beton(
            scan_folder(tmp_path / "images"), tmp_path / "out/a.beton", SMALL, workers=1, on_error="skip"
        )
    assert listed(tmp_path / "out") == []


def test_what_was_converted_is_listed_and_counted_by_kind(tmp_path: Path) -> None:
    (tmp_path / "images/a").mkdir(parents=True)
    for k, mode in enumerate(("L", "L", "CMYK", "RGB")):
        picture(40, 30).convert(mode).save(tmp_path / f"images/a/{k}.jpg")
    picture(40, 30).save(tmp_path / "images/a/5.JPEG", format="PNG")
    packed = write_beton(scan_folder(tmp_path / "images"), tmp_path / "a.beton", SMALL, workers=1)
    assert packed.converted == {
        "a/0.jpg": "L JPEG", "a/1.jpg": "L JPEG", "a/2.jpg": "CMYK JPEG", "a/5.JPEG": "PNG named .JPEG"
    }  # fmt: skip
    sidecar = json.loads((tmp_path / "a.beton.json").read_text())
    assert sidecar["counts"]["converted"] == {"L JPEG": 2, "CMYK JPEG": 1, "PNG named .JPEG": 1}
    assert sidecar["converted"] == packed.converted


def test_progress_counts_every_image(folder: Path, tmp_path: Path) -> None:
    reported: list[int] = []
    write_beton(scan_folder(folder), tmp_path / "a.beton", SMALL, workers=2, progress=reported.append)
    assert reported == list(range(1, 25))


def test_until_it_is_complete_the_file_has_another_name_and_no_header(folder: Path, tmp_path: Path) -> None:
    seen = []

    def progress(done: int) -> None:
        if done == 24:
            seen.extend(
                (name, (tmp_path / "out" / name).read_bytes()[:24]) for name in os.listdir(tmp_path / "out")
            )

    write_beton(scan_folder(folder), tmp_path / "out/a.beton", Encoding(), workers=1, progress=progress)
    heads = dict(seen)
    assert sorted(heads) == ["a.beton.journal", "a.beton.partial"]
    assert not any(heads["a.beton.partial"])
    assert listed(tmp_path / "out") == ["a.beton", "a.beton.json"]


def test_a_failed_packing_leaves_the_file_of_an_earlier_one(
    folder: Path, broken: ImageFolder, tmp_path: Path
) -> None:
    write_beton(scan_folder(folder), tmp_path / "a.beton", SMALL, workers=1)
    before = (tmp_path / "a.beton").read_bytes()
    with pytest.raises(UnreadableImage):
        write_beton(broken, tmp_path / "a.beton", SMALL, workers=1, fresh=True)
    assert (tmp_path / "a.beton").read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write .*file/a.beton: .*; choose another --out or make room"):
        write_beton(scan_folder(folder), tmp_path / "file/a.beton", SMALL, workers=1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_an_image_whose_disk_fails_ends_the_packing_and_is_not_skipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    split, why = scan_folder(folder), os.strerror(number)
    refused = folder / split.paths[9]

    def opened(path: Path) -> BinaryIO:
        if path == refused:
            raise OSError(number, why, str(path))
        return open_regular(path)

    with monkeypatch.context() as patch, pytest.raises(InputUnreadable) as caught:
        patch.setattr(sources, "open_regular", opened)
        write_beton(split, tmp_path / "a.beton", SMALL, workers=1, on_error="skip")
    assert str(caught.value) == (
        f"cannot read the image {refused}: {why}; 9 of 24 images of {tmp_path}/a.beton are packed, and the same command "
        "resumes there; fix that first"
    )
    packed = write_beton(split, tmp_path / "a.beton", SMALL, workers=1, on_error="skip")
    assert (packed.resumed, packed.samples, packed.skipped) == (9, 24, [])
