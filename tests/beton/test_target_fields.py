"""What a target is in the file and in a batch, and what a task cannot learn from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast import Loader
from alexnet_fast.augment import Mix
from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.columns import type_of
from alexnet_fast.beton.reader import Beton, FieldError
from alexnet_fast.beton.target_fields import FLOAT, INT, TARGET_FIELDS, TARGETS, described, misfit
from alexnet_fast.packing.columns import packed
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import jpeg, picture, write

IMAGES = [jpeg(picture(64, 48, seed)) for seed in range(4)]
NUMBERS = [0.5, -1.25, 1 / 3, 3e5]


@pytest.mark.parametrize("target", TARGET_FIELDS.values(), ids=lambda target: target.name)
def test_what_the_file_stores_fits_into_a_batch(target: object) -> None:
    assert (
        isinstance(target, type(INT)) and target.dtype.itemsize <= fmt.METADATA[target.type_id].itemsize == 8
    )


def test_without_an_int_the_only_float_is_the_label_and_batches_have_it_as_float32(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.beton", IMAGES, NUMBERS)
    with Beton(path) as beton:
        assert (beton.label_field, beton.target_field) == ("label", FLOAT)
        assert beton.labels.dtype == np.float64 and beton.labels.tolist() == NUMBERS
        with pytest.raises(FieldError, match="has no classes: its label 'label' is a float"):
            _ = beton.num_classes
    with Loader(path, 3, train=False, size=8, threads=1) as loader:
        batches = [batch.labels for batch in loader]
        with pytest.raises(FieldError, match="has no classes"):
            _ = loader.num_classes
    assert [labels.dtype for labels in batches] == [torch.float32] * 2
    assert torch.cat(batches).tolist() == np.float32(NUMBERS).tolist()


def test_next_to_an_int_a_float_is_the_label_if_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", IMAGES, [3, 1, 4, 1], [("score", NUMBERS)])
    with Beton(path) as beton:
        assert (beton.label_field, beton.labels.tolist()) == ("label", [3, 1, 4, 1])
    with Loader(path, 4, train=True, size=8, threads=1, label_field="score") as loader:
        (batch,) = loader
        assert loader.beton.target_field is FLOAT
        assert sorted(batch.labels.tolist()) == sorted(np.float32(NUMBERS).tolist())


def test_of_several_floats_the_label_has_to_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", IMAGES, NUMBERS, [("score", NUMBERS[::-1])])
    with pytest.raises(
        FieldError, match="has 2 float fields, and one of them is the label.*'label' or 'score'"
    ):
        Beton(path)
    with Beton(path, label_field="score") as beton:
        assert beton.labels.tolist() == NUMBERS[::-1]


def test_a_batch_without_a_skipped_sample_is_without_its_float_label(tmp_path: Path) -> None:
    broken = [*IMAGES]
    broken[1] = broken[1][:40] + bytes(len(broken[1]) - 40)
    path = write(
        tmp_path / "a.beton", [write_size(each, IMAGES[k]) for k, each in enumerate(broken)], NUMBERS
    )
    with Loader(path, 4, train=False, size=8, threads=1, on_error="skip") as loader:
        (batch,) = loader
    assert batch.labels.tolist() == np.float32([0.5, 1 / 3, 3e5]).tolist()
    assert batch.indices.tolist() == [0, 2, 3]


def test_float_labels_and_indices_of_a_batch_do_not_share_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", IMAGES, NUMBERS)
    with Loader(path, 3, train=True, size=7, threads=2, indices=[3, 1, 1, 0, 2, 3], seed=5) as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            for batch in loader:
                assert batch.labels.tolist() == np.float32(NUMBERS)[batch.indices.numpy()].tolist()
                assert batch.indices.dtype == torch.int64 and len(batch.indices) == 3


def write_size(stored: bytes, whole: bytes) -> object:
    """An entry of bytes that no longer tell their size."""
    from dataclasses import replace

    from betons import Entry

    return replace(Entry.of(whole), payload=stored)


@pytest.mark.parametrize(
    ("labels", "task", "outputs", "sentence"),
    [
        (
            [0, 1, 2, 2], "classification", 2,
            "a label 2, but model.num_classes = 2 allows 0 to 1: set model.num_classes = 3",
        ),
        (
            [0, -1, 2, 2], "classification", 3,
            "a label -1, but model.num_classes = 3 allows 0 to 2: pack the set again",
        ),
        (
            NUMBERS, "classification", 1000,
            "a label field 'label' of type float, but model.task = \"classification\" learns from type int: set model.task = "
            '"regression" and model.num_classes = 1',
        ),
        (
            [0, 1, 2, 3], "regression", 1,
            "a label field 'label' of type int, but model.task = \"regression\" learns from type float: set model.task = "
            '"classification", or pack it from a list with --label-type float',
        ),
        (
            NUMBERS, "regression", 1000,
            "one number for each image, but model.num_classes = 1000 gives 1000 outputs: set model.num_classes = 1",
        ),
        (
            [0.5, math.nan, 1.0, math.inf], "regression", 1,
            "a label nan (sample 1) and 1 more like it, but only a finite number can be learned: correct or remove it, and pack the "
            "set again",
        ),
        (
            [0.5, 1.0, -1e300, 2.0], "regression", 1,
            "a label -1e+300 (sample 2), but labels are learned as float32, up to 3.4e+38: write the labels in another unit and "
            "pack the set again",
        ),
    ],
)  # fmt: skip
def test_the_error_for_a_file_that_a_task_cannot_learn_from_says_what_to_do(
    tmp_path: Path, labels: list[float], task: str, outputs: int, sentence: str
) -> None:
    with Beton(write(tmp_path / "a.beton", IMAGES, labels)) as beton:
        found = misfit(beton, task, outputs)
    assert found is not None and f"{found.has}, but {found.but}: {found.remedy}" == sentence


def test_the_error_for_a_file_with_the_right_type_in_another_field_names_that_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", IMAGES, [3, 1, 4, 1], [("score", NUMBERS)])
    with Beton(path) as beton, Beton(path, label_field="score") as scores:
        found, other = misfit(beton, "regression", 1), misfit(scores, "classification", 5)
        assert misfit(scores, "regression", 1) is None and misfit(beton, "classification", 5) is None
        assert described(beton) == "labels 1 to 4" and described(scores) == "labels -1.25 to 300000"
    assert found is not None and found.remedy.startswith('set data.label_field = "score"')
    assert other is not None and other.flags == "--set data.label_field=label"


@pytest.mark.parametrize("task", TARGETS)
def test_examples_are_targets_that_the_task_learns_from(task: str, tmp_path: Path) -> None:
    target = TARGETS[task]
    for outputs in (5,) if task == "classification" else (1, 5):
        examples, field = target.examples(12, outputs), target.field_for(outputs)
        assert examples.dtype == field.dtype and examples.shape == (12, *field.shape)
        assert target.takes(field) and target.misfit(examples, outputs) is None
        different = {"classification": 5, "regression": 12, "multilabel": min(3, 1 + outputs)}[task]
        assert len(np.unique(examples, axis=0)) == different


def vectors(folder: Path, values: list[list[float]], words: str = "float32[3]", label: str = "label") -> Path:
    """A beton of images and vectors, and of an int where the vector is not called label."""
    for k, image in enumerate(IMAGES):
        (folder / f"{k}.jpg").write_bytes(image)
    column = packed(label, type_of(words), [("", value) for value in values])
    labels = [] if label == "label" else [1, 0, 1, 1]
    split = ImageFolder(folder, [f"{k}.jpg" for k in range(4)], labels, [], columns=(column,))
    return write_beton(split, folder / "vectors.beton", Encoding(), workers=1).path


TAGS = [[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("words", ["float32[3]", "float64[3]", "uint8[3]"])
def test_a_vector_that_is_the_label_comes_in_batches_of_float32(tmp_path: Path, words: str) -> None:
    path = vectors(tmp_path, TAGS, words)
    with Beton(path) as beton:
        assert (beton.label_field, beton.target_field.name, beton.target_field.shape) == (
            "label",
            "vector",
            (3,),
        )
        assert beton.labels.tolist() == TAGS and described(beton) == "3 labels each, 0 to 1"
        with pytest.raises(FieldError, match="has no classes: its label 'label' is a vector"):
            _ = beton.num_classes
    with Loader(path, 3, train=True, size=8, threads=2, indices=[3, 1, 1, 0, 2, 3]) as loader:
        for batch in loader:
            assert batch.labels.dtype is torch.float32 and batch.labels.shape == (3, 3)
            assert batch.labels.tolist() == [TAGS[k] for k in batch.indices.tolist()]
        assert loader.get([2, 0]).labels.tolist() == [TAGS[2], TAGS[0]]
        assert loader[1][1].tolist() == TAGS[1] and loader.dataset[1][1] == TAGS[1]


def test_mixed_vectors_are_blended_sample_by_sample(tmp_path: Path) -> None:
    with Loader(vectors(tmp_path, TAGS), 4, train=True, size=8, threads=1, mix=Mix(mixup=1.0)) as loader:
        (batch,) = loader
        own = torch.tensor(TAGS, dtype=torch.float32)[batch.indices]
        shares = (batch.labels - own.roll(1, 0)) / (own - own.roll(1, 0))
        shares = shares[shares.isfinite()]
        assert len(shares) and torch.allclose(shares, shares[0].expand_as(shares), atol=1e-5)


def test_next_to_an_int_a_vector_is_the_label_if_it_is_named(tmp_path: Path) -> None:
    path = vectors(tmp_path, TAGS, label="tags")
    with Beton(path) as beton, Beton(path, label_field="tags") as tagged:
        assert beton.labels.tolist() == [1, 0, 1, 1] and tagged.labels.tolist() == TAGS
        found = misfit(beton, "multilabel", 3)
        assert misfit(tagged, "multilabel", 3) is None and misfit(tagged, "regression", 3) is None
    assert found is not None and found.remedy.startswith('set data.label_field = "tags"')


@pytest.mark.parametrize(
    ("values", "task", "outputs", "sentence"),
    [
        (TAGS, "multilabel", 1000, "3 numbers for each image, but model.num_classes = 1000 gives 1000 outputs: set model.num_classes = 3"),
        (
            [[0, 1, 2.5], *TAGS[1:]], "multilabel", 3,
            'a label 2.5 (sample 0), but model.task = "multilabel" learns from 0 to 1 for each label: set model.task = "regression", or '
            "pack the set again",
        ),
        (
            TAGS, "classification", 3,
            "a label field 'label' of type vector, but model.task = \"classification\" learns from type int: set model.task = "
            '"multilabel"',
        ),
        (
            [[0, -1, 2.5], *TAGS[1:]], "classification", 10,
            "a label field 'label' of type vector, but model.task = \"classification\" learns from type int: set model.task = "
            '"regression" and model.num_classes = 3',
        ),
        (
            [*TAGS[:2], [0, math.nan, 1], TAGS[3]], "regression", 3,
            "a label nan (sample 2), but only a finite number can be learned: correct or remove it, and pack the set again",
        ),
    ],
)  # fmt: skip
def test_the_error_for_vectors_that_a_task_cannot_learn_from_says_what_to_do(
    tmp_path: Path, values: list[list[float]], task: str, outputs: int, sentence: str
) -> None:
    with Beton(vectors(tmp_path, values)) as beton:
        found = misfit(beton, task, outputs)
    assert found is not None and f"{found.has}, but {found.but}: {found.remedy}" == sentence


def test_an_int_set_is_no_set_of_several_labels(tmp_path: Path) -> None:
    with Beton(write(tmp_path / "a.beton", IMAGES)) as beton:
        found = misfit(beton, "multilabel", 40)
    assert found is not None and found.remedy == (
        'set model.task = "classification", or pack it with the field label:float32[40]'
    )


def test_an_array_of_two_dimensions_is_no_label(tmp_path: Path) -> None:
    path = vectors(tmp_path, [[[0, 1]]] * 4, "uint8[1,2]", "box")  # type: ignore[list-item]
    with pytest.raises(
        FieldError, match=r"'box' is an array of the shape \[1, 2\], and a label is a number or a vector"
    ):
        Beton(path, label_field="box")
