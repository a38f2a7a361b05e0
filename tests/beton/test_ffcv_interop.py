"""ffcv 1.0.2 reads what we write, and we read what it writes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast import Loader
from alexnet_fast.beton import format as fmt
from alexnet_fast.beton.reader import Beton, FieldError
from alexnet_fast.packing.encode import Encoding
from alexnet_fast.packing.sources.list_file import ListDataset
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import difference, jpeg, picture, pixels, read_with_ffcv

SIZES = [(64, 48), (48, 64), (65, 33), (100, 100), (200, 150), (17, 16)]

DARKER = 1.3  # levels: ffcv's decoder is about one too dark in red and in blue, whoever wrote the JPEG


@pytest.fixture(scope="module", autouse=True)
def ffcv(require: Callable[[str], Any]) -> Any:
    """The reference of every test here."""
    return require("ffcv")


class Pictures:
    """The input of ffcv's writer: a dataset of tuples in the order of the fields."""

    def __init__(self, *columns: list[Any]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(column[index] for column in self.columns)


def write_with_ffcv(path: Path, fields: dict[str, tuple[Any, list[Any]]], workers: int = 1) -> Path:
    from ffcv.writer import DatasetWriter

    columns = [column for _, column in fields.values()]
    writer = DatasetWriter(
        str(path), {name: field for name, (field, _) in fields.items()}, num_workers=workers
    )
    writer.from_indexed_dataset(Pictures(*columns), chunksize=2)
    return path


def originals() -> list[Image.Image]:
    return [picture(width, height, seed) for seed, (width, height) in enumerate(SIZES)]


@pytest.mark.parametrize("mode", ["jpg", "raw", "proportion"])
@pytest.mark.parametrize("order", [("image", "label"), ("label", "image")])
def test_we_read_what_ffcv_writes(tmp_path: Path, mode: str, order: tuple[str, str]) -> None:
    from ffcv.fields import IntField, RGBImageField

    labels = [3, 1, 4, 1, 5, 9]
    fields = {
        "image": (RGBImageField(write_mode=mode, jpeg_quality=95), originals()),
        "label": (IntField(), labels),
    }
    path = write_with_ffcv(tmp_path / "theirs.beton", {name: fields[name] for name in order}, workers=2)
    with Beton(path) as beton:
        assert beton.labels.tolist() == labels
        assert list(zip(beton.images["width"].tolist(), beton.images["height"].tolist())) == SIZES
        if mode != "proportion":
            assert set(beton.images["mode"].tolist()) == {fmt.RAW if mode == "raw" else fmt.JPEG}
        for i, original in enumerate(originals()):
            stored = beton.payload(i)
            if beton.images["mode"][i] == fmt.RAW:
                assert np.array_equal(stored.reshape(np.asarray(original).shape), np.asarray(original))
            else:
                assert difference(pixels(stored.tobytes()), np.asarray(original)) < 5


def test_we_read_a_page_of_ffcvs_that_one_sample_fills(tmp_path: Path) -> None:
    """8,388,606 bytes of 8,388,608; ffcv refuses to write an image that is larger than a page."""
    from ffcv.fields import IntField, RGBImageField

    images = [picture(64, 48), Image.new("RGB", (1366, 2047), (1, 2, 3)), picture(48, 64)]
    fields = {"image": (RGBImageField(write_mode="raw"), images), "label": (IntField(), [0, 1, 2])}
    with Beton(write_with_ffcv(tmp_path / "theirs.beton", fields)) as beton:
        assert beton.page_size - beton.sizes[1] == 2
        assert all(beton.payload(i).tobytes() == image.tobytes() for i, image in enumerate(images))


def test_we_read_a_file_of_more_fields(tmp_path: Path) -> None:
    from ffcv.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField

    fields = {
        "weight": (FloatField(), [0.5 * k for k in range(6)]),
        "text": (BytesField(), [np.arange(k + 1, dtype=np.uint8) for k in range(6)]),
        "image": (RGBImageField(write_mode="jpg"), originals()),
        "box": (NDArrayField(np.dtype("<f4"), (4,)), [np.full(4, k, np.float32) for k in range(6)]),
        "label": (IntField(), list(range(10, 16))),
        "note": (JSONField(), [{"k": k} for k in range(6)]),
    }
    with Beton(write_with_ffcv(tmp_path / "many.beton", fields)) as beton:
        assert [field.kind for field in beton.fields] == [
            "float",
            "bytes",
            "RGB image",
            "ndarray",
            "int",
            "JSON",
        ]
        assert beton.labels.tolist() == list(range(10, 16))
        for i, original in enumerate(originals()):
            assert difference(pixels(beton.payload(i).tobytes()), np.asarray(original)) < 5


INDEX, FINE, COARSE = list(range(1000, 1006)), [3, 1, 4, 1, 5, 9], [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("ints", "right"),
    [({"index": INDEX, "label": FINE}, "label"), ({"fine": FINE, "coarse": COARSE}, "coarse")],
)
def test_of_several_ints_that_ffcv_wrote_the_label_is_the_one_that_is_named(
    tmp_path: Path, ints: dict[str, list[int]], right: str
) -> None:
    """{index, image, label} is what FFCV's authors recommend."""
    from ffcv.fields import IntField, RGBImageField

    (first, *rest) = ((name, (IntField(), values)) for name, values in ints.items())
    fields = dict([first, ("image", (RGBImageField(write_mode="jpg"), originals())), *rest])
    path = write_with_ffcv(tmp_path / "several.beton", fields)
    listed = f"'{first[0]}' (int), 'image' (RGB image), '{right}' (int)"
    with pytest.raises(FieldError) as caught:
        Beton(path)
    assert f"has 2 int fields, and one of them is the label: it has {listed}" in str(caught.value)
    assert f"give label_field = '{first[0]}' or '{right}' (in a recipe data.label_field" in str(caught.value)
    for name, values in ints.items():
        with Beton(path, label_field=name) as beton:
            assert beton.labels.tolist() == values and beton.label_field == name
        with Loader(path, 4, train=False, size=8, threads=1, label_field=name) as loader:
            assert [int(label) for batch in loader for label in batch.labels] == values


@pytest.mark.parametrize("next_to", [[], ["label"]])
def test_a_float_that_ffcv_wrote_is_the_label_alone_or_if_it_is_named(
    tmp_path: Path, next_to: list[str]
) -> None:
    from ffcv.fields import FloatField, IntField, RGBImageField

    scores = [0.5, -1.25, 1 / 3, 3e5, 0.0, 1e-300]
    fields = {
        "score": (FloatField(), scores),
        "image": (RGBImageField(write_mode="raw"), originals()),
        **{name: (IntField(), FINE) for name in next_to},
    }
    path = write_with_ffcv(tmp_path / "floats.beton", fields, workers=2)
    with Beton(path, label_field="score" if next_to else None) as beton:
        assert (beton.label_field, beton.labels.tolist()) == ("score", scores)
        assert [beton.payload(i).tobytes() for i in range(6)] == [image.tobytes() for image in originals()]
    for name, expected in (("score", np.float32(scores).tolist()), *((name, FINE) for name in next_to)):
        with Loader(path, 4, train=False, size=8, threads=1, label_field=name) as loader:
            assert [label.item() for batch in loader for label in batch.labels] == expected
    if next_to:
        with Beton(path) as beton:
            assert beton.labels.tolist() == FINE, "the int, as before"


def test_ffcvs_loader_reads_the_floats_that_we_pack(tmp_path: Path) -> None:
    numbers = [0.5, -1.25, 1 / 3, 3e5, 0.0, 1e-300, 7.0, 1e300]
    for k in range(8):
        (tmp_path / f"{k}.jpg").write_bytes(jpeg(picture(64, 48, k)))
    (tmp_path / "train.txt").write_text("".join(f"{k}.jpg {number!r}\n" for k, number in enumerate(numbers)))
    split = ListDataset(tmp_path, tmp_path / "train.txt").open("train")
    path = write_beton(split, tmp_path / "ours.beton", Encoding(mode="raw"), workers=1).path
    for os_cache in (True, False):
        images, labels = read_with_ffcv(path, os_cache=os_cache, floats=True)
        assert labels.dtype == np.float64 and labels.tolist() == numbers
        with Beton(path) as beton:
            assert beton.labels.tolist() == numbers
            assert [image.tobytes() for image in images] == [beton.payload(k).tobytes() for k in range(8)]


def test_of_two_images_that_ffcv_wrote_the_pixels_are_of_the_one_that_is_named(tmp_path: Path) -> None:
    from ffcv.fields import IntField, RGBImageField

    left, right = originals(), originals()[::-1]
    fields = {
        "left": (RGBImageField(write_mode="raw"), left),
        "right": (RGBImageField(write_mode="raw"), right),
        "label": (IntField(), FINE),
    }
    path = write_with_ffcv(tmp_path / "two.beton", fields)
    with pytest.raises(FieldError, match="has 2 RGB image fields.*; give image_field = 'left' or 'right' "):
        Loader(path, 2, train=False)
    for name, images in (("left", left), ("right", right)):
        with Beton(path, image_field=name) as beton:
            stored = [beton.payload(i).tobytes() for i in range(6)]
            assert stored == [image.tobytes() for image in images] and beton.labels.tolist() == FINE


@pytest.mark.parametrize("order", [("text", "image", "label"), ("image", "text", "label")])
def test_an_empty_bytes_field_of_ffcvs_hides_no_image(tmp_path: Path, order: tuple[str, ...]) -> None:
    """FFCV gives it the pointer of the next payload, so the table has two entries with one pointer."""
    from ffcv.fields import BytesField, IntField, RGBImageField

    fields = {
        "text": (BytesField(), [np.zeros(0, np.uint8)] * 6),
        "image": (RGBImageField(write_mode="raw"), originals()),
        "label": (IntField(), FINE),
    }
    with Beton(write_with_ffcv(tmp_path / "a.beton", {name: fields[name] for name in order})) as beton:
        assert [beton.payload(i).tobytes() for i in range(6)] == [image.tobytes() for image in originals()]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our file of eight pictures of one size (ffcv's full-image decoder wants one), and four of others."""
    folder = tmp_path_factory.mktemp("ours")
    sizes = [(200, 152)] * 8 + [(1, 1), (17, 16), (640, 400), (23 * 16, 19 * 16)]
    for k, (width, height) in enumerate(sizes):
        (folder / f"{k}.jpg").write_bytes(jpeg(picture(width, height, k), quality=95))
    split = ImageFolder(
        folder, [f"{k}.jpg" for k in range(len(sizes))], [k * 7 % 5 for k in range(len(sizes))], list("abcde")
    )
    for mode in ("reencode", "raw"):
        write_beton(split, folder / f"{mode}.beton", Encoding(mode=mode), workers=1)
        alike = ImageFolder(folder, split.paths[:8], split.labels[:8], split.classes)
        write_beton(alike, folder / f"alike-{mode}.beton", Encoding(mode=mode), workers=1)
    return folder


@pytest.mark.parametrize("mode", ["reencode", "raw"])
def test_ffcvs_reader_finds_our_samples(ours: Path, mode: str) -> None:
    from ffcv.reader import Reader

    reader = Reader(str(ours / f"{mode}.beton"))
    with Beton(ours / f"{mode}.beton") as beton:
        assert reader.field_names == ["image", "label"]
        assert reader.metadata["f1"].tolist() == beton.labels.tolist()
        assert reader.metadata["f0"]["width"].tolist() == beton.images["width"].tolist()
        assert reader.metadata["f0"]["data_ptr"].tolist() == beton.images["data_ptr"].tolist()
        assert reader.alloc_table["size"].tolist() == beton.sizes.tolist()


def test_ffcvs_decoder_gives_the_pixels_that_pillow_gives_for_every_size(ours: Path) -> None:
    from ffcv.libffcv import imdecode

    with Beton(ours / "reencode.beton") as beton:
        for i in range(len(beton)):
            width, height = int(beton.images["width"][i]), int(beton.images["height"][i])
            theirs = np.zeros((height, width, 3), np.uint8)
            imdecode(beton.payload(i), theirs, height, width, height, width)
            assert difference(theirs, pixels(beton.payload(i).tobytes())) < DARKER


@pytest.mark.parametrize("mode", ["reencode", "raw"])
def test_ffcvs_loader_delivers_our_labels_and_pixels(ours: Path, mode: str) -> None:
    path = ours / f"alike-{mode}.beton"
    images, labels = read_with_ffcv(path)
    with Beton(path) as beton:
        assert labels.tolist() == beton.labels.tolist()
        for i in range(len(beton)):
            stored = beton.payload(i)
            expected = stored.reshape(152, 200, 3) if mode == "raw" else pixels(stored.tobytes())
            assert difference(images[i], expected) < (DARKER if mode == "reencode" else 1e-9)


def test_pillow_reads_our_jpegs_completely(ours: Path) -> None:
    with Beton(ours / "reencode.beton") as beton:
        for i in range(len(beton)):
            with Image.open(io.BytesIO(beton.payload(i).tobytes())) as image:
                image.load()
                assert image.size == (beton.images["width"][i], beton.images["height"][i])
