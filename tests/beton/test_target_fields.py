"""What a target is in the file and in a batch, and what a task cannot learn from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast import Loader
from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import Beton, FieldError
from alexnet_fast.beton.target_fields import FLOAT, INT, TARGET_FIELDS, TARGETS, described, misfit
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
    outputs = 5 if task == "classification" else 1
    target = TARGETS[task]
    examples = target.examples(12, outputs)
    assert examples.dtype == target.field.dtype and len(examples) == 12
    assert target.misfit(examples, outputs) is None and len(np.unique(examples)) == (5 if outputs > 1 else 12)
