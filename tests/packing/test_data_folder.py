"""A folder of images is packed once, next to it or elsewhere; packed files are used as they are."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import components
from alexnet_fast.beton.reader import Beton
from alexnet_fast.errors import StoppedBySignal, UserError
from alexnet_fast.pack import main as pack_main
from alexnet_fast.packing import data_folder
from alexnet_fast.packing.data_folder import BetonPaths, find_or_pack
from alexnet_fast.packing.errors import OutputUnwritable
from alexnet_fast.packing.sources import imagenet
from alexnet_fast.packing.sources.image_folder import FolderDataset
from betons import jpeg, picture
from imagenet_tars import make_tars


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """train/ with six images and val/ with two, of two classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for index in range(count):
            path = tmp_path / "raw" / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "raw"


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "allowed_cores", lambda: 1)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Interrupt a packing as by Ctrl-C."""

    @contextmanager
    def bar(*_: Any) -> Iterator[Any]:
        def progress(done: int) -> None:
            if done == images:
                raise KeyboardInterrupt

        yield progress

    monkeypatch.setattr(data_folder, "allowed_cores", lambda: 1)
    monkeypatch.setattr(data_folder, "progress_bar", bar)


def test_an_index_is_used_where_there_is_no_beton_of_its_split(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    assert pack_main(["--data", str(raw), "--out", str(out), "--shards", "2", "--workers", "1"]) == 0
    train, val = out / "train.index.json", out / "val.index.json"
    assert find_or_pack(out) == find_or_pack(train) == BetonPaths(train, val)
    assert find_or_pack(val) == BetonPaths(None, val)
    (out / "val.beton").write_bytes(b"")
    assert find_or_pack(out) == BetonPaths(train, out / "val.beton")


def refusal(*arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        find_or_pack(*arguments, say=lambda _: None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_raw_folder_is_packed_next_to_it_and_a_second_start_finds_it(raw: Path) -> None:
    sentences: list[str] = []
    sets = find_or_pack(raw, say=sentences.append)
    packed_dir = raw.with_name("raw-beton")
    assert sets == BetonPaths(packed_dir / "train.beton", packed_dir / "val.beton")
    assert [Beton(path).num_samples for path in sets if path] == [6, 2]
    assert "once: 6 images of 2 classes" in sentences[0]
    written = {path.name: path.stat().st_mtime_ns for path in packed_dir.iterdir()}
    assert sorted(written) == ["train.beton", "train.beton.json", "val.beton", "val.beton.json"]

    sentences.clear()
    assert find_or_pack(raw, say=sentences.append) == sets
    assert {path.name: path.stat().st_mtime_ns for path in packed_dir.iterdir()} == written
    assert len(sentences) == 2 and all(
        text.startswith("uses ") and "packed by alexnet_fast" in text for text in sentences
    )


def test_beton_dir_says_where_and_a_missing_split_alone_is_added(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "elsewhere"
    assert find_or_pack(raw, target, ("val",), say=lambda _: None) == BetonPaths(None, target / "val.beton")
    first = (target / "val.beton").stat().st_mtime_ns
    assert find_or_pack(raw, target, say=lambda _: None) == BetonPaths(
        target / "train.beton", target / "val.beton"
    )
    assert (target / "val.beton").stat().st_mtime_ns == first
    assert not raw.with_name("raw-beton").exists()


def test_labels_of_val_are_those_of_train(raw: Path) -> None:
    shutil.rmtree(raw / "val" / "a")
    sentences: list[str] = []
    sets = find_or_pack(raw, None, ("val",), say=sentences.append)
    assert "once: 1 images of 2 classes; no image of 'a', of 2 classes" in sentences[0]
    assert sets.val is not None and Beton(sets.val).labels.tolist() == [1]


def test_labels_of_a_val_alone_are_those_of_the_train_that_is_packed(raw: Path) -> None:
    """As the packer's own command numbers them: both call ``shared_classes``."""
    sets = find_or_pack(raw, None, ("train",), say=lambda _: None)
    shutil.rmtree(raw / "train")
    shutil.rmtree(raw / "val" / "a")
    sentences: list[str] = []
    val = find_or_pack(raw, say=sentences.append).val
    assert val is not None and Beton(val).labels.tolist() == [1]
    assert sentences[0] == f"{raw} has no train/: labels are numbered as in {sets.train}, of 2 classes"
    val.unlink()
    (raw / "val/b").rename(raw / "val/c")
    sentence = refusal(raw)
    assert (
        f"{raw}/val has the class 'c', which {sets.train} does not have" in sentence and "--" not in sentence
    )


def test_betons_are_taken_as_they_are(raw: Path) -> None:
    sets = find_or_pack(raw, say=lambda _: None)
    assert sets.train is not None and sets.val is not None
    assert find_or_pack(sets.train.parent) == sets
    assert find_or_pack(sets.train) == sets
    assert find_or_pack(sets.val) == BetonPaths(None, sets.val)
    sets.val.unlink()
    assert find_or_pack(sets.train.parent) == find_or_pack(sets.train) == BetonPaths(sets.train, None)


def test_a_folder_without_val_has_a_training_set_alone(raw: Path) -> None:
    shutil.rmtree(raw / "val")
    sets = find_or_pack(raw, say=lambda _: None)
    assert sets.train is not None and sets.val is None


def test_other_settings_of_a_packed_file_are_reported(raw: Path) -> None:
    sets = find_or_pack(raw, say=lambda _: None)
    assert sets.train is not None
    sidecar = sets.train.with_name("train.beton.json")
    sidecar.write_text(sidecar.read_text().replace('"quality": 90', '"quality": 75'))
    sentences: list[str] = []
    find_or_pack(raw, say=sentences.append)
    assert "with quality = 75" in sentences[0] and "with" not in sentences[1]


def test_a_file_packed_from_other_classes_is_refused(raw: Path) -> None:
    find_or_pack(raw, say=lambda _: None)
    (raw / "train" / "c").mkdir()
    sentence = refusal(raw)
    assert "train.beton was packed from other classes" in sentence and "--beton-dir" in sentence


def test_a_place_that_cannot_be_written_names_the_flag(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.with_name("raw-beton").write_text("a file is in the way")
    assert "raw-beton" in (sentence := refusal(raw)) and "--beton-dir" in sentence

    def full(*_: Any, **__: Any) -> Any:
        raise OutputUnwritable("No space left on device", "choose another --out")

    monkeypatch.setattr("alexnet_fast.packing.writer.write_beton", full)
    sentence = refusal(raw, raw.with_name("elsewhere"))
    assert "No space left on device" in sentence and "--beton-dir" in sentence and "--out" not in sentence


def test_an_interrupted_packing_resumes_at_the_next_start(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = find_or_pack(raw, raw.with_name("alone"), say=lambda _: None)
    interrupt_after(monkeypatch, 4)
    with pytest.raises(
        StoppedBySignal, match="SIGINT while packing: 4 of 6 images of .*train.beton are packed"
    ):
        find_or_pack(raw, say=lambda _: None)
    monkeypatch.undo()
    sets = find_or_pack(raw, say=lambda _: None)
    assert all(a and b and a.read_bytes() == b.read_bytes() for a, b in zip(sets, alone))


def test_advice_is_for_the_user_of_the_training_command(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names no flag that only the packer's command line has."""
    interrupt_after(monkeypatch, 2)
    with pytest.raises(StoppedBySignal):
        find_or_pack(raw, say=lambda _: None)
    monkeypatch.undo()
    (raw / "train/a/4.png").write_bytes(b"no image")
    sentence = refusal(raw)
    assert "1 image (a/4.png) of another size" in sentence and "--fresh" not in sentence
    assert sentence.endswith("train.beton.partial to start from scratch")
    (raw.with_name("raw-beton") / "train.beton.partial").unlink()
    sentence = refusal(raw)
    assert "cannot read the image" in sentence
    assert (
        f"skip it with 'python -m alexnet_fast.pack --data {raw} --out {raw}-beton --on-error skip'"
        in sentence
    )
    monkeypatch.setattr(data_folder, "allowed_cores", lambda: 2)
    assert pack_main(["--data", str(raw), "--out", f"{raw}-beton", "--on-error", "skip"]) == 0
    sets = find_or_pack(raw, say=lambda _: None)
    assert sets.train and Beton(sets.train).num_samples == 5


def test_a_file_that_came_between_is_not_replaced(raw: Path) -> None:
    sets = find_or_pack(raw, say=lambda _: None)
    assert sets.train is not None
    (raw / "train/a/0.png").unlink()
    with pytest.raises(UserError) as caught:
        data_folder._pack(
            FolderDataset(raw).open("train", ["a", "b"]).shuffled(0), "train", sets.train, raw, lambda _: None
        )
    assert "train.beton is finished, and" in str(caught.value) and "1 image (a/0.png) removed" in str(
        caught.value
    )
    assert str(caught.value).endswith(
        f"; remove {sets.train} to pack it again, or name another folder with --beton-dir"
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("nowhere", "does not exist"), ("raw/train", "has neither train/")]
)
def test_what_is_not_a_data_folder_is_refused(raw: Path, name: str, expected: str) -> None:
    sentence = refusal(raw.parent / name)
    assert expected in sentence and "train.beton" in sentence


def test_of_two_that_start_at_once_one_packs_and_the_other_waits(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs, started, reported = [], threading.Event(), threading.Event()
    pack = data_folder._pack

    def slow_pack(folder: Any, split: str, *rest: Any) -> None:
        packs.append(split)
        started.set()
        assert reported.wait(10)
        pack(folder, split, *rest)

    monkeypatch.setattr(data_folder, "_pack", slow_pack)
    first = threading.Thread(target=find_or_pack, args=(raw,), kwargs={"say": lambda _: None})
    first.start()
    assert started.wait(10)
    sentences: list[str] = []

    def say(sentence: str) -> None:
        sentences.append(sentence)
        reported.set()

    find_or_pack(raw, say=say)
    first.join()
    assert packs == ["train", "val"] and "another process is packing" in sentences[0]
    assert not (raw.with_name("raw-beton") / "packing.lock").exists()


def test_both_splits_are_checked_before_hours_are_spent_on_the_first(raw: Path) -> None:
    """ImageNet's own archive of val has no class folders."""
    for image in sorted((raw / "val").rglob("*.png")):
        image.rename(raw / "val" / f"{image.parent.name}-{image.name}")
    for folder in ("a", "b"):
        (raw / "val" / folder).rmdir()
    sentence = refusal(raw)
    assert f"{raw}/val has no class folders" in sentence and "contains 2 images itself: move each" in sentence
    assert not list(raw.parent.rglob("*.beton*"))


def test_a_packed_split_is_checked_before_the_other_is_packed(raw: Path) -> None:
    find_or_pack(raw, None, ("train",), say=lambda _: None)
    (raw / "train/c").mkdir()
    assert "train.beton was packed from other classes" in refusal(raw)
    assert not list(raw.parent.rglob("val.beton*"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_is_no_folder_is_refused(raw: Path, split: str) -> None:
    """An archive that is not unpacked, or a link to a disk that is not mounted: the user did not mean the other split alone."""
    shutil.rmtree(raw / split)
    (raw / split).symlink_to("/nowhere/at/all")
    assert f"{raw}/{split} is not a folder; expected one folder per class" in refusal(raw)
    (raw / split).unlink()
    (raw / split).touch()
    assert f"{raw}/{split} is not a folder; expected one folder per class" in refusal(raw)


def test_what_is_not_packed_is_reported(raw: Path) -> None:
    (raw / "train/a/notes.txt").touch()
    (raw / "train/a/.hidden").touch()
    sentences: list[str] = []
    sets = find_or_pack(raw, say=sentences.append)
    assert f"not packed: 1 .txt, 1 hidden; listed in {sets.train}.json" in sentences


def test_another_programs_folder_is_no_class(raw: Path) -> None:
    for name in ("@eaDir", ".git", "lost+found"):
        (raw / "train" / name).mkdir()
    sets = find_or_pack(raw, say=lambda _: None)
    assert sets.train is not None and (sidecar := Beton(sets.train).sidecar) is not None
    assert sidecar["classes"] == ["a", "b"]


def test_a_folder_that_cannot_be_searched_is_not_one_without_splits(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{raw}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path, **options)

    monkeypatch.setattr("alexnet_fast.packing.sources.image_folder.os.lstat", refuse)
    with pytest.raises(UserError, match=f"cannot look for {raw}/train: Permission denied"):
        data_folder.splits_in(raw)


def test_corrupt_images_are_a_warning(raw: Path) -> None:
    components.require("turbojpeg")  # finds corrupt images
    intact = jpeg(picture(203, 149))
    (raw / "train/a/corrupt.JPEG").write_bytes(intact[: len(intact) // 2] + b"\xff\xd9")
    sentences: list[str] = []
    sets = find_or_pack(raw, say=sentences.append)
    assert f"warning: 1 of 7 images are corrupt, listed in {sets.train}.json" in sentences


def test_imagenets_tars_are_packed_once_and_not_listed_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, sentences = make_tars(tmp_path / "imagenet", photos, 8, 6), list[str]()
    sets = find_or_pack(tars, say=sentences.append)
    assert sets == BetonPaths(tmp_path / "imagenet-beton/train.beton", tmp_path / "imagenet-beton/val.beton")
    assert (
        f"packing {tars}/ILSVRC2012_img_train.tar into" in sentences[0]
        and "8 images of 6 classes" in sentences[0]
    )
    monkeypatch.setattr(imagenet, "members", None)
    sentences.clear()
    assert find_or_pack(tars, say=sentences.append) == sets
    assert [sentence.split(":")[0] for sentence in sentences] == [f"uses {path}" for path in sets]
    command = ("--data", str(tars), "--out", str(tmp_path / "imagenet-beton"), "--workers", "1")
    monkeypatch.undo()
    assert pack_main(list(command)) == 0  # the same file to the command: "packed before"
