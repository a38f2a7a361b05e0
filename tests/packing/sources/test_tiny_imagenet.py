"""Tiny ImageNet is packed as it is downloaded: its flat validation images get the classes that their list gives."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import exit_code
from alexnet_fast.pack import main
from alexnet_fast.packing.sources import kind_of_folder
from alexnet_fast.packing.sources.tiny_imagenet import TinyImageNetDataset


@pytest.fixture(scope="module")
def downloaded(tiny_imagenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real structure with four real classes: eight training images and three validation images each."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    (root / "val/images").mkdir(parents=True)
    (root / "test/images").mkdir(parents=True)
    lines = []
    names = sorted(path.name for path in (tiny_imagenet / "train").iterdir())[:4]
    for k, name in enumerate(names):
        (root / f"train/{name}/images").mkdir(parents=True)
        (root / f"train/{name}/{name}_boxes.txt").write_text("x\t0\t0\t10\t10\n")
        for image in sorted((tiny_imagenet / "train" / name).iterdir())[:8]:
            shutil.copy(image, root / f"train/{name}/images")
        for i, image in enumerate(sorted((tiny_imagenet / "val" / name).iterdir())[:3]):
            shutil.copy(image, root / f"val/images/val_{4 * i + 3 - k}.JPEG")
            lines.append(f"val_{4 * i + 3 - k}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(sorted(lines)))
    (root / "wnids.txt").write_text("\n".join(reversed(names)))
    return root


def run(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(lambda: main([*map(str, arguments), "--workers", "1"]))
    return code, out.getvalue(), err.getvalue()


def test_it_is_recognised_packed_and_verified(downloaded: Path, tmp_path: Path) -> None:
    code, out, err = run("--data", downloaded, "--out", tmp_path)
    assert (
        code == 0 and "train.beton: 32 images of 4 classes" in out and "val.beton: 12 images of 4" in out
    ), err
    expected = dict(
        line.split("\t")[:2] for line in (downloaded / "val/val_annotations.txt").read_text().splitlines()
    )
    with Beton(tmp_path / "val.beton") as beton:
        assert beton.sidecar is not None
        classes = beton.sidecar["classes"]
        assert classes == sorted(classes)
        labels = {str(beton.source_path(k)).rpartition("/")[2]: classes[beton.labels[k]] for k in range(12)}
        assert labels == expected
        assert beton.sidecar["settings"]["val_labels_from"] == "val_annotations.txt"
    for split in ("train", "val"):
        code, out, err = run("--verify", tmp_path / f"{split}.beton", "--source", downloaded)
        assert code == 0 and "no fault" in out, err


def test_its_labels_are_torchvisions_of_the_training_folder(downloaded: Path) -> None:
    names = sorted(path.name for path in (downloaded / "train").iterdir())
    assert TinyImageNetDataset(downloaded).open("train").classes == names
    assert TinyImageNetDataset(downloaded).class_names("val") == names


def test_validation_images_that_were_sorted_into_classes_are_folders_again(
    downloaded: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(downloaded, tmp_path / "data")
    assert kind_of_folder(data) == "tiny-imagenet"
    for line in (data / "val/val_annotations.txt").read_text().splitlines():
        image, name = line.split("\t")[:2]
        (data / "val" / name).mkdir(exist_ok=True)
        shutil.move(data / "val/images" / image, data / "val" / name)
    (data / "val/images").rmdir()
    assert kind_of_folder(data) == "folder"
    assert run("--data", data, "--out", tmp_path / "out", "--split", "val")[0] == 0
    told = json.loads((tmp_path / "out/val.beton.json").read_text())
    assert "source" not in told["settings"] and told["counts"]["samples"] == 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "names no image; expected Tiny ImageNet's list"),
        ("val_0.JPEG\n", "line 1: 'val_0.JPEG\\n'"),
        ("val_0.JPEG\tn1\nval_0.JPEG\tn2\n", "line 2: 'val_0.JPEG\\tn2'; expected the name of an image"),
        ("../a.JPEG\tn1\n", "line 1: '../a.JPEG\\tn1'"),
        ("val_0.JPEG\tn00000000\t1\n", "has the class 'n00000000', which the training split does not have"),
    ],
)
def test_a_list_that_is_not_clear_is_refused(
    downloaded: Path, tmp_path: Path, text: str, expected: str
) -> None:
    data = shutil.copytree(downloaded, tmp_path / "data")
    (data / "val/val_annotations.txt").write_text(text)
    code, _, err = run("--data", data, "--out", tmp_path / "out")
    assert code == 2 and "val_annotations.txt" in err and expected.replace("\\n'", "'") in err, err


def test_an_image_without_a_class_is_ignored_and_listed(downloaded: Path, tmp_path: Path) -> None:
    data = shutil.copytree(downloaded, tmp_path / "data")
    shutil.copy(data / "val/images/val_0.JPEG", data / "val/images/more.JPEG")
    code, out, _ = run("--data", data, "--out", tmp_path / "out", "--split", "val")
    assert code == 0 and "not packed: 1 not in val_annotations.txt; listed in" in out
