"""Fields that are no images: FFCV reads those that we write, and we read its own; what cannot be right is refused in words."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.columns import FLOAT_TYPE, INT_TYPE, array_type, stored_type, type_of
from alexnet_fast.beton.reader import Beton, BetonError, FieldError
from alexnet_fast.packing.columns import Column, packed
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import jpeg, picture, write

COUNT = 9
LABELS = [k * 5 % 4 for k in range(COUNT)]
VALUES: dict[str, tuple[str, list[Any]]] = {
    "index": ("int", [k - (1 << 62) for k in range(COUNT)]),
    "weight": ("float", [0.1 * k for k in range(COUNT)]),
    "attrs": ("float32[5]", [np.arange(5, dtype=np.float32) + k for k in range(COUNT)]),
    "box": ("uint8[2,3]", [np.full((2, 3), k, np.uint8) for k in range(COUNT)]),
    "text": ("bytes", [b"x" * (k % 3 * 700) for k in range(COUNT)]),
    "note": ("json", [{"k": k, "words": ["é"] * k} for k in range(COUNT)]),
}


def columns() -> tuple[Column, ...]:
    return tuple(
        packed(name, type_of(words), [(str(k), value) for k, value in enumerate(values)])
        for name, (words, values) in VALUES.items()
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our file of images, labels and every type of field; images of one size, as ffcv's decoder wants them."""
    folder = tmp_path_factory.mktemp("ours")
    for k in range(COUNT):
        (folder / f"{k}.jpg").write_bytes(jpeg(picture(200, 152, k)))
    split = ImageFolder(folder, [f"{k}.jpg" for k in range(COUNT)], LABELS, list("abcd"), columns=columns())
    return write_beton(split, folder / "ours.beton", Encoding(), workers=1).path


def check_values(path: Path) -> None:
    with Beton(path, label_field="label") as beton, beton.unchanged:
        assert beton.labels.tolist() == LABELS
        for name, (_, values) in VALUES.items():
            places = np.array([4, 0, 8, 4])
            found = beton.column(name).take(places)
            for value, k in zip(found, places.tolist(), strict=True):
                assert np.array_equal(value, values[k]) if name in ("attrs", "box") else value == values[k]


def test_we_read_the_fields_that_we_write(ours: Path) -> None:
    check_values(ours)
    with Beton(ours) as beton:
        assert beton.label_field == "label", "our packer marks it, although there is another int"
        kinds = [field.kind for field in beton.fields]
        assert kinds == ["RGB image", "int", "int", "float", "ndarray", "ndarray", "bytes", "JSON"]
        attrs, box = (beton.column(name).take(np.arange(COUNT)) for name in ("attrs", "box"))
        assert isinstance(attrs, np.ndarray) and (attrs.dtype, attrs.shape) == (np.float32, (COUNT, 5))
        assert isinstance(box, np.ndarray) and (box.dtype, box.shape) == (np.uint8, (COUNT, 2, 3))


def test_ffcvs_reader_finds_the_fields_that_we_write(ours: Path, require: Callable[[str], Any]) -> None:
    require("ffcv")
    from ffcv.memory_managers.os_cache import OSCacheManager
    from ffcv.reader import Reader

    reader = Reader(str(ours))
    assert [type(each).__name__ for each in reader.handlers.values()] == [
        "RGBImageField", "IntField", "IntField", "FloatField", "NDArrayField", "NDArrayField", "BytesField", "BytesField",
    ]  # fmt: skip  # its JSONField reads as a BytesField
    assert reader.field_names == ["image", "label", *VALUES]
    assert (reader.handlers["attrs"].dtype, reader.handlers["attrs"].shape) == (np.float32, (5,))
    assert (reader.handlers["box"].dtype, reader.handlers["box"].shape) == (np.uint8, (2, 3))
    assert reader.metadata["f1"].tolist() == LABELS and reader.metadata["f2"].tolist() == VALUES["index"][1]
    manager, content = OSCacheManager(reader), np.fromfile(ours, np.uint8)
    assert all(len(pages) == 1 for pages in manager.sample_to_pages.values())

    def read(address: int) -> bytes:  # as the function that FFCV compiles
        return content[address:][: manager.sizes[np.searchsorted(manager.ptrs, address)]].tobytes()

    for k in range(COUNT):
        row = reader.metadata[k]
        assert read(row["f4"]) == VALUES["attrs"][1][k].tobytes()
        assert read(row["f5"]) == VALUES["box"][1][k].tobytes()
        assert read(row["f6"]["ptr"])[: row["f6"]["size"]] == VALUES["text"][1][k]
        assert read(row["f7"]["ptr"]) == json.dumps(VALUES["note"][1][k]).encode() + b"\0"


@pytest.mark.long  # ffcv compiles each field's decoder
@pytest.mark.parametrize("os_cache", [True, False])
def test_ffcvs_loader_reads_the_fields_that_we_write(
    ours: Path, os_cache: bool, require: Callable[[str], Any]
) -> None:
    require("ffcv")
    from ffcv.fields import JSONField
    from ffcv.fields.basics import FloatDecoder, IntDecoder
    from ffcv.fields.bytes import BytesDecoder
    from ffcv.fields.ndarray import NDArrayDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    decoders = {
        "image": SimpleRGBImageDecoder, "label": IntDecoder, "index": IntDecoder, "weight": FloatDecoder, "attrs": NDArrayDecoder,
        "box": NDArrayDecoder, "text": BytesDecoder, "note": BytesDecoder,
    }  # fmt: skip
    loader = Loader(
        str(ours),
        batch_size=3,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        os_cache=os_cache,
        pipelines={name: [decoder()] for name, decoder in decoders.items()},
    )
    parts = [[part.copy() for part in batch] for batch in loader]
    images, labels, index, weight, attrs, box, text, note = (np.concatenate(each) for each in zip(*parts))
    assert len(images) == COUNT and labels.ravel().tolist() == LABELS
    assert index.ravel().tolist() == VALUES["index"][1] and weight.ravel().tolist() == VALUES["weight"][1]
    assert np.array_equal(attrs, np.stack(VALUES["attrs"][1]))
    assert np.array_equal(box, np.stack(VALUES["box"][1]))
    assert JSONField.unpack(note) == VALUES["note"][1]
    with Beton(ours) as beton:  # ffcv hands out bytes with whatever its buffer held behind them
        sizes = [len(value) for value in VALUES["text"][1]]
        assert [row[:size].tobytes() for row, size in zip(text, sizes)] == VALUES["text"][1]
        assert beton.column("text").take(np.arange(COUNT)) == VALUES["text"][1]


@pytest.mark.parametrize("workers", [1, 2])
def test_we_read_the_fields_that_ffcv_writes(
    tmp_path: Path, workers: int, require: Callable[[str], Any]
) -> None:
    require("ffcv")
    import torch
    from ffcv.fields import (
        BytesField,
        FloatField,
        IntField,
        JSONField,
        NDArrayField,
        RGBImageField,
        TorchTensorField,
    )
    from ffcv.writer import DatasetWriter

    of_type = {
        "int": IntField(), "float": FloatField(), "bytes": BytesField(), "json": JSONField(),
        "float32[5]": NDArrayField(np.dtype("<f4"), (5,)), "uint8[2,3]": NDArrayField(np.dtype("u1"), (2, 3)),
    }  # fmt: skip
    fields = {name: of_type[words] for name, (words, _) in VALUES.items()}
    fields |= {"tensor": TorchTensorField(torch.float16, (2,)), "label": IntField()}
    fields["image"] = RGBImageField(write_mode="jpg")
    arrays = [np.frombuffer(value, np.uint8) for value in VALUES["text"][1]]
    rows = [
        (*(arrays[k] if name == "text" else values[k] for name, (_, values) in VALUES.items()),
         torch.tensor([k, -0.5]).half(), LABELS[k], picture(64, 48, k))
        for k in range(COUNT)
    ]  # fmt: skip
    DatasetWriter(str(tmp_path / "theirs.beton"), fields, num_workers=workers).from_indexed_dataset(
        rows, chunksize=2
    )
    check_values(tmp_path / "theirs.beton")
    with pytest.raises(FieldError, match="has 2 int fields"):
        Beton(tmp_path / "theirs.beton")
    with Beton(tmp_path / "theirs.beton", label_field="label") as beton:
        tensors = beton.column("tensor").take(np.arange(COUNT))
        assert isinstance(tensors, np.ndarray)
        assert tensors.dtype == np.float16 and tensors.tolist() == [[k, -0.5] for k in range(COUNT)]


def test_a_sample_and_its_fields_are_in_one_page(tmp_path: Path) -> None:
    """Eleven raw images of 750 kB fill a page but for 138 kB, so a field of 200 kB takes its image to the next."""
    (tmp_path / "images").mkdir()
    for k in range(12):
        picture(500, 500, k % 3).save(tmp_path / f"images/{k}.bmp")
    blobs = Column("text", type_of("bytes"), [b"a" * 10] * 10 + [b"b" * 200_000, b""])
    split = ImageFolder(
        tmp_path / "images", [f"{k}.bmp" for k in range(12)], [0] * 12, ["only"], columns=(blobs,)
    )
    write_beton(split, tmp_path / "a.beton", Encoding(mode="raw"), workers=1)
    with Beton(tmp_path / "a.beton") as beton:
        assert [*beton.column("text").take(np.arange(12))] == blobs.values
        starts = beton.images["data_ptr"].astype(np.int64)
        ends = beton.column("text")._places(slice(None))[0].astype(np.int64)
        assert (starts // beton.page_size == ends // beton.page_size).all()
        assert starts[10] % beton.page_size == 0 and ends[11] == starts[11] + 750_000


@pytest.mark.parametrize(
    ("words", "value", "said"),
    [
        ("int", 1.5, "1.5 (float) is not a whole number"),
        ("int", 1 << 63, "does not fit into 64 bits"),
        ("float", "2", "'2' (str) is not a number"),
        ("float32[3]", [1, 2], "is an array of int64 of shape (2,), expected float32[3]"),
        ("float32[2]", [1e39, 0], "does not fit into float32[2]"),
        ("uint8[2]", [1, 300], "does not fit into uint8[2]"),
        ("uint8[1]", [0.5], "does not fit into uint8[1]"),
        ("float32[2]", ["a", "b"], "expected float32[2]"),
        ("bytes", "text", "'text' (str) is neither bytes nor"),
        ("json", {1, 2}, "is no JSON"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_was_given(words: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        type_of(words).pack(value)
    assert said in str(caught.value)


def test_scalars_of_numpy_are_numbers() -> None:
    assert (
        repr(INT_TYPE.pack(True)) == "1"
        and INT_TYPE.pack(np.int32(7)) == 7
        and FLOAT_TYPE.pack(np.float32(0.5)) == 0.5
    )
    assert array_type("float64", 2).pack([1, 2]) == np.array([1.0, 2.0]).tobytes()


@pytest.mark.parametrize(
    "words", ["str", "float32", "float32[]", "float32[0]", "complex64[2]", "[3]", "int[3]", ""]
)
def test_a_type_that_is_none_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        type_of(words)


def descriptor_args(shape: list[int], text: bytes) -> np.ndarray:
    args = struct.pack("<33Q", *shape, *[0] * (32 - len(shape)), len(text)) + text
    return np.frombuffer(args.ljust(1024, b"\0"), np.uint8)


@pytest.mark.parametrize(
    ("shape", "text", "said"),
    [
        ([3], b"nonsense", "of no dtype"),
        ([3], b'[["", "|O"]]', "only arrays of numbers"),
        ([3], b'[["a", "<f4"], ["b", "<f4"]]', "of no dtype"),
        ([3], b'[["", "<f4", [9]]]', "of no dtype"),
        ([], b'[["", "<f4"]]', "of the shape"),
        ([1 << 40, 1 << 40], b'[["", "<f4"]]', "of the shape"),
        ([0, 3], b'[["", "<f4"]]', "of the shape"),
        ([3], b"[" * 700, "of no dtype"),
    ],
)
def test_an_array_that_a_hostile_file_describes_is_refused(shape: list[int], text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stored_type(fmt.NDARRAY_ID, descriptor_args(shape, text))


def test_a_field_that_is_not_there_or_is_an_image_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 48))])
    with Beton(path) as beton:
        with pytest.raises(FieldError, match="has no field of the name 'attrs': it has 'image'"):
            beton.column("attrs")
        with pytest.raises(FieldError, match="the field 'image' is an image"):
            beton.column("image")


@pytest.mark.parametrize("place", [0, 1 << 63, (1 << 64) - 8])
def test_a_pointer_that_leads_out_of_the_pages_is_refused(ours: Path, tmp_path: Path, place: int) -> None:
    with Beton(ours) as beton:
        _, records, _ = beton._index
        dtype, start = records.dtype, fmt.metadata_offset(len(beton.fields))
    content = bytearray(ours.read_bytes())
    offset = dtype.fields["f4"][1]  # type: ignore[index]
    struct.pack_into("<Q", content, start + 6 * dtype.itemsize + offset, place)
    (tmp_path / "bad.beton").write_bytes(content)
    with Beton(tmp_path / "bad.beton") as beton:
        assert len(beton.column("note").take(np.arange(COUNT))) == COUNT
        with pytest.raises(BetonError, match="the field 'attrs' of sample 6 is impossible"):
            beton.column("attrs")


def test_json_that_is_none_names_its_sample(ours: Path, tmp_path: Path) -> None:
    content = ours.read_bytes()
    good = json.dumps(VALUES["note"][1][3]).encode()
    assert content.count(good) == 1
    (tmp_path / "bad.beton").write_bytes(content.replace(good, b"[" * len(good)))
    with (
        Beton(tmp_path / "bad.beton") as beton,
        pytest.raises(BetonError, match="the field 'note' of sample 3 cannot be read"),
    ):
        beton.column("note").take(np.array([0, 3]))
