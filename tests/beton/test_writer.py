"""An image folder -> a file: what is listed, what is written, and that it is written whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.encode import Encoding, UnreadableImage
from alexnet_fast.beton.reader import Beton
from alexnet_fast.beton.writer import FolderError, Split, scan_folder, write_beton
from alexnet_fast.errors import UserError
from betons import difference, jpeg, picture, pixels

SMALL = Encoding(max_resolution=64)


def fill(root: Path, classes: dict[str, int]) -> Path:
    """A folder of so many small JPEGs a class."""
    for k, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{name}_{i}.JPEG").write_bytes(jpeg(picture(90, 70, 10 * k + i)))
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("images") / "train", {"cat": 9, "ant": 8, "bee": 7})


def leftovers(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_classes_are_labels_in_sorted_order(folder: Path) -> None:
    split = scan_folder(folder)
    assert split.classes == ["ant", "bee", "cat"]
    assert split.paths[0] == "ant/ant_0.JPEG" and split.paths == sorted(split.paths)
    assert split.labels == [0] * 8 + [1] * 7 + [2] * 9


def test_the_file_holds_every_image_with_its_label_in_the_splits_order(folder: Path, tmp_path: Path) -> None:
    split = scan_folder(folder).shuffled(3)
    packed = write_beton(split, tmp_path / "a.beton", Encoding(), workers=1)
    with Beton(packed.path) as beton:
        assert packed.samples == len(beton) == 24
        assert beton.labels.tolist() == split.labels
        assert packed.payload_bytes == sum(beton.sizes)
        assert packed.file_bytes == packed.path.stat().st_size
        for i, path in enumerate(split.paths):
            assert difference(pixels(beton.payload(i).tobytes()), pixels((folder / path).read_bytes())) < 3


def test_the_sidecar_tells_classes_settings_counts_and_sources(folder: Path, tmp_path: Path) -> None:
    split = scan_folder(folder)
    write_beton(split, tmp_path / "a.beton", SMALL, workers=1, settings={"split": "train"})
    told = json.loads((tmp_path / "a.beton.json").read_text())
    assert told["packer"].startswith("alexnet_fast ")
    assert told["classes"] == ["ant", "bee", "cat"]
    assert told["settings"] == {
        "mode": "reencode", "max_resolution": 64, "min_side": 0, "quality": 90, "restart_mcus": Encoding.restart_mcus, "optimize": False,
        "split": "train"
    }  # fmt: skip
    assert told["counts"]["samples"] == 24
    assert told["counts"]["per_class"] == {"ant": 8, "bee": 7, "cat": 9}
    assert told["paths"] == split.paths and told["skipped"] == []
    assert Beton(tmp_path / "a.beton").sidecar == told


@pytest.mark.parametrize("workers", [2, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(folder: Path, tmp_path: Path, workers: int) -> None:
    split = scan_folder(folder).shuffled(0)
    for count in (1, workers):
        write_beton(split, tmp_path / f"{count}.beton", SMALL, workers=count)
    assert (tmp_path / "1.beton").read_bytes() == (tmp_path / f"{workers}.beton").read_bytes()
    assert (tmp_path / "1.beton.json").read_bytes() == (tmp_path / f"{workers}.beton.json").read_bytes()


def test_a_shuffle_mixes_the_classes_and_depends_on_its_seed_alone(folder: Path) -> None:
    split = scan_folder(folder)
    once, again, other = split.shuffled(0), split.shuffled(0), split.shuffled(1)
    assert once == again != other
    assert sorted(zip(once.paths, once.labels)) == sorted(zip(split.paths, split.labels))
    assert len(set(once.labels[:8])) == 3


def test_samples_never_cross_a_page(tmp_path: Path) -> None:
    """Fourteen raw images of 750 kB: eleven fill a page, and the twelfth begins the next."""
    (tmp_path / "images").mkdir()
    for k in range(14):
        picture(500, 500, k % 3).save(tmp_path / f"images/{k}.bmp")
    split = Split(tmp_path / "images", [f"{k}.bmp" for k in range(14)], [0] * 14, ["only"])
    write_beton(split, tmp_path / "a.beton", Encoding(mode="raw"), workers=1)
    with Beton(tmp_path / "a.beton") as beton:
        begin = beton.images["data_ptr"].astype(np.int64)
        end = begin + beton.sizes.astype(np.int64)
        assert (begin // beton.page_size == (end - 1) // beton.page_size).all()
        assert len(set((begin // beton.page_size).tolist())) == 2
        assert (
            begin[0] % beton.page_size == 0
            and (len(beton.map) - 14 * fmt.ALLOCATION.itemsize) % beton.page_size == 0
        )
        for k in range(14):
            assert beton.payload(k).tobytes() == picture(500, 500, k % 3).tobytes()


def test_pages_grow_for_an_image_that_is_larger_than_one(tmp_path: Path) -> None:
    """Samples of 0.75, 9, 0.75 ... 27 and 0.75 MB: the pages become 16 MiB, then 32, and no sample crosses an edge of those."""
    small, large, huge = picture(500, 500), picture(2000, 1500), picture(500, 375).resize((4000, 2250))
    images = [small, large, *[small] * 20, huge, small]
    for k, image in enumerate(images):
        image.save(tmp_path / f"{k}.bmp")
    split = Split(tmp_path, [f"{k}.bmp" for k in range(len(images))], [0] * len(images), ["only"])
    write_beton(split, tmp_path / "a.beton", Encoding(mode="raw", max_resolution=0), workers=1)
    with Beton(tmp_path / "a.beton") as beton:
        assert beton.page_size == 1 << 25
        begin = beton.images["data_ptr"].astype(np.int64)
        end = begin + beton.sizes.astype(np.int64)
        assert (begin // beton.page_size == (end - 1) // beton.page_size).all() and (
            end[:-1] <= begin[1:]
        ).all()
        assert (len(beton.map) - len(images) * fmt.ALLOCATION.itemsize) % beton.page_size == 0
        for k, image in enumerate(images):
            assert beton.payload(k).tobytes() == image.tobytes(), k


def test_an_image_larger_than_the_largest_page_is_refused_with_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fmt, "MAX_PAGE_SIZE", fmt.DEFAULT_PAGE_SIZE)
    picture(2000, 1500).save(tmp_path / "large.bmp")
    split = Split(tmp_path, ["large.bmp"], [0], ["only"])
    with pytest.raises(
        UserError,
        match=r"2000 x 1500 pixels takes 9000000 bytes, more than the largest page .*; lower --max-resolution",
    ):
        write_beton(split, tmp_path / "out/a.beton", Encoding(mode="raw", max_resolution=0), workers=1)
    assert leftovers(tmp_path / "out") == []


@pytest.fixture
def broken(tmp_path: Path) -> Split:
    """A split of which two images of five cannot be read."""
    root = fill(tmp_path / "images", {"ant": 3})
    (root / "ant/ant_1a.JPEG").write_bytes(b"no image")
    (root / "ant/ant_2a.JPEG").write_bytes(jpeg(picture(90, 70))[:1500])
    return scan_folder(root)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_ends_the_packing_and_leaves_nothing(
    broken: Split, tmp_path: Path, workers: int
) -> None:
    with pytest.raises(UnreadableImage, match=r"ant_1a\.JPEG"):
        write_beton(broken, tmp_path / "out/a.beton", SMALL, workers=workers)
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_images_are_skipped_and_listed_when_asked(
    broken: Split, tmp_path: Path, workers: int
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
    assert leftovers(tmp_path / "out") == []


def test_what_was_converted_is_listed_and_counted_by_kind(tmp_path: Path) -> None:
    (tmp_path / "images/a").mkdir(parents=True)
    for k, mode in enumerate(("L", "L", "CMYK", "RGB")):
        picture(40, 30).convert(mode).save(tmp_path / f"images/a/{k}.jpg")
    picture(40, 30).save(tmp_path / "images/a/5.JPEG", format="PNG")
    packed = write_beton(scan_folder(tmp_path / "images"), tmp_path / "a.beton", SMALL, workers=1)
    assert packed.converted == {
        "a/0.jpg": "L JPEG", "a/1.jpg": "L JPEG", "a/2.jpg": "CMYK JPEG", "a/5.JPEG": "PNG named .JPEG"
    }  # fmt: skip
    told = json.loads((tmp_path / "a.beton.json").read_text())
    assert told["counts"]["converted"] == {"L JPEG": 2, "CMYK JPEG": 1, "PNG named .JPEG": 1}
    assert told["converted"] == packed.converted


def test_progress_counts_every_image(folder: Path, tmp_path: Path) -> None:
    told: list[int] = []
    write_beton(scan_folder(folder), tmp_path / "a.beton", SMALL, workers=2, progress=told.append)
    assert told == list(range(1, 25))


class Stop(BaseException):
    """What Ctrl-C raises, without the signal."""


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_packing_leaves_no_file(folder: Path, tmp_path: Path, workers: int) -> None:
    def progress(done: int) -> None:
        if done == 10:
            raise Stop

    with pytest.raises(Stop):
        write_beton(scan_folder(folder), tmp_path / "out/a.beton", SMALL, workers=workers, progress=progress)
    assert leftovers(tmp_path / "out") == []


def test_until_it_is_whole_the_file_has_another_name_and_no_header(folder: Path, tmp_path: Path) -> None:
    seen = []

    def progress(done: int) -> None:
        if done == 24:
            seen.extend(
                (name, (tmp_path / "out" / name).read_bytes()[:24]) for name in os.listdir(tmp_path / "out")
            )

    write_beton(scan_folder(folder), tmp_path / "out/a.beton", Encoding(), workers=1, progress=progress)
    assert [name for name, _ in seen] == ["a.beton.partial"]
    assert not any(any(head) for _, head in seen)
    assert leftovers(tmp_path / "out") == ["a.beton", "a.beton.json"]


def test_a_failed_packing_leaves_the_file_of_an_earlier_one(
    folder: Path, broken: Split, tmp_path: Path
) -> None:
    write_beton(scan_folder(folder), tmp_path / "a.beton", SMALL, workers=1)
    before = (tmp_path / "a.beton").read_bytes()
    with pytest.raises(UnreadableImage):
        write_beton(broken, tmp_path / "a.beton", SMALL, workers=1)
    assert (tmp_path / "a.beton").read_bytes() == before


def test_a_worker_that_dies_is_an_error_and_not_a_wait_for_ever(folder: Path, tmp_path: Path) -> None:
    def kill_one(done: int) -> None:
        if done == 1:
            threading.Thread(
                target=lambda: os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            ).start()
            time.sleep(0.2)

    split = scan_folder(folder)
    many = Split(split.root, split.paths * 20, split.labels * 20, split.classes)
    with pytest.raises(
        UserError, match="a packing worker died while packing .*; free memory or use fewer --workers"
    ):
        write_beton(many, tmp_path / "out/a.beton", SMALL, workers=2, progress=kill_one)
    assert leftovers(tmp_path / "out") == []


def test_a_place_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write .*file/a.beton: .*; choose another --out or make room"):
        write_beton(scan_folder(folder), tmp_path / "file/a.beton", SMALL, workers=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_as_one(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.beton.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*a\.beton: .*; choose another --out or make room"):
        write_beton(scan_folder(folder), tmp_path / "a.beton", Encoding(mode="raw"), workers=1)
    assert not (tmp_path / "a.beton").exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="none is not a folder; expected one folder per class"):
        scan_folder(tmp_path / "none")


def test_a_folder_of_images_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.JPEG").write_bytes(jpeg(picture(40, 30)))
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(FolderError, match="has no class folders; expected .*/<class>/<image>"):
        scan_folder(tmp_path)


def test_a_class_without_images_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    fill(tmp_path, {"ant": 1})
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee/readme.txt").write_text("none yet")
    (tmp_path / "bee/.hidden.JPEG").write_bytes(b"")
    with pytest.raises(FolderError, match=r"bee holds no image; expected files ending in .*\.jpeg"):
        scan_folder(tmp_path)


def test_a_class_that_training_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path, {"ant": 1, "wasp": 1})
    with pytest.raises(FolderError, match="'wasp', which the training split does not have"):
        scan_folder(tmp_path, ["ant", "bee"])


def test_a_validation_split_of_fewer_classes_keeps_the_training_labels(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 1, "bee": 2})
    assert scan_folder(tmp_path, ["ant", "bee", "cat"]).labels == [1, 1, 2]


def test_images_in_folders_below_a_class_and_of_any_case_are_listed(tmp_path: Path) -> None:
    (tmp_path / "ant/deep/er").mkdir(parents=True)
    for name in ("ant/a.PNG", "ant/deep/b.Jpg", "ant/deep/er/c.webp"):
        picture(40, 30).save(tmp_path / name)
    assert scan_folder(tmp_path).paths == ["ant/a.PNG", "ant/deep/b.Jpg", "ant/deep/er/c.webp"]
