"""Everything in a folder of classes is packed, counted, or an error that names it; nothing is skipped silently."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.packing.sources import listing
from alexnet_fast.packing.sources.image_folder import FolderError, ImageFolder, scan_folder
from betons import jpeg, picture
from folders import fill

Change = Callable[[Path], None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """DATA/train with the classes ant and bee, two images each."""
    return fill(tmp_path / "data" / "train", {"ant": 2, "bee": 2})


ORDINARY = ["ant/ant_0.JPEG", "ant/ant_1.JPEG", "bee/bee_0.JPEG", "bee/bee_1.JPEG"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("below", ["", "ant", "ant/sub"])
def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, below: str, number: int
) -> None:
    (root / "ant/sub").mkdir()
    scandir, refused = os.scandir, root / below

    def scan(path: Any) -> Any:
        if Path(path) == refused:
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", scan)
    with pytest.raises(FolderError) as caught:
        scan_folder(root)
    assert str(caught.value).startswith(f"cannot list {refused}: {os.strerror(number)}; check that you may")


def test_a_folder_whose_listing_fails_halfway_is_an_error_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    class Broken:
        def __init__(self, path: Any) -> None:
            self._found = scandir(path)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            yield from [next(self._found)]
            raise OSError(errno.EIO, "Input/output error")

        def __exit__(self, *_: object) -> None:
            self._found.close()

    monkeypatch.setattr(listing.os, "scandir", Broken)
    with pytest.raises(FolderError, match="cannot list .*train: Input/output error"):
        scan_folder(root)


def test_files_of_other_programs_next_to_images_are_no_images_or_classes_and_are_counted(root: Path) -> None:
    for name in (".git", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN"):
        for folder in (root / name, root / "ant" / name):
            folder.mkdir()
            (folder / "x.jpg").write_bytes(jpeg(picture(40, 30)))
    (root / "bee/._bee_0.JPEG").write_bytes(b"\0\5\x16\7")
    split = scan_folder(root)
    assert (split.classes, split.paths) == (["ant", "bee"], ORDINARY)
    assert split.ignored.counts == {"hidden": 5, "folder of another program": 8}
    assert {"@eaDir", "ant/.git", "bee/._bee_0.JPEG"} < set(split.ignored.paths)


def _to_itself(root: Path) -> None:
    (root / "ant/self").symlink_to(".", target_is_directory=True)


def _to_the_class_from_below(root: Path) -> None:
    (root / "ant/deep").mkdir()
    (root / "ant/deep/up").symlink_to("..", target_is_directory=True)


def _to_the_split(root: Path) -> None:
    (root / "ant/up").symlink_to("..", target_is_directory=True)


def _to_the_folder_of_splits(root: Path) -> None:
    fill(root.parent / "val", {"ant": 1})
    (root / "ant/up").symlink_to("../..", target_is_directory=True)


def _to_the_top(root: Path) -> None:
    (root / "ant/up").symlink_to("/", target_is_directory=True)


@pytest.mark.parametrize(
    "change",
    [_to_itself, _to_the_class_from_below, _to_the_split, _to_the_folder_of_splits, _to_the_top],
)
def test_a_link_that_leads_back_is_not_followed_and_is_counted(root: Path, change: Change) -> None:
    change(root)
    split = scan_folder(root)
    assert (split.paths, split.ignored.counts) == (ORDINARY, {"link that leads back": 1})


def test_links_to_classes_folders_and_files_elsewhere_are_followed(root: Path) -> None:
    fill(root.parent / "store", {"cat": 1, "more": 1})
    (root / "cat").symlink_to("../store/cat", target_is_directory=True)
    (root / "ant/more").symlink_to(root.parent / "store/more", target_is_directory=True)
    (root / "bee/one.jpg").symlink_to(root.parent / "store/more/more_0.JPEG")
    split = scan_folder(root)
    assert split.paths == [
        *ORDINARY[:2],
        "ant/more/more_0.JPEG",
        *ORDINARY[2:],
        "bee/one.jpg",
        "cat/cat_0.JPEG",
    ]
    assert split.labels == [0, 0, 0, 1, 1, 1, 2] and not split.ignored.counts
    assert split.in_several_classes == ["ant/more/more_0.JPEG", "bee/one.jpg"]


def test_a_folder_is_listed_once_under_its_own_name_however_many_links_lead_to_it(root: Path) -> None:
    fill(root / "ant", {"z": 1})
    fill(root.parent / "store", {"sub": 1})
    for name, target in (("a", "z"), ("b", "../../store"), ("c", "../../store/sub"), ("d", "../../store")):
        (root / "ant" / name).symlink_to(target, target_is_directory=True)
    split = scan_folder(root)
    assert split.paths == [
        "ant/ant_0.JPEG",
        "ant/ant_1.JPEG",
        "ant/b/sub/sub_0.JPEG",
        "ant/z/z_0.JPEG",
        *ORDINARY[2:],
    ]
    assert split.ignored.counts == {"folder listed before": 3}


def _another_class(root: Path) -> None:
    (root / "ant/more").symlink_to("../bee", target_is_directory=True)


def _a_folder_of_another_class(root: Path) -> None:
    (root / "bee/sub").mkdir()
    (root / "ant/more").symlink_to("../bee/sub", target_is_directory=True)


def _a_class_that_is_another(root: Path) -> None:
    (root / "wasp").symlink_to("bee", target_is_directory=True)


def _a_class_that_is_a_folder_of_another(root: Path) -> None:
    (root / "bee/sub").mkdir()
    (root / "wasp").symlink_to("bee/sub", target_is_directory=True)


def _a_store_of_both(root: Path) -> None:
    root.rename(root.with_name("store"))
    root.mkdir()
    for name in ("ant", "bee"):
        (root / name).symlink_to(f"../store/{name}", target_is_directory=True)
    (root / "all").symlink_to("../store", target_is_directory=True)


@pytest.mark.parametrize(
    "change",
    [
        _another_class,
        _a_folder_of_another_class,
        _a_class_that_is_another,
        _a_class_that_is_a_folder_of_another,
        _a_store_of_both,
    ],
)
def test_a_folder_in_two_classes_is_an_error_that_names_both(root: Path, change: Change) -> None:
    change(root)
    with pytest.raises(
        FolderError, match=r"train/\w+.* and .*train/\w+.* are one folder, in two classes; remove"
    ):
        scan_folder(root)


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_class_that_leads_back_is_an_error(root: Path, target: str) -> None:
    (root / "all").symlink_to(target, target_is_directory=True)
    with pytest.raises(FolderError, match="train/all is a link that leads back to /"):
        scan_folder(root)


@pytest.mark.parametrize("name", ["wasp", "ant/sub", "ant/deep/er"])
def test_a_broken_link_that_may_have_been_a_folder_is_an_error(root: Path, name: str) -> None:
    """As when a disk is not mounted: a class, or a part of one, would be missing."""
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to("/nowhere/at all")
    with pytest.raises(FolderError, match=f"train/{name} is a broken link; restore its target"):
        scan_folder(root)


def test_an_image_that_links_put_into_two_classes_is_reported_and_one_that_is_twice_in_its_own_is_not(
    root: Path,
) -> None:
    (root / "ant/also.jpg").symlink_to("../bee/bee_1.JPEG")
    (root / "bee/again.jpg").symlink_to("bee_0.JPEG")
    split = scan_folder(root)
    assert split.in_several_classes == ["ant/also.jpg", "bee/bee_1.JPEG"]
    assert len(split.paths) == 6 and not split.ignored.counts
    assert split.shuffled(1).limited(2).in_several_classes == split.in_several_classes


def test_what_has_the_name_of_an_image_and_is_no_file_is_reported_by_its_reader(root: Path) -> None:
    os.mkfifo(root / "ant/pipe.jpg")
    (root / "ant/gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(root / "ant/control")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "bee/socket"))
        split = scan_folder(root)
    assert split.paths == [*ORDINARY[:2], "ant/gone.jpg", "ant/pipe.jpg", *ORDINARY[2:]]
    assert split.ignored.counts == {"pipe": 1, "socket": 1}


def test_files_of_other_formats_are_counted_by_kind_and_named(root: Path) -> None:
    for name in ("ant/a.heic", "ant/b.HEIC", "ant/deep.txt", "bee/x.jpg.part", "bee/LICENSE", "list.txt"):
        (root / name).write_text("any text")
    (root / "stray.jpg").write_bytes(jpeg(picture(40, 30)))
    split = scan_folder(root)
    assert split.paths == ORDINARY
    assert split.ignored.counts == {
        ".heic": 2,
        ".txt": 1,
        ".part": 1,
        "no suffix": 1,
        ".txt next to the class folders": 1,
        ".jpg next to the class folders": 1,
    }
    assert "ant/b.HEIC" in split.ignored.paths and "stray.jpg" in split.ignored.paths


def test_a_file_without_a_suffix_is_an_image_if_it_starts_as_one(root: Path) -> None:
    (root / "ant/n01440764_10026").write_bytes(jpeg(picture(40, 30)))
    (root / "ant/Makefile").write_text("all:")
    (root / "ant/empty").touch()
    split = scan_folder(root)
    assert split.paths == [*ORDINARY[:2], "ant/n01440764_10026", *ORDINARY[2:]]
    assert split.ignored.counts == {"no suffix": 2}


def test_a_file_without_a_suffix_that_cannot_be_read_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "ant/n01440764_10026").touch()

    def refuse(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(listing, "open_regular", refuse)
    with pytest.raises(FolderError, match="cannot read .*n01440764_10026, which may be an image: Permission"):
        scan_folder(root)


def test_a_million_other_files_are_all_counted_and_some_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sidecar is read only up to a maximum size."""
    monkeypatch.setattr(listing, "MAX_LISTED", 5)
    monkeypatch.setattr(listing, "MAX_KINDS", 3)
    for k in range(9):
        (root / f"ant/scan.{k:04d}").touch()
    split = scan_folder(root)
    assert split.ignored.counts == {".0000": 1, ".0001": 1, ".0002": 1, "other": 6}
    assert split.ignored.paths == [f"ant/scan.{k:04d}" for k in range(5)]


def test_for_images_where_classes_are_expected_the_error_says_what_to_do(tmp_path: Path) -> None:
    """As in ImageNet's own archive of its validation images."""
    for k in range(3):
        (tmp_path / f"ILSVRC2012_val_{k}.JPEG").write_bytes(jpeg(picture(40, 30)))
    with pytest.raises(FolderError, match="but it contains 3 images itself: move each into .* valprep.sh"):
        scan_folder(tmp_path)


def test_of_thousands_of_empty_classes_the_first_is_named_and_the_others_counted(root: Path) -> None:
    for k in range(2000):
        (root / f"n{k:04d}").mkdir()
    with pytest.raises(
        FolderError, match=r"n0000 contains no image; .*, and 1,999 more classes contain none"
    ):
        scan_folder(root)


def test_a_path_that_is_a_file_or_too_long_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "train").touch()
    with pytest.raises(FolderError, match="train is not a folder; expected one folder per class"):
        scan_folder(tmp_path / "train")
    with pytest.raises(FolderError, match=r"x is not a folder \(File name too long\); expected"):
        scan_folder(tmp_path / ("x" * 300))


def test_a_name_of_any_bytes_is_listed(tmp_path: Path) -> None:
    names = [
        os.fsdecode(b"caf\xe9.jpg"),
        "a\nb.jpg",
        "\U0001f431.jpg",
        "\x1b[31m.jpg",
        "[bold].jpg",
        "n" * 251 + ".jpg",
    ]
    (tmp_path / "ant").mkdir()
    for name in names:
        (tmp_path / "ant" / name).write_bytes(jpeg(picture(40, 30)))
    split: ImageFolder = scan_folder(tmp_path)
    assert split.paths == sorted(f"ant/{name}" for name in names)
