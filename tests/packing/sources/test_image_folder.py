"""Which images of a folder are packed, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast.packing.sources.image_folder import FolderError, scan_folder
from betons import jpeg, picture
from folders import fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("images") / "train", {"cat": 9, "ant": 8, "bee": 7})


def test_classes_are_labels_in_sorted_order(folder: Path) -> None:
    split = scan_folder(folder)
    assert split.classes == ["ant", "bee", "cat"]
    assert split.paths[0] == "ant/ant_0.JPEG" and split.paths == sorted(split.paths)
    assert split.labels == [0] * 8 + [1] * 7 + [2] * 9


def test_a_shuffle_mixes_the_classes_and_depends_on_its_seed_alone(folder: Path) -> None:
    split = scan_folder(folder)
    once, again, other = split.shuffled(0), split.shuffled(0), split.shuffled(1)
    assert once == again != other
    assert sorted(zip(once.paths, once.labels)) == sorted(zip(split.paths, split.labels))
    assert len(set(once.labels[:8])) == 3


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
    with pytest.raises(FolderError, match=r"bee contains no image; expected files ending in .*\.jpeg"):
        scan_folder(tmp_path)


def test_a_class_that_the_training_split_lacks_is_refused_by_name(tmp_path: Path) -> None:
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
