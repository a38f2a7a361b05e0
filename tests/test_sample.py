"""The synthetic set: complete, the same for the same seed, and its colours do not depend on the class."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast import sample as command
from alexnet_fast.synthetic.shapes import SHAPES

TRAIN, VAL = 24, 16


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "sample"
    command.make_sample(folder, 10, {"train": TRAIN, "val": VAL}, seed=3)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.JPEG"))
    }


def mean_colours(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) float64 mean RGB of each image, (N,) labels."""
    colours, labels = [], []
    for label, name in enumerate(sorted(SHAPES)):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as image:
                colours.append(np.asarray(image).reshape(-1, 3).mean(axis=0))
            labels.append(label)
    return np.array(colours), np.array(labels)


def test_every_class_has_its_images_in_both_splits(sample: Path) -> None:
    for split, count in (("train", TRAIN), ("val", VAL)):
        assert sorted(folder.name for folder in (sample / split).iterdir()) == sorted(SHAPES)
        assert all(len(list(folder.glob("*.JPEG"))) == count for folder in (sample / split).iterdir())


def test_images_are_rgb_jpegs_of_various_sizes_and_no_two_are_the_same(sample: Path) -> None:
    sizes = set()
    for path in sample.rglob("*.JPEG"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes.add(image.size)
            assert 200 <= min(image.size) <= max(image.size) <= 400
    assert len(sizes) > 100
    found = digests(sample)
    assert len(set(found.values())) == len(found) == 10 * (TRAIN + VAL)


def test_mean_colour_does_not_tell_the_classes_apart(sample: Path) -> None:
    """The nearest class mean, and the nearest neighbour: both within four deviations of the chance of 10 %."""
    colours, labels = mean_colours(sample / "train")
    asked, truth = mean_colours(sample / "val")
    means = np.stack([colours[labels == label].mean(axis=0) for label in range(10)])
    chance, deviation = 0.1, (0.1 * 0.9 / len(truth)) ** 0.5
    for points, names in ((means, np.arange(10)), (colours, labels)):
        nearest = np.linalg.norm(asked[:, None] - points[None], axis=2).argmin(axis=1)
        assert (names[nearest] == truth).mean() < chance + 4 * deviation


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    made = {}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        command.make_sample(tmp_path / name, 2, {"train": 3, "val": 2}, seed=seed)
        made[name] = digests(tmp_path / name)
    assert made["a"] == made["b"]
    assert not set(made["a"].values()) & set(made["c"].values())


def test_an_image_does_not_depend_on_how_many_others_are_made(tmp_path: Path, sample: Path) -> None:
    command.make_sample(tmp_path / "few", 2, {"train": 2, "val": 1}, seed=3)
    few, many = digests(tmp_path / "few"), digests(sample)
    assert few.items() <= many.items()


def test_a_set_whose_making_was_interrupted_is_not_taken_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, workers: int) -> None: ...

        def __enter__(self) -> Any:
            raise KeyboardInterrupt

        def __exit__(self, *error: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(command, "ProcessPoolExecutor", Broken)
        with pytest.raises(KeyboardInterrupt):
            command.make_sample(tmp_path / "set", 2, {"train": 1, "val": 1}, seed=0)
    assert not (tmp_path / "set").exists()
    assert command.make_sample(tmp_path / "set", 2, {"train": 1, "val": 1}, seed=0) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--classes", "11"], "--classes is 11"),
        (["--train", "0"], "--train is 0"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_a_number_out_of_range_is_one_sentence(
    tmp_path: Path, run_cli: Callable[..., Any], arguments: list[str], words: str
) -> None:
    done = run_cli("tools/make_sample.py", "--out", tmp_path / "set", *arguments)
    assert done.code == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    done = run_cli("tools/make_sample.py", "--out", tmp_path / "mine")
    assert done.code == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"
