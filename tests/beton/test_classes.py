"""Compares what labels mean, for files with and without the names of their classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_fast.beton.classes import Classes, class_names, difference, doubt, packed_classes, without_images
from alexnet_fast.beton.reader import Beton
from betons import jpeg, picture, write

IMAGE = jpeg(picture(64, 48))


def a_set(path: Path, labels: Sequence[int], names: object = None, **options: object) -> Classes:
    """The classes of a file of these labels, and of a json that names them."""
    write(path, [IMAGE] * len(labels), labels)
    if names is not None:
        path.with_name(f"{path.name}.json").write_text(json.dumps({"classes": names}))
    with Beton(path) as beton:
        return Classes.of(beton, **options)  # type: ignore[arg-type]


@pytest.fixture
def train(tmp_path: Path) -> Classes:
    return a_set(tmp_path / "train.beton", [2, 0, 0, 1], ["ant", "bee", "cat"])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1, 2], ["ant", "bee", "cat"]),
        ([0, 1], ["ant", "bee"]),
        ([0, 2], ["ant", "bee", "cat"]),
        ([2, 2], ["x", "y", "cat"]),  # what no sample has is not compared
        ([0, 1, 2], None),
        ([1, 1, 1], ["ant"]),  # a json that names too few
    ],
)
def test_labels_that_mean_the_same_differ_in_nothing(
    train: Classes, tmp_path: Path, labels: list[int], names: list[str] | None
) -> None:
    assert difference(train, a_set(tmp_path / "val.beton", labels, names)) == ""


def test_the_first_label_that_means_something_else_is_named(train: Classes, tmp_path: Path) -> None:
    val = a_set(tmp_path / "val.beton", [0, 1, 2], ["ant", "cat", "dog"])
    assert difference(train, val) == (
        f"label 1 is 'cat' in {tmp_path}/val.beton, but 'bee' in {tmp_path}/train.beton (2 of 3 labels differ)"
    )
    alone = a_set(tmp_path / "alone.beton", [0, 1], ["ant", "cat"])
    assert difference(train, alone).endswith("but 'bee' in " + train.whose)


def test_a_label_beyond_the_known_classes_differs_with_a_name_and_without(
    train: Classes, tmp_path: Path
) -> None:
    named = a_set(tmp_path / "a.beton", [0, 3], ["ant", "bee", "cat", "dog"])
    assert (
        difference(train, named)
        == f"{named.whose} has a label 3 ('dog'), but {train.whose} the classes 0 to 2"
    )
    bare = a_set(tmp_path / "b.beton", [0, 1 << 40])
    assert f"has a label {1 << 40}, but" in difference(train, bare)
    assert "has a label -1, but" in difference(train, a_set(tmp_path / "c.beton", [-1]))


def test_without_names_another_number_of_classes_is_a_doubt(train: Classes, tmp_path: Path) -> None:
    bare = a_set(tmp_path / "val.beton", [0, 1])
    expected = f"{bare.whose} has 2 classes and {train.whose} 3, and no class names show whether the labels mean the same"
    assert (difference(train, bare), doubt(train, bare)) == ("", expected)
    assert difference(bare, train) == "" and "has 3 classes" in doubt(bare, train)
    assert doubt(train, a_set(tmp_path / "same.beton", [2, 0])) == ""
    assert doubt(train, a_set(tmp_path / "named.beton", [0], ["ant"])) == ""


def test_labels_are_each_listed_once_however_large_they_are(tmp_path: Path) -> None:
    for labels in ([5, 0, 5], [1 << 60, 3, 3], [-(1 << 60), 1 << 60]):
        assert a_set(tmp_path / "a.beton", labels).labels.tolist() == sorted(set(labels))


def test_names_are_read_when_asked_for_and_not_kept(tmp_path: Path) -> None:
    """The sidecar of 1.28 million samples takes 120 MB; only the first rank reads it."""
    path = tmp_path / "a.beton"
    assert a_set(path, [0, 1], ["ant", "bee"]).names == ["ant", "bee"]
    with Beton(path) as beton:
        Classes.of(beton)
        assert "sidecar" not in vars(beton)
    path.with_name("a.beton.json").write_text("{")
    with Beton(path) as beton:
        assert Classes.of(beton, named=False).trouble == ""
        assert "cannot read" in Classes.of(beton).trouble


@pytest.mark.parametrize("names", [3, {"ant": 0}, [1, 2], ["ant", None]])
def test_what_is_not_a_list_of_names_gives_no_names(tmp_path: Path, names: object) -> None:
    assert a_set(tmp_path / "a.beton", [0, 1], names).names == []


def test_control_characters_in_names_are_escaped(train: Classes, tmp_path: Path) -> None:
    odd = a_set(tmp_path / "val.beton", [0], ["a\n\x1b[2J" + "x" * 10_000])
    assert (found := difference(train, odd)).isprintable() and len(found) < 500


def test_of_several_ints_the_names_are_those_of_the_label_that_packers_write(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [IMAGE] * 2, [0, 1], [("fine", [7, 8])])
    sidecar = {"classes": ["ant", "bee"]}
    with Beton(path, label_field="label") as beton:
        assert class_names(beton, sidecar) == ["ant", "bee"]
    with Beton(path, label_field="fine") as beton:
        assert class_names(beton, sidecar) == []


def test_the_classes_of_a_packed_file_are_none_if_nothing_names_them(tmp_path: Path) -> None:
    a_set(tmp_path / "named.beton", [0], ["ant"])
    a_set(tmp_path / "bare.beton", [0])
    (tmp_path / "corrupt.beton").write_bytes(b"x")
    found = [packed_classes(tmp_path / f"{name}.beton") for name in ("named", "bare", "corrupt", "missing")]
    assert found == [["ant"], None, None, None]


def test_classes_without_an_image_are_named() -> None:
    assert without_images([0, 1, 1], ["ant", "bee"]) == ""
    assert without_images([0], ["ant", "bee"]) == "no image of 'bee', of 2 classes"
    assert without_images([1], ["ant", "bee", "cat", "dog"]) == "no image of 'ant' and 2 more, of 4 classes"
