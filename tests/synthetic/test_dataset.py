"""Synthetic images: the same bytes each time, as large as ImageNet's, read by us and by ffcv, made once even if several start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Loader
from alexnet_fast.beton.reader import Beton
from alexnet_fast.beton.target_fields import FLOAT
from alexnet_fast.errors import UserError
from alexnet_fast.inspection.verify import verify
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate
from alexnet_fast.synthetic import dataset, images
from alexnet_fast.synthetic.dataset import Counts
from betons import check_tiles
from components import ROOT

FEW = Counts(num_classes=5, train=40, train_images=12, val=7, val_images=3)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A separate temporary folder, and no worker processes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(dataset, "allowed_cores", lambda: 1)
    return tmp_path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train and a val set of few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("few")))
        patch.setattr(dataset, "allowed_cores", lambda: 1)
        return dataset.make(FEW, say=lambda _: None)


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.iterdir())}


def refusal(counts: Counts = FEW) -> str:
    with pytest.raises(UserError) as caught:
        dataset.make(counts, say=lambda _: None)
    assert "\n" not in str(caught.value) and "TMPDIR" in str(caught.value)
    return str(caught.value)


def test_made_again_by_two_processes_they_are_the_same_bytes(
    few: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "allowed_cores", lambda: 2)
    again = dataset.make(FEW, say=lambda _: None)
    assert again != few and again.name == few.name
    assert contents(again) == contents(few)


def test_every_sample_decodes_and_has_the_packers_tiles(few: Path) -> None:
    for name, samples, distinct in (("train", 40, 12), ("val", 7, 3)):
        verdict = verify(few / f"{name}.beton", workers=1)
        assert verdict.samples == samples and verdict.faults == []
        with Beton(few / f"{name}.beton") as beton:
            assert len(set(beton.images["data_ptr"].tolist())) == distinct
            for i in range(distinct):
                width, height = (int(beton.images[side][i]) for side in ("width", "height"))
                assert max(width, height) <= 500
                check_tiles(beton.payload(i).tobytes(), width, height)


def test_all_samples_of_an_image_have_one_label_and_each_class_has_images(few: Path) -> None:
    with Beton(few / "train.beton") as beton:
        labels = dict(zip(beton.images["data_ptr"].tolist(), beton.labels.tolist()))
        assert [labels[ptr] for ptr in beton.images["data_ptr"].tolist()] == beton.labels.tolist()
        assert sorted(set(labels.values())) == [0, 1, 2, 3, 4]


def test_for_regression_labels_are_numbers_from_0_to_1(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Counts]()

    def make(counts: Counts, say: Any) -> Path:
        asked.append(counts)
        return temporary

    with monkeypatch.context() as patched:
        patched.setattr(dataset, "make", make)
        model = {"task": "regression", "num_classes": 1}
        dataset.overrides(validate({"data": {"synthetic": True}, "model": model}), say=lambda _: None)
    (counts,) = asked
    assert (counts.task, counts.num_classes) == ("regression", 1)
    place = dataset.make(replace(FEW, task=counts.task, num_classes=1), say=lambda _: None)
    with Beton(place / "train.beton") as beton:
        assert beton.target_field is FLOAT
        assert np.allclose(sorted(set(beton.labels.tolist())), np.arange(12) / 12)


def test_the_loader_gives_every_sample(few: Path) -> None:
    with Loader(few / "train.beton", 8, train=True, size=64, threads=1) as loader:
        labels = np.concatenate([batch.labels.numpy() for batch in loader])
        assert sorted(labels) == sorted(loader.beton.labels)


def test_ffcv_reads_images_that_several_samples_share(few: Path, require: Callable[[str], Any]) -> None:
    require("ffcv")
    from ffcv.libffcv import imdecode
    from ffcv.memory_managers.os_cache import OSCacheManager
    from ffcv.reader import Reader

    reader = Reader(str(few / "train.beton"))
    manager = OSCacheManager(reader)
    assert sorted(manager.sample_to_pages) == list(range(40))
    with Beton(few / "train.beton") as beton:
        for i, (image, label) in enumerate(reader.metadata):
            payload = beton.payload(i)
            assert manager.ptr_to_size[image["data_ptr"]] == len(payload) and label == beton.labels[i]
            size = int(image["height"]), int(image["width"])
            pixels = np.zeros((*size, 3), np.uint8)
            imdecode(payload.copy(), pixels, *size, *size)
            assert pixels.std() > 1


def test_images_take_as_many_bytes_per_pixel_as_imagenets() -> None:
    made = [images.encoded(index) for index in range(200)]
    each = np.array([len(jpeg) / (width * height) for jpeg, width, height in made])
    assert each.mean() == pytest.approx(0.339, rel=0.07)  # of 1,000 ImageNet images at 500 px, quality 90
    assert np.log(each).std() == pytest.approx(0.348, rel=0.15)
    assert np.mean([width * height for _, width, height in made]) == pytest.approx(165_443, rel=0.07)


def test_a_second_start_finds_them_and_another_setting_makes_others(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = replace(FEW, train=4, train_images=1, val=1, val_images=1)
    sentences: list[str] = []
    place = dataset.make(counts, sentences.append)
    assert [sentence.split()[0] for sentence in sentences] == ["making", "uses"]
    written = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    sentences.clear()
    assert dataset.make(counts, sentences.append) == place
    assert [sentence.split()[0] for sentence in sentences] == ["uses"]
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == written

    names = {
        dataset.digest(each) for each in (counts, replace(counts, num_classes=6), replace(counts, val=2))
    }
    monkeypatch.setattr(np, "__version__", "0.1")
    names.add(dataset.digest(counts))
    assert len(names) == 4


def test_of_two_that_start_at_once_one_makes_them_and_both_find_them_complete(
    few: Path, temporary: Path
) -> None:
    program = f"from alexnet_fast.synthetic.dataset import *; make({FEW!r})"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [starter.communicate(timeout=120) for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0], outputs
    printed = "".join(stdout for stdout, _ in outputs)
    assert printed.count("making 15 synthetic images") == 1 and printed.count("uses ") == 2
    assert contents(dataset.make(FEW, say=lambda _: None)) == contents(few)
    assert not list(temporary.glob("*/*.partial")) and not list(temporary.glob("*/*.lock"))


def test_a_set_that_a_kill_or_a_cleaner_left_incomplete_is_made_again(few: Path) -> None:
    place = dataset.private_folder() / few.name
    (killed := place.with_name(f"{place.name}.abc.partial")).mkdir()
    place.mkdir()
    (place / "train.beton").write_bytes((few / "train.beton").read_bytes())
    assert not dataset.is_complete(place)
    assert dataset.make(FEW, say=lambda _: None) == place
    assert contents(place) == contents(few) and not killed.exists()


def test_a_place_that_cannot_be_written_is_one_sentence(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "file"))
    assert "Not a directory" in refusal()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (temporary / dataset.private_folder().name).chmod(0o777)
    assert "that this user alone can write" in refusal()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "write_set", full)
    sentence = refusal(Counts(num_classes=10))
    assert "No space left on device" in sentence and "make room for 81 MB" in sentence
    assert list(dataset.private_folder().iterdir()) == []


def test_a_recipe_with_data_synthetic_opens_no_other_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset.overrides(Recipe()) == []
    monkeypatch.setattr(dataset, "make", lambda counts, say: Path("/t") / str(counts.num_classes))
    table: dict[str, Any] = {"data": {"synthetic": True, "train": "mine.beton"}, "model": {"num_classes": 10}}
    sets = ['data.train="/t/10/train.beton"', 'data.val="/t/10/val.beton"']
    assert dataset.overrides(validate(table)) == [*sets, "schedule.steps_per_epoch=100"]
    table["schedule"] = {"steps_per_epoch": 7}
    assert dataset.overrides(validate(table)) == sets
    table["data"] |= {"image_field": "left", "label_field": "fine"}  # of the set that it replaces
    assert dataset.overrides(validate(table)) == [*sets, 'data.image_field=""', 'data.label_field=""']
