"""Batches of several fields: named tuples with the values of the file, whatever hands them out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from alexnet_fast import ImageNet, Loader
from alexnet_fast.augment import Mix
from alexnet_fast.beton.columns import type_of
from alexnet_fast.beton.reader import FieldError
from alexnet_fast.errors import UserError
from alexnet_fast.loader.fields import FieldBatch
from alexnet_fast.packing.columns import Column, packed
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import jpeg, picture

COUNT, SIZE = 13, 16
LABELS = [k * 5 % 3 for k in range(COUNT)]
ATTRS = [[k, -0.5 * k, 1.0] for k in range(COUNT)]
SCORE = [1 / (k + 1) for k in range(COUNT)]
NOTE = [{"k": k, "of": list(range(k))} for k in range(COUNT)]
TEXT = [b"%d" % k * k for k in range(COUNT)]
NAMES = ("image", "label", "attrs", "score", "note", "text")


def columns() -> tuple[Column, ...]:
    of_type = {
        "attrs": ("float32[3]", ATTRS),
        "score": ("float", SCORE),
        "note": ("json", NOTE),
        "text": ("bytes", TEXT),
    }
    return tuple(
        packed(name, type_of(words), [("", value) for value in values])
        for name, (words, values) in of_type.items()  # type: ignore[attr-defined]
    )


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fields")
    for k in range(COUNT):
        (folder / f"{k}.jpg").write_bytes(jpeg(picture(40, 30, k)))
    split = ImageFolder(folder, [f"{k}.jpg" for k in range(COUNT)], LABELS, list("abc"), columns=columns())
    return write_beton(split, folder / "a.beton", Encoding(), workers=1).path


def loader(path: Path, **options: Any) -> Loader:
    options = {"train": False, "size": SIZE, "threads": 1, "fields": NAMES, **options}
    return Loader(path, 4, **options)


def check_batch(batch: Any) -> None:
    """All values are those of the samples that the batch names."""
    places = batch.indices.tolist()
    assert batch._fields == NAMES and isinstance(batch, FieldBatch) and len(batch.image) == len(places)
    assert batch.label.dtype is torch.int64 and batch.label.tolist() == [LABELS[k] for k in places]
    assert batch.attrs.dtype is torch.float32 and batch.attrs.tolist() == [ATTRS[k] for k in places]
    assert batch.score.dtype is torch.float64 and batch.score.tolist() == [SCORE[k] for k in places]
    assert batch.note == [NOTE[k] for k in places] and batch.text == [TEXT[k] for k in places]
    assert batch.images is batch.image and batch.labels is batch.label


@pytest.mark.parametrize("train", [False, True])
def test_a_batch_has_the_fields_that_are_named_with_the_pixels_of_a_pair(beton: Path, train: bool) -> None:
    with loader(beton, train=train) as several, loader(beton, train=train, fields=None) as pairs:
        seen = []
        for batch, (images, labels) in zip(several, pairs, strict=True):
            check_batch(batch)
            assert torch.equal(batch.image, images) and torch.equal(batch.label, labels)  # type: ignore[attr-defined]
            image, label, *_ = batch
            assert image is batch.images and label is batch.labels
            seen += batch.indices.tolist()
        assert sorted(seen) == list(range(COUNT)) if not train else len(set(seen)) == 12


def test_they_may_have_any_order_and_leave_the_label_out(beton: Path) -> None:
    with loader(beton, fields=["note", "image"]) as one:
        batch: Any = next(iter(one))
        assert batch._fields == ("note", "image") and batch.note == NOTE[:4]
        assert batch.images.shape == (4, 3, SIZE, SIZE)
        with pytest.raises(AttributeError, match="do not have the label"):
            _ = batch.labels


def test_samples_by_their_places_have_the_fields(beton: Path) -> None:
    with loader(beton) as one:
        got: Any = one.get([7, 2, 7])
        check_batch(got)
        single: Any = one[7]
        assert single._fields == NAMES and torch.equal(single.image, got.image[0])
        assert (single.label.item(), single.note, single.text) == (LABELS[7], NOTE[7], TEXT[7])
        viewed = one.dataset[7]
        assert viewed._fields == NAMES and viewed.label == LABELS[7] and isinstance(viewed.score, float)
        assert viewed.attrs.tolist() == ATTRS[7] and viewed.note == NOTE[7]


def test_several_files_have_the_fields_of_each_of_their_samples(beton: Path, tmp_path: Path) -> None:
    for name in ("one.beton", "other.beton"):
        (tmp_path / name).write_bytes(beton.read_bytes())
    with loader([tmp_path / "one.beton", tmp_path / "other.beton"]) as one:  # type: ignore[arg-type]
        got: Any = one.get([COUNT + 2, 5, 2 * COUNT - 1, COUNT + 2, 0])
        places = [2, 5, COUNT - 1, 2, 0]
        assert got.attrs.tolist() == [ATTRS[k] for k in places] and got.text == [TEXT[k] for k in places]
        assert got.score.tolist() == [SCORE[k] for k in places] and got.note == [NOTE[k] for k in places]
        assert sum(len(batch.note) for batch in one) == 2 * COUNT  # type: ignore[attr-defined]


def test_several_files_whose_fields_differ_in_type_are_refused_with_both(beton: Path, tmp_path: Path) -> None:
    split = ImageFolder(
        beton.parent,
        ["0.jpg"],
        [0],
        list("abc"),
        columns=(packed("attrs", type_of("float32[2]"), [("", [1, 2])]),),
    )
    other = write_beton(split, tmp_path / "b.beton", Encoding(), workers=1).path
    with pytest.raises(FieldError, match=r"'attrs' is float32\[2\] in .*b.beton and float32\[3\] in"):
        loader([beton, other], fields=("image", "attrs"))  # type: ignore[arg-type]


def test_with_views_the_image_is_a_tuple_and_a_sample_has_one_of_each(beton: Path) -> None:
    with loader(beton, train=True, views=2) as one:
        batch: Any = next(iter(one))
        assert len(batch.image) == 2 and batch.image[0].shape == (4, 3, SIZE, SIZE)
        assert batch.note == [NOTE[k] for k in batch.indices.tolist()]
        sample: Any = one.dataset[7]
        assert [view.shape for view in sample.image] == [(3, SIZE, SIZE)] * 2 and sample.note == NOTE[7]


def test_a_dataloader_over_the_dataset_gives_the_batches(beton: Path) -> None:
    with loader(beton) as one:
        batches = list(DataLoader(one.dataset, batch_sampler=one.batch_sampler, collate_fn=one.collate_fn))  # type: ignore[arg-type]
        assert len(batches) == 4
        for batch in batches:
            check_batch(batch)


def test_on_a_device_and_normalized_the_values_go_along(beton: Path) -> None:
    with loader(beton, normalize=ImageNet) as one:
        host = [batch.image for batch in one]  # type: ignore[attr-defined]
        one.set_epoch(0)
        for batch, images in zip(one.prefetch_to("cpu"), host, strict=True):
            check_batch(batch)
            assert torch.equal(batch.images, images) and batch.images.dtype is torch.float32


def test_with_mix_the_label_is_soft_and_other_fields_are_as_stored(beton: Path) -> None:
    with loader(beton, train=True, mix=Mix(mixup=1.0)) as one:
        batch: Any = next(iter(one))
        assert batch.label.shape == (4, 3) and batch.attrs.tolist() == [
            ATTRS[k] for k in batch.indices.tolist()
        ]


def test_a_sample_that_is_skipped_has_no_values_either(beton: Path, tmp_path: Path) -> None:
    with Loader(beton, 4, train=False) as one:
        ptr = int(one.beton.images["data_ptr"][2])
    content = bytearray(beton.read_bytes())
    content[ptr : ptr + 2] = b"\0\0"
    (tmp_path / "bad.beton").write_bytes(content)
    with loader(tmp_path / "bad.beton", on_error="skip") as one:
        batches: list[Any] = list(one)
        assert [len(batch.note) for batch in batches] == [3, 4, 4, 1] and len(one.skipped) == 1
        for batch in batches:
            check_batch(batch)


def test_a_batch_can_be_pickled_and_made_again_of_its_values(beton: Path) -> None:
    with loader(beton) as one:
        batch: Any = next(iter(one))
        check_batch(pickle.loads(pickle.dumps(batch)))
        moved = type(batch)(*batch)  # as libraries do that move the tensors of a named tuple
        assert moved.note is batch.note
        with pytest.raises(AttributeError, match="has no indices"):
            _ = moved.indices


def test_a_resumed_loader_and_a_copy_hand_out_the_rest_with_their_fields(beton: Path) -> None:
    with loader(beton, train=True) as one:
        batches = iter(one)
        next(batches)
        state, rest = one.state_dict(), [batch.indices.tolist() for batch in batches]
        with pickle.loads(pickle.dumps(one)) as other:
            other.load_state_dict(state)
            found: list[Any] = list(other)
    for batch in found:
        check_batch(batch)
    assert [batch.indices.tolist() for batch in found] == rest


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("image", "expected names of fields"),
        ((), "expected names of fields"),
        (("image", "image"), "expected names of fields"),
        (("label", "attrs"), "are without the image: add 'image'"),
    ],
)
def test_fields_that_are_none_are_refused(beton: Path, fields: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        loader(beton, fields=fields)


def test_a_field_that_the_file_does_not_have_is_refused_with_those_that_it_has(beton: Path) -> None:
    with pytest.raises(
        FieldError,
        match=r"no field of the name 'atrs': it has 'image' \(RGB image\), 'label' \(int\), 'attrs'",
    ):
        loader(beton, fields=("image", "atrs"))


def test_a_second_image_is_refused_and_a_loader_of_its_own_has_the_same_order(
    tmp_path: Path, require: Callable[[str], Any]
) -> None:
    require("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"left": RGBImageField("raw"), "right": RGBImageField("raw"), "label": IntField()}
    rows = [(picture(40, 30, k), picture(40, 30, k + 9), k) for k in range(9)]
    DatasetWriter(str(tmp_path / "two.beton"), fields, num_workers=1).from_indexed_dataset(rows)
    with pytest.raises(
        FieldError, match="'right' is a second image, and a Loader decodes one, 'left'; open another"
    ):
        loader(tmp_path / "two.beton", image_field="left", fields=("left", "right", "label"))
    pair = [
        loader(tmp_path / "two.beton", train=True, image_field=name, fields=(name, "label"))
        for name in ("left", "right")
    ]
    left: Any
    right: Any
    with pair[0], pair[1]:
        for left, right in zip(*pair, strict=True):
            assert left.label.tolist() == right.label.tolist() and not torch.equal(left.left, right.right)


def test_arrays_of_the_other_byte_order_become_tensors(beton: Path, tmp_path: Path) -> None:
    content = beton.read_bytes().replace(b'[["", "<f4"]]', b'[["", ">f4"]]')
    stored, swapped = (np.float32(ATTRS[5]).astype(order).tobytes() for order in ("<f4", ">f4"))
    assert content.count(stored) == 1
    (tmp_path / "big.beton").write_bytes(content.replace(stored, swapped))
    with loader(tmp_path / "big.beton", fields=("image", "attrs")) as one:
        got: Any = one.get([5])
        assert got.attrs.tolist() == [ATTRS[5]]
