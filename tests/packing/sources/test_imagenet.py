"""ImageNet's tars are packed as the folders that they are unpacked into, to the byte, and nothing is unpacked."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.sources import imagenet
from alexnet_fast.packing.sources.devkit import labels_file, val_classes
from alexnet_fast.packing.sources.imagenet import ImageNetDataset
from alexnet_fast.packing.sources.listing import FolderError
from imagenet_tars import META, WNIDS, add, make_tars, tar_of, unpack, val_wnids

TRAIN, VAL, DEVKIT = (f"ILSVRC2012_{name}" for name in ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz"))


@pytest.fixture(scope="module")
def tars(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tars(tmp_path_factory.mktemp("downloaded") / "imagenet", photos)


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = exit_code(lambda: main([*map(str, arguments), "--workers", "1"]))
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def test_the_tars_are_packed_as_the_unpacked_folders_are(tars: Path, tmp_path: Path) -> None:
    before = sorted(os.listdir(tars))
    assert run("--data", tars, "--out", tmp_path / "tars")[0] == 0
    assert run("--data", unpack(tars, tmp_path / "unpacked"), "--out", tmp_path / "folders")[0] == 0
    assert sorted(os.listdir(tars)) == before
    for split in ("train", "val"):
        ours, theirs = (tmp_path / kind / f"{split}.beton" for kind in ("tars", "folders"))
        assert ours.read_bytes() == theirs.read_bytes()
        told, expected = (json.loads(Path(f"{path}.json").read_text()) for path in (ours, theirs))
        settings = told["settings"]
        assert settings.pop("source") == "imagenet" and "as in torchvision" in settings.pop("classes_from")
        assert settings.pop("archive_bytes") == (tars / f"ILSVRC2012_img_{split}.tar").stat().st_size
        assert settings.pop("val_labels_from", None) == (DEVKIT if split == "val" else None)
        assert told == expected
        assert sorted(told["counts"]["converted"].items()) == [
            ("CMYK JPEG", 1),
            ("L JPEG", 1),
            ("PNG named .JPEG", 1),
        ]


def test_labels_are_those_of_torchvisions_imagenet(
    tars: Path, tmp_path: Path, require: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("torchvision")
    import torch
    from torchvision.datasets import imagenet as theirs

    root = shutil.copytree(tars, tmp_path / "torchvision")
    torch.save(({name: (name,) for name in WNIDS}, val_wnids(tars)), root / "meta.bin")
    monkeypatch.setattr(theirs, "_verify_archive", lambda *_: None)  # these are not the real ones
    dataset = ImageNetDataset(tars)
    trained = dataset.class_names("train")
    for split in ("train", "val"):
        unpacked = theirs.ImageNet(str(root), split)
        expected = {str(Path(path).relative_to(root / split)): label for path, label in unpacked.samples}
        ours = dataset.open(split, trained)
        assert dict(zip(ours.keys, ours.labels)) == expected
        assert ours.keys == [str(Path(path).relative_to(root / split)) for path, _ in unpacked.samples]
        assert ours.classes == unpacked.wnids


def test_what_was_packed_from_tars_is_verified_against_them(tars: Path, tmp_path: Path) -> None:
    assert run("--imagenet", tars, "--out", tmp_path)[0] == 0
    for flag in ("--source", "--imagenet"):
        code, out, err = run("--verify", tmp_path / "val.beton", flag, tars)
        assert code == 0 and "9 samples, no fault" in out and "equals its source encoded again" in out, err
    code, _, err = run("--verify", tmp_path / "val.beton", "--source", unpack(tars, tmp_path / "unpacked"))
    assert (
        code == 2 and "was packed from an imagenet, not from a folder; verify it with --imagenet DIR" in err
    )


def test_validation_images_of_other_classes_than_were_packed_are_faults(tars: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tars, tmp_path / "copy")
    assert run("--data", copy, "--out", tmp_path / "out")[0] == 0
    others = [WNIDS[(WNIDS.index(name) + 1) % 6] for name in val_wnids(tars)]
    (tmp_path / "labels.txt").write_text("\n".join(others))
    code, out, _ = run(
        *("--verify", tmp_path / "out/val.beton", "--source", copy),
        *("--val-labels", tmp_path / "labels.txt"),
    )
    assert code == 1 and "its source has no such image" in out


@pytest.mark.parametrize("form", ["wnids", "names", "numbers", "kaggle", "devkit", "unpacked"])
def test_every_usual_list_of_validation_labels_gives_the_same(tars: Path, tmp_path: Path, form: str) -> None:
    wnids = val_wnids(tars)
    names = [f"ILSVRC2012_val_{k + 1:08d}" for k in range(len(wnids))]
    text = {
        "wnids": "\n".join(wnids),
        "names": "".join(f"{name}.JPEG {wnid}\n" for name, wnid in zip(names, wnids)),
        "numbers": "".join(f"{name}.JPEG {WNIDS.index(wnid)}\n" for name, wnid in zip(names, wnids)),
        "kaggle": "ImageId,PredictionString\n"
        + "".join(f"{name},{wnid} 1 2 3 4 {wnid} 5 6 7 8\n" for name, wnid in reversed([*zip(names, wnids)])),
    }.get(form)
    file = tmp_path / "labels.txt"
    if text:
        file.write_text(text)
    else:
        file = tars / DEVKIT
        if form == "unpacked":
            with tarfile.open(file) as devkit:
                devkit.extractall(tmp_path, filter="data")
            file = labels_file(tmp_path)
            assert file.is_dir()
    images = [f"{name}.JPEG" for name in names]
    assert val_classes(file, images, WNIDS) == dict(zip(images, wnids))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n01440764\n", "has the classes of 1 images, and there are 9 validation images"),
        ("ILSVRC2012_val_00000001.JPEG 3\n", "does not say of which class 'ILSVRC2012_val_00000002.JPEG' is"),
        (
            "ILSVRC2012_val_00000001.JPEG 6\n",
            "the class '6' is neither a WordNet ID as n01440764 nor a number from 0",
        ),
        ("cat\n", "'cat'; expected ILSVRC2012_devkit_t12.tar.gz next to it, or a list"),
    ],
)
def test_a_list_that_does_not_fit_the_images_is_refused(
    tars: Path, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "labels.txt").write_text(text)
    code, _, err = run("--data", tars, "--out", tmp_path, "--val-labels", tmp_path / "labels.txt")
    assert code == 2 and expected in err and "labels.txt" in err


def test_without_labels_of_the_validation_images_the_tars_are_refused(tars: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in (TRAIN, VAL):
        os.link(tars / name, data / name)
    code, _, err = run("--data", data, "--out", tmp_path / "out")
    assert code == 2 and f"nothing in {data} says which class each validation image is of" in err
    assert run("--data", data, "--out", tmp_path / "out", "--split", "train")[0] == 0
    (data / VAL).unlink()
    assert run("--data", data, "--out", tmp_path / "out")[0] == 0
    code, _, err = run("--data", data, "--out", tmp_path / "out", "--split", "val")
    assert code == 2 and f"{data} has no {VAL}" in err


@pytest.mark.parametrize("content", [b"MATLAB 5.0" + bytes(200), META[:300], META[:128], b""])
def test_a_devkit_whose_table_of_classes_is_corrupt_is_refused(
    tars: Path, tmp_path: Path, content: bytes
) -> None:
    data = shutil.copytree(tars, tmp_path / "data")
    with tarfile.open(data / DEVKIT, "w:gz") as devkit:
        add(devkit, "ILSVRC2012_devkit_t12/data/meta.mat", content)
        add(devkit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", b"1\n" * 9)
    code, _, err = run("--data", data, "--out", tmp_path / "out")
    assert code == 2 and f"cannot read data/meta.mat of {data / DEVKIT}: it " in err


def test_a_tar_that_is_cut_off_anywhere_is_named_with_the_item(tars: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tars, tmp_path / "data")
    content = (tars / TRAIN).read_bytes()
    for end in (0, 100, 512, 700, 2000, len(content) // 2, len(content) - 40 * 512):
        (data / TRAIN).write_bytes(content[:end])
        code, _, err = run("--data", data, "--out", tmp_path / "out")
        assert code == 2 and re.search(rf"{TRAIN} is (truncated: it ends|not a tar)", err), (end, err)
        assert end < 2000 or re.search(r"in its member 'n\d+\.tar'|after 'n\d+\.tar'", err), err
    # The tar of a class within it.
    whole = tar_of([("n01440764_1.JPEG", b"x" * 3000), ("n01440764_2.JPEG", b"y" * 3000)])
    for end, what in (
        (1024, "in its member 'n01440764_1.JPEG'"),
        (3584, "after 'n01440764_1.JPEG'"),
        (5000, "in its"),
    ):
        (data / TRAIN).write_bytes(tar_of([("n01440764.tar", whole[:end])]))
        code, _, err = run("--data", data, "--out", tmp_path / "out")
        assert code == 2 and f"{TRAIN}/n01440764.tar is truncated: it ends {what}" in err, err
    (data / TRAIN).write_bytes(tar_of([("n01440764.tar", bytes(1024))]))
    assert f"{TRAIN}/n01440764.tar holds no image" in run("--data", data, "--out", tmp_path / "out")[2]
    (data / TRAIN).write_bytes(tar_of([("readme.txt", b"x")]))
    assert "holds no tar of a class" in run("--data", data, "--out", tmp_path / "out")[2]


def test_what_is_no_image_is_ignored_and_listed_as_in_a_folder(tars: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tars, tmp_path / "data")
    with tarfile.open(tars / TRAIN) as outer:
        file = outer.extractfile("n01440764.tar")
        assert file
        image = file.read()[512:][:200_000]
    files = [
        ("a.JPEG", image),
        ("._a.JPEG", b"x"),
        ("notes.txt", b"x"),
        ("@eaDir/a.JPEG", b"x"),
        ("plain", image),
    ]
    (data / TRAIN).write_bytes(tar_of([("n01440764.tar", tar_of(files)), ("._n01440764.tar", b"x")]))
    found = ImageNetDataset(data).open("train")
    assert found.keys == ["n01440764/a.JPEG", "n01440764/plain"]
    assert found.ignored.counts == {"hidden": 2, ".txt": 1, "folder of another program": 1}


def test_a_reader_of_tars_is_small_and_finds_its_images_in_other_processes(tars: Path) -> None:
    split = ImageNetDataset(tars).open("train")
    pickled = pickle.dumps(split.reader)
    assert len(pickled) < 2000
    other = pickle.loads(pickled)
    assert [other.read(key) for key in split.keys] == [split.reader.read(key) for key in split.keys]
    assert other.identity("n01440764/none.JPEG") == (-1, -1)
    with pytest.raises(FileNotFoundError):
        other.read("n01440764/none.JPEG")


def test_a_dataset_takes_its_listing_to_other_processes(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that verifies would otherwise read all headers of the training tar again: minutes on a slow disk."""
    dataset = ImageNetDataset(tars)
    key = dataset.open("train").keys[0]
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    monkeypatch.setattr(imagenet, "_train", None)
    other = pickle.loads(pickled)
    assert other == dataset and other.class_of("train", key) == "n01440764"
    assert other.reader("train").read(key) == dataset.reader("train").read(key)


def test_tars_next_to_unpacked_folders_are_named(tars: Path, tmp_path: Path) -> None:
    data = unpack(tars, tmp_path / "data")
    shutil.rmtree(data / "val")
    os.link(tars / VAL, data / VAL)
    code, out, _ = run("--data", data, "--out", tmp_path / "out")
    assert code == 0 and f"not packed: {VAL} in {data}; --imagenet {data} packs ImageNet's tars" in out


def test_a_folder_without_tars_is_not_imagenet(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="has neither ILSVRC2012_img_train.tar nor"):
        ImageNetDataset(tmp_path).splits()
    assert (
        "--val-labels goes with ImageNet's tars"
        in run("--data", tmp_path, "--out", tmp_path, "--val-labels", "a")[2]
    )


def test_a_beton_of_tars_names_its_classes(tars: Path, tmp_path: Path) -> None:
    assert run("--data", tars, "--out", tmp_path)[0] == 0
    with Beton(tmp_path / "val.beton") as beton:
        assert beton.sidecar is not None and beton.sidecar["classes"] == WNIDS
        keys = [str(beton.source_path(k)) for k in range(len(beton))]
        assert [WNIDS[label] for label in beton.labels] == [key.split("/")[0] for key in keys]
