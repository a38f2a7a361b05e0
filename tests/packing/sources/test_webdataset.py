"""webdataset's shards are found by folders and patterns; what is cut off, has no label or is not clear is refused by its name."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.sources import Choices, kind_of_folder
from alexnet_fast.packing.sources.listing import FolderError
from alexnet_fast.packing.sources.shards import Shards, expanded, split_named
from alexnet_fast.packing.sources.webdataset import WebDataset
from betons import jpeg, picture
from imagenet_tars import tar_of

IMAGE = jpeg(picture(60, 40))


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(lambda: main([*map(str, arguments), "--workers", "1"]))
    return code, out.getvalue(), err.getvalue()


def shard(path: Path, *labels: object, start: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for k, label in enumerate(labels, start):
        files += [(f"{k:04d}.jpg", jpeg(picture(60, 40, k))), (f"{k:04d}.cls", str(label).encode())]
    path.write_bytes(tar_of(files))
    return path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{0..2}.tar", ["a-0.tar", "a-1.tar", "a-2.tar"]),
        ("a-{008..010}.tar", ["a-008.tar", "a-009.tar", "a-010.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{x,y}-{1..0}.tar", ["x-1.tar", "x-0.tar", "y-1.tar", "y-0.tar"]),
        ("{a,b}", ["a", "b"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern: str, names: list[str]) -> None:
    assert list(expanded(pattern)) == names


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("imagenet1k-train-0000.tar", "train"),
        ("data/validation-00000-of-00014.parquet", "val"),
        ("imagenet-train/val_3.tar", "val"),
        ("test/0001.tar", "test"),
        ("trainval-1.tar", ""),
        ("00000.tar", ""),
    ],
)
def test_names_say_of_which_split_a_file_is(path: str, split: str) -> None:
    assert split_named(path) == split


def test_shards_are_found_in_folders_files_and_patterns(tmp_path: Path) -> None:
    for name in (
        "train/b-1.tar",
        "train/b-0.tar",
        "val/b-0.tar",
        "test/b-0.tar",
        ".cache/x.tar",
        "notes.txt",
    ):
        shard(tmp_path / name, 0)
    found = Shards(tmp_path, (".tar",), "shards")
    names = {
        split: [str(file.relative_to(tmp_path)) for file in files] for split, files in found.splits.items()
    }
    assert names == {
        "test": ["test/b-0.tar"],
        "train": ["train/b-0.tar", "train/b-1.tar"],
        "val": ["val/b-0.tar"],
    }
    assert found.wanted() == ["train", "val"]
    with pytest.raises(FolderError, match="has no split 'dev'; expected test or train or val"):
        found.files("dev")
    for pattern in ("train/b-{0..1}.tar", "train/*.tar", "train"):
        assert Shards(tmp_path / pattern, (".tar",), "shards").splits == {"train": found.files("train")}
    assert Shards(tmp_path / "train/b-0.tar", (".tar",), "shards").splits == {
        "train": [tmp_path / "train/b-0.tar"]
    }
    with pytest.raises(FolderError, match=r"train/b-2\.tar, which .*b-\{0\.\.2\}\.tar names, is not a file"):
        Shards(tmp_path / "train/b-{0..2}.tar", (".tar",), "shards")
    with pytest.raises(
        FolderError, match=r"c\*\.tar is not a file; expected shards, a folder of them, or a pattern"
    ):
        Shards(tmp_path / "c*.tar", (".tar",), "shards")
    shard(tmp_path / "more-0.tar", 0)
    with pytest.raises(
        FolderError, match=r"name of .*/more-0\.tar does not say of which split it is, as that of"
    ):
        Shards(tmp_path, (".tar",), "shards")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match=r"empty contains no shards; expected files ending in \.tar"):
        Shards(tmp_path / "empty", (".tar",), "shards")


def test_a_set_without_names_of_splits_is_called_as_its_folder_or_pattern(tmp_path: Path) -> None:
    shard(tmp_path / "pets/00000.tar", 0, 1)
    shard(tmp_path / "flowers/petals-0.tar", 1, 0)
    shard(tmp_path / "all/train/00000.tar", 1, 0)
    assert run("--data", tmp_path / "pets", "--out", tmp_path)[0] == 0
    assert run("--webdataset", tmp_path / "flowers/petals-{0..0}.tar", "--out", tmp_path)[0] == 0
    assert run("--webdataset", tmp_path / "all/train", "--out", tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.glob("*.beton")) == [
        "petals.beton",
        "pets.beton",
        "train.beton",
    ]


def test_a_folder_of_shards_is_recognised_and_other_tars_are_not(tmp_path: Path) -> None:
    shard(tmp_path / "shards/train-0.tar", 0)
    assert kind_of_folder(tmp_path / "shards") == "webdataset"
    (tmp_path / "others").mkdir()
    (tmp_path / "others/backup.tar").write_bytes(tar_of([("a.txt", b"x")]))
    assert kind_of_folder(tmp_path / "others") == "folder"
    (tmp_path / "others/backup.tar").write_bytes(b"no tar")
    assert kind_of_folder(tmp_path / "others") == kind_of_folder(tmp_path / "none") == "folder"


def test_files_next_to_folders_of_classes_do_not_make_them_another_source(tmp_path: Path) -> None:
    (tmp_path / "train/ant").mkdir(parents=True)
    shard(tmp_path / "more.tar", 0)
    (tmp_path / "facts.parquet").write_bytes(b"")
    assert kind_of_folder(tmp_path) == "folder"
    (tmp_path / "train/ant").rmdir()
    assert kind_of_folder(tmp_path) == "webdataset"
    (tmp_path / "more.tar").rename(tmp_path / "train/0.tar")
    (tmp_path / "facts.parquet").unlink()
    assert kind_of_folder(tmp_path) == "webdataset"


def test_labels_are_numbers_names_or_floats(tmp_path: Path) -> None:
    for k, (labels, numbers, classes) in enumerate(
        [
            ((2, 0), [2, 0], ["0", "1", "2"]),
            (("cat", "ant"), [1, 0], ["ant", "cat"]),
            ((0.5, 2), [0.5, 2.0], []),
        ]
    ):
        found = WebDataset(shard(tmp_path / f"{k}/train.tar", *labels)).open("train")
        assert (found.labels, found.classes) == (numbers, classes)
        assert [found.reader.label(key) for key in found.keys] == [
            str(float(label)) if not classes else str(label) for label in labels
        ]
    numbers_as_floats = WebDataset(tmp_path / "0/train.tar", Choices("float")).open("train")
    assert numbers_as_floats.labels == [2.0, 0.0] and numbers_as_floats.classes == []


def test_a_flag_that_names_the_images_goes_without_another_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shard(tmp_path / "train-0.tar", 0, 1)
    for flags in (("--data", tmp_path, "--out", tmp_path), ("--verify", tmp_path, "--source", tmp_path)):
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, flags), "--webdataset", str(path)])
        assert stopped.value.code == 2
        assert "--webdataset names the images itself: give it without --" in capsys.readouterr().err


def test_it_is_said_how_labels_are_numbered_and_which_splits_are_not_packed(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", "ant", "bee")
    shard(tmp_path / "test-0.tar", "none")
    code, out, err = run("--data", tmp_path, "--out", tmp_path / "out")
    assert code == 0 and "not packed: the split test; --split test packs it" in out, err
    assert "  labels are numbered by the labels' names, sorted" in out
    assert (
        json.loads((tmp_path / "out/train.beton.json").read_text())["settings"]["classes_from"]
        == "the labels' names, sorted"
    )
    assert (
        WebDataset(shard(tmp_path / "n/train.tar", 3)).described("train")["classes_from"]
        == "the labels' own numbers"
    )


def test_a_validation_split_is_numbered_as_the_training_split(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", "ant", "bee", "cat")
    shard(tmp_path / "val-0.tar", "cat", "bee")
    assert run("--data", tmp_path, "--out", tmp_path / "out")[0] == 0
    assert WebDataset(tmp_path).open("val", ["ant", "bee", "cat"]).labels == [2, 1]
    code, out, err = run("--verify", tmp_path / "out/val.beton", "--webdataset", tmp_path)
    assert code == 0 and "2 samples, no fault" in out, err
    shard(tmp_path / "val-0.tar", "dog")
    code, _, err = run("--data", tmp_path, "--out", tmp_path / "out", "--fresh")
    assert code == 2 and "has the class 'dog', which the training split does not have" in err


def test_columns_name_the_parts_of_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    about = json.dumps({"label": 1, "class": "x", "kind": "bee"}).encode()
    path.write_bytes(
        tar_of([("a.left.jpg", IMAGE), ("a.right.jpg", IMAGE), ("a.json", about), ("a.txt", b"3")])
    )
    with pytest.raises(
        FolderError, match=r"several columns that may be the labels; its columns are image, label, class"
    ):
        WebDataset(path).open("train")
    found = WebDataset(path, Choices(columns=("right.jpg", "json.kind"))).open("train")
    assert found.keys == ["train.tar/a.right.jpg"] and found.classes == ["bee"]
    assert found.ignored.counts == {".left.jpg": 1, ".txt": 1}
    assert WebDataset(path, Choices(columns=("left.jpg", "txt"))).open("train").labels == [3]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("a.jpg", IMAGE)], "the image 'a.jpg' has no label; expected samples as 0001.jpg with 0001.cls"),
        ([("a.jpg", IMAGE), ("a.cls", b" \n")], "the image 'a.jpg' has no label"),
        ([("a.jpg", IMAGE), ("a.json", b"{}")], "the image 'a.jpg' has no label"),
        ([("a.jpg", IMAGE), ("a.json", b"{")], "a.json: "),
        (
            [("a.jpg", IMAGE), ("a.json", b'{"label": [1, 2]}')],
            "a.json: its label is [1, 2]; expected a number or a name",
        ),
        ([("a.jpg", IMAGE), ("a.cls", b"\xff")], "cannot read "),
        ([("a.jpg", IMAGE), ("a.cls", b"x" * (2 << 20))], "a.cls has 2,097,152 bytes, too many for a label"),
        (
            [("a.jpg", IMAGE), ("a.png", IMAGE), ("a.cls", b"1")],
            "the sample 'a' has several images (a.jpg and a.png): name one",
        ),
        ([("a.cls", b"1")], "the other shards hold no image; expected samples"),
        ([("\x1b.jpg", IMAGE)], "the image '\\x1b.jpg' has no label"),
    ],
)
def test_a_sample_that_is_not_clear_is_refused_by_its_name(
    tmp_path: Path, files: list[tuple[str, bytes]], expected: str
) -> None:
    path = tmp_path / "train.tar"
    path.write_bytes(tar_of(files))
    with pytest.raises(UserError) as caught:
        WebDataset(path).open("train")
    assert (
        expected in str(caught.value) and "train.tar" in str(caught.value) and str(caught.value).isprintable()
    )


def test_what_is_no_sample_is_ignored_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "train.tar"
    files = [
        ("a.jpg", IMAGE),
        ("a.cls", b"1"),
        ("a.txt", b"caption"),
        ("b.cls", b"2"),
        ("._c.jpg", b"x"),
        ("../d.jpg", IMAGE),
    ]
    path.write_bytes(tar_of(files))
    found = WebDataset(path).open("train")
    assert found.keys == ["train.tar/a.jpg"]
    assert found.ignored.counts == {
        ".txt": 1,
        "sample without an image": 1,
        "hidden": 1,
        "path out of the tar": 1,
    }


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_is_cut_off_is_named_with_its_last_item(tmp_path: Path, suffix: str) -> None:
    shard(tmp_path / "train-0.tar", 0, 1)
    content = shard(tmp_path / "train-1.tar", 2, 3, start=2).read_bytes()
    (tmp_path / "train-1.tar").unlink()
    path = tmp_path / f"train-1{suffix}"
    content = gzip.compress(content) if suffix == ".tar.gz" else content
    for end in (len(content) - len(content) // 3, len(content) // 2, len(content) // 4, 10):
        path.write_bytes(content[:end])
        code, _, err = run("--webdataset", tmp_path, "--out", tmp_path / "out")
        assert code == 2 and " is truncated: it ends" in err and "download or copy it again" in err, err
        assert str(path) in err and (end < 300 or re.search(r"'000\d\.(jpg|cls)'", err)), err  # the item
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_that_changes_while_it_is_packed_stops_the_packing(tmp_path: Path, suffix: str) -> None:
    path = shard(tmp_path / "train-0.tar", 0, 1)
    if suffix == ".tar.gz":
        path.with_suffix(".tar.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        path = path.with_suffix(".tar.gz")
    found = WebDataset(path).open("train")
    before = found.reader.identity(found.keys[0])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="has changed since it was listed"):
        found.reader.read(found.keys[0])
    assert found.reader.identity(found.keys[0]) != before
    path.unlink()
    assert found.reader.identity(found.keys[0]) == (-1, -1)
    with pytest.raises(FileNotFoundError):
        found.reader.read(found.keys[0])


def test_images_of_compressed_shards_stay_together_when_they_are_shuffled(tmp_path: Path) -> None:
    for k in range(5):
        content = shard(tmp_path / "x.tar", *range(6), start=6 * k).read_bytes()
        (tmp_path / f"train-{k}.tar.gz").write_bytes(gzip.compress(content))
    (tmp_path / "x.tar").unlink()
    found = WebDataset(tmp_path).open("train")
    shuffled = found.shuffled(3)
    turns = [key.partition("/")[0] for key in shuffled.keys]
    assert sorted(shuffled.keys) == sorted(found.keys) and len(set(turns)) == 5
    assert sum(a != b for a, b in itertools.pairwise(turns)) == 4 and turns != sorted(turns)
    assert [key for key in shuffled.keys if key.startswith(turns[0])] != [
        key for key in found.keys if key.startswith(turns[0])
    ]
    assert shuffled.limited(7).keys == shuffled.keys[:7] and shuffled.limited(100).keys == shuffled.keys
    for key, label in zip(shuffled.keys, shuffled.labels):
        assert label == int(key[-8:-4]) % 6


def test_a_copy_of_the_shards_elsewhere_is_the_same_set(tmp_path: Path) -> None:
    shard(tmp_path / "a/train-0.tar", 0, 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copy2)
    assert run("--data", tmp_path / "a", "--out", tmp_path / "out")[0] == 0
    assert run("--verify", tmp_path / "out/train.beton", "--source", tmp_path / "b")[0] == 0
    assert "packed before" in run("--data", tmp_path / "b", "--out", tmp_path / "out")[1]
    os.rename(tmp_path / "b/train-0.tar", tmp_path / "b/train-1.tar")
    code, _, err = run("--data", tmp_path / "b", "--out", tmp_path / "out")
    assert code == 2 and "is not what it was packed from: 2 images" in err
