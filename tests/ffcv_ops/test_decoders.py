"""Our decoders as operations of a real ffcv 1.0.2 Loader: its arguments, our pixels, on our files and on ffcv's."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

if importlib.util.find_spec("ffcv") is None:
    pytest.skip("ffcv is not here", allow_module_level=True)

from alexnet_fast.beton.errors import BetonError
from alexnet_fast.decode.status import BrokenSample
from alexnet_fast.errors import UserError
from alexnet_fast.ffcv_ops.decode_pool import DecodePool
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import (
    OVERWRITERS,
    Entry,
    difference,
    drawn_crop,
    jpeg,
    loaded,
    picture,
    pixels,
    write,
)

# numba, when it frees what FFCV's own decoder had it compile.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <finalize object:pytest.PytestUnraisableExceptionWarning"
)

SIZES = [(200, 150), (150, 200), (96, 64), (333, 250), (65, 33), (120, 120), (260, 90)]
CLOSE = 1.5  # levels, mean: to Pillow's decode and antialiased resize of the same crop


@pytest.fixture(scope="module")
def ops(require: Callable[[str], Any]) -> Any:
    """The module under test."""
    require("ffcv")
    require("turbojpeg")
    from alexnet_fast.ffcv_ops import decoders

    return decoders


def pictures() -> list[Image.Image]:
    return [picture(width, height, seed) for seed, (width, height) in enumerate(SIZES)]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A beton with restart markers and tile tables."""
    return write(
        tmp_path_factory.mktemp("ours") / "a.beton", [encode_jpeg(image, Encoding()) for image in pictures()]
    )


@pytest.fixture(scope="module")
def theirs(ops: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What FFCV's own DatasetWriter makes of the same pictures, every other one raw."""
    from ffcv.fields import FloatField, IntField, RGBImageField

    path = tmp_path_factory.mktemp("theirs") / "a.beton"
    np.random.seed(1)  # noqa: NPY002  "proportion" draws from it, in this process's child
    write_with_ffcv(
        path,
        {
            "weight": (FloatField(), [0.5] * len(SIZES)),
            "image": (RGBImageField(write_mode="proportion", jpeg_quality=90), pictures()),
            "label": (IntField(), list(range(len(SIZES)))),
        },
    )
    from alexnet_fast import Beton

    assert len(set(Beton(path).images["mode"].tolist())) == 2
    return path


def write_with_ffcv(path: Path, fields: dict[str, tuple[Any, list[Any]]]) -> None:
    from ffcv.writer import DatasetWriter

    samples = list(zip(*(column for _, column in fields.values())))
    DatasetWriter(
        str(path), {name: field for name, (field, _) in fields.items()}, num_workers=1
    ).from_indexed_dataset(samples)


def open_ffcv(
    path: Path, decoder: Any, *more: Any, batch_size: int = 3, num_workers: int = 1, **options: Any
) -> Any:
    """ffcv's own Loader with the images, the labels, and more views of the images by other decoders."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline import PipelineSpec

    views = {f"view{k}": PipelineSpec("image", decoder=other) for k, other in enumerate(more)}
    return Loader(
        str(path),
        batch_size,
        num_workers=num_workers,
        **{"order": OrderOption.SEQUENTIAL, "drop_last": False, "os_cache": True, **options},
        pipelines={"image": [decoder], "weight": None, "label": [IntDecoder()], **views},
    )


def epoch_of(loader: Any) -> dict[int, np.ndarray]:
    """The next epoch's pixels by label. (height, width, 3) uint8 each"""
    return {label.item(): image.copy() for batch in loader for image, label in zip(*batch)}


def epochs_of(path: Path, decoder: Any, epochs: int = 1, **options: Any) -> list[dict[int, np.ndarray]]:
    loader = open_ffcv(path, decoder, **options)
    return [epoch_of(loader) for _ in range(epochs)]


def same(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


def stored(path: Path) -> list[Image.Image]:
    """The samples of a beton as Pillow decodes them."""
    from alexnet_fast import Beton

    beton = Beton(path)
    return [
        Image.fromarray(
            beton.payload(k).reshape(image["height"], image["width"], 3)
            if image["mode"]
            else pixels(beton.payload(k).tobytes())
        )
        for k, image in enumerate(beton.images)
    ]


def middle(image: Image.Image, ratio: float, height: int, width: int) -> np.ndarray:
    """FFCV's centre crop (``get_center_crop``), at least one pixel, resized by Pillow. (height, width, 3)"""
    side = max(int(ratio * min(image.size)), 1)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.crop(box).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("file", ["ours", "theirs"])
@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_random_crops_are_those_of_our_own_loader_in_every_epoch(
    ops: Any, file: str, flip: float, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(file)
    decoder = ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7, flip=flip)
    made = epochs_of(path, decoder, epochs=3)
    for epoch, images in enumerate(made):
        expected = loaded(path, train=True, shuffle=False, size=64, seed=7, flip=flip, epoch=epoch)
        assert same(images, {k: image.transpose(1, 2, 0) for k, image in expected.items()})
    assert not same(made[0], made[1])


def test_of_several_images_each_decoder_takes_the_one_of_its_pipeline(ops: Any, tmp_path: Path) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption

    path, index = tmp_path / "a.beton", list(range(len(SIZES)))
    images = {"left": pictures(), "right": pictures()[::-1]}
    fields = {name: (RGBImageField(write_mode="raw"), column) for name, column in images.items()}
    write_with_ffcv(path, {"index": (IntField(), index), **fields, "label": (IntField(), index[::-1])})
    decoders = {name: ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7) for name in images}
    pipelines = {name: [decoder] for name, decoder in decoders.items()}
    loader = Loader(
        str(path), 3, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False, os_cache=True,
        pipelines={**pipelines, "index": [IntDecoder()], "label": None},
    )  # fmt: skip
    found = [(left.copy(), right.copy(), k.item()) for batch in loader for k, left, right in zip(*batch)]
    for place, name in enumerate(images):
        expected = loaded(
            path, train=True, shuffle=False, size=64, seed=7, flip=0.0, image_field=name, label_field="index"
        )
        assert same(
            {each[2]: each[place] for each in found},
            {k: image.transpose(1, 2, 0) for k, image in expected.items()},
        )
    assert (
        ops.broken_sample(str(path), 3, "no JPEG").args[0].startswith(f"sample 3 of {path} cannot be decoded")
    )


@pytest.mark.parametrize("file", ["ours", "theirs"])
@pytest.mark.parametrize("ratio", [224 / 256, 1.0, 0.4])
def test_the_centre_crop_is_ffcvs_box_and_pillows_filter(
    ops: Any, file: str, ratio: float, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(file)
    images = epochs_of(path, ops.CenterCropRGBImageDecoder((64, 64), ratio))[0]
    for k, image in enumerate(stored(path)):
        assert difference(images[k], middle(image, ratio, 64, 64)) < CLOSE


def test_both_decoders_crop_where_ffcvs_own_crop(ops: Any, tmp_path: Path) -> None:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    path = write(tmp_path / "a.beton", [Entry.raw(coordinates(*size)) for size in [(200, 160), (91, 250)]])
    for ratio in (1.0, 224 / 256, 0.33):
        theirs = epochs_of(path, CenterCropRGBImageDecoder((48, 48), ratio))[0]
        images = epochs_of(path, ops.CenterCropRGBImageDecoder((48, 48), ratio))[0]
        for k, image in images.items():
            assert np.abs(image.astype(int) - theirs[k]).max() <= 2  # each level is a pixel of the source


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose red is each pixel's column and whose green is its row."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def test_boxes_are_inside_the_image_and_distributed_as_ffcvs(ops: Any, tmp_path: Path) -> None:
    from ffcv.fields.rgb_image import get_random_crop

    wide, high, count, size = 200, 160, 400, 64
    path = write(tmp_path / "a.beton", [Entry.raw(coordinates(wide, high))] * count)
    decoder = ops.RandomResizedCropRGBImageDecoder((size, size), (0.2, 0.9), (0.6, 1.5), seed=0)
    boxes = np.array([seen_box(image) for image in epochs_of(path, decoder, batch_size=50)[0].values()])
    top, left, h, w = boxes.T
    px = 2.5  # each box is read off 8-bit slopes
    assert (
        top.min() > -px and left.min() > -px and (top + h).max() < high + px and (left + w).max() < wide + px
    )
    area, aspect = h * w / (wide * high), w / h
    assert area.min() > 0.18 and area.max() < 0.93 and aspect.min() > 0.56 and aspect.max() < 1.6
    np.random.seed(0)  # noqa: NPY002
    reference = np.array(
        [get_random_crop(high, wide, np.array([0.2, 0.9]), np.array([0.6, 1.5])) for _ in range(4000)]
    )
    for ours, theirs in zip(boxes.T, reference.T.astype(float)):
        assert abs(ours.mean() - theirs.mean()) < 4 * theirs.std() / count**0.5
        assert 0.85 < ours.std() / theirs.std() < 1.15


def seen_box(image: np.ndarray) -> tuple[float, float, float, float]:
    """(top, left, height, width) of the crop of ``coordinates`` that an output shows, from its inner half's slopes."""
    size = len(image)
    a, b = size // 4, 3 * size // 4
    column, row = image[:, :, 0].mean(axis=0), image[:, :, 1].mean(axis=1)
    per_x, per_y = (column[b] - column[a]) / (b - a), (row[b] - row[a]) / (b - a)
    left, top = column[a] + 0.5 - (a + 0.5) * per_x, row[a] + 0.5 - (a + 0.5) * per_y
    return top, left, per_y * size, per_x * size


def test_pixels_do_not_depend_on_threads_batches_or_ffcvs_cache(ops: Any, ours: Path) -> None:
    def made(**options: Any) -> list[dict[int, np.ndarray]]:
        decoder = ops.RandomResizedCropRGBImageDecoder((64, 64), seed=3, flip=0.5)
        return epochs_of(ours, decoder, 2, **options)

    expected = made(num_workers=1)
    for options in (
        {"batch_size": 1, "num_workers": 2},
        {"batch_size": 7, "num_workers": 2},
        {"os_cache": False},
        {"indices": [6, 1, 4]},
    ):
        for images, all_images in zip(made(**options), expected):
            assert len(images) == len(options.get("indices", SIZES))
            assert all(np.array_equal(image, all_images[k]) for k, image in images.items())


def test_setting_ffcvs_epoch_resumes_a_run(ops: Any, ours: Path) -> None:
    expected = epochs_of(ours, ops.RandomResizedCropRGBImageDecoder((32, 32), seed=1), 4)
    loader = open_ffcv(ours, ops.RandomResizedCropRGBImageDecoder((32, 32), seed=1))
    loader.next_epoch = 2
    assert same(epoch_of(loader), expected[2]) and same(epoch_of(loader), expected[3])


def test_an_epoch_that_was_left_early_does_not_shift_the_next(ops: Any, ours: Path) -> None:
    expected = epochs_of(ours, ops.RandomResizedCropRGBImageDecoder((32, 32), seed=1), 2)
    loader = open_ffcv(ours, ops.RandomResizedCropRGBImageDecoder((32, 32), seed=1), batch_size=1)
    left = iter(loader)
    assert np.array_equal(next(left)[0][0], expected[0][0])
    assert same(epoch_of(loader), expected[1])
    assert len(list(left)) == len(SIZES) - 1


def test_without_a_seed_numpys_generator_gives_one(ops: Any) -> None:
    seeds = []
    for _ in range(2):
        np.random.seed(5)  # noqa: NPY002
        seeds.append([ops.RandomResizedCropRGBImageDecoder((32, 32)).seed for _ in range(2)])
    assert seeds[0] == seeds[1] and seeds[0][0] != seeds[0][1]


def test_two_views_of_one_image_differ_by_their_seeds(ops: Any, ours: Path) -> None:
    views = [ops.RandomResizedCropRGBImageDecoder((48, 48), seed=seed) for seed in (1, 1, 2)]
    for first, _, second, third in open_ffcv(ours, *views):
        assert np.array_equal(first, second) and not np.array_equal(first, third)


@pytest.mark.parametrize("size", [(64, 64), (40, 96), (96, 40), (7, 80), (33, 31), (1, 1)])
def test_the_output_may_be_of_any_shape(ops: Any, ours: Path, size: tuple[int, int]) -> None:
    height, width = size
    images = epochs_of(ours, ops.RandomResizedCropRGBImageDecoder(size, seed=4, flip=0.5))[0]
    for k, image in enumerate(stored(ours)):
        box, mirrored = drawn_crop(*image.size, k, seed=4)
        expected = image.crop(box).resize((width, height), Image.Resampling.BILINEAR)
        if mirrored:
            expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert images[k].shape == (height, width, 3)
        assert difference(images[k], np.asarray(expected)) < (CLOSE if min(size) > 1 else 3)


def test_a_large_image_in_a_narrow_output_has_all_its_taps(ops: Any, tmp_path: Path) -> None:
    image = picture(900, 700, 3)
    entries = [Entry.raw(picture(60, 60)), Entry.raw(image), Entry.raw(picture(30, 500, 1))]
    path = write(tmp_path / "a.beton", entries)
    for size in ((8, 64), (64, 8)):
        images = epochs_of(path, ops.CenterCropRGBImageDecoder(size, 1.0), batch_size=1)[0]
        assert difference(images[1], middle(image, 1.0, *size)) < CLOSE


def test_the_output_size_may_change_between_epochs(ops: Any, ours: Path) -> None:
    decoder = ops.RandomResizedCropRGBImageDecoder((32, 32), seed=2)
    loader = open_ffcv(ours, decoder)
    for epoch, side in enumerate((32, 64, 48)):
        decoder.output_size = (side, side)
        expected = loaded(ours, train=True, shuffle=False, size=side, seed=2, flip=0.0, epoch=epoch)
        assert same(epoch_of(loader), {k: image.transpose(1, 2, 0) for k, image in expected.items()})


@pytest.mark.long
def test_ffcvs_imagenet_training_runs_through_a_change_of_resolution(ops: Any, tmp_path: Path) -> None:
    """The loop of libffcv/ffcv-imagenet's train_imagenet.py, with nothing but the import changed: 160 px, then 192 px."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    sizes = [(60, 50), (700, 600), (50, 70), (640, 500)] * 4  # small ones and large ones, in every order
    pictures = [picture(*size, seed) for seed, size in enumerate(sizes)]
    path = write(tmp_path / "a.beton", [encode_jpeg(image, Encoding(quality=98)) for image in pictures])

    def resolution(epoch: int) -> int:  # get_resolution, between start_ramp = 0 and end_ramp = 2
        return int(np.round(np.interp([epoch], [0, 2], [160, 192])[0] / 32)) * 32

    def opened(decoder: Any, order: OrderOption, *flip: Any) -> Any:
        pipelines = {
            "image": [decoder, *flip, ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        }
        return Loader(
            str(path), 4, 2, True, order, drop_last=order != OrderOption.SEQUENTIAL, pipelines=pipelines
        )

    decoder = ops.RandomResizedCropRGBImageDecoder((resolution(0), resolution(0)), seed=3)
    training = opened(decoder, OrderOption.QUASI_RANDOM, RandomHorizontalFlip())
    validation = opened(ops.CenterCropRGBImageDecoder((224, 224), ratio=224 / 256), OrderOption.SEQUENTIAL)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[int] = []
    for epoch in range(4):
        side = resolution(epoch)
        decoder.output_size = (side, side)
        expected = loaded(path, train=True, shuffle=False, size=side, seed=3, flip=0.0, epoch=epoch)
        met = []
        for images, target in training:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(images / 255.0), target).backward()
            optimizer.step()
            for image, label in zip(images.numpy(), target.tolist()):
                met.append(label)
                assert any(np.array_equal(image[..., ::turn], expected[label]) for turn in (1, -1))
        assert sorted(met) == list(range(16))
        seen.append(side)
        with torch.no_grad():
            assert sum(len(model(images / 255.0)) for images, _ in validation) == 16
    assert seen == [160, 192, 192, 192]


COPIES = [5, 1, 5, 5, 2, 1, 5, 6, 0, 5]


def copies_of(loader: Any, epochs: int = 2) -> list[list[tuple[int, bytes]]]:
    """Each epoch's labels and pixels."""
    return [
        sorted(
            (label.item(), image.tobytes())
            for images, labels in loader
            for image, label in zip(images, labels)
        )
        for _ in range(epochs)
    ]


@pytest.fixture(scope="module")
def our_copies(ours: Path) -> list[list[tuple[int, bytes]]]:
    """Each epoch's labels and pixels, as our own loader makes them of repeated samples."""
    from alexnet_fast import Loader

    with Loader(ours, 2, train=True, size=32, seed=7, indices=COPIES) as loader:
        made = [
            sorted(
                (int(label), image.permute(1, 2, 0).numpy().tobytes())
                for images, labels in loader
                for image, label in zip(images, labels)
            )
            for _ in range(2)
        ]
    assert len(set(made[0])) == len(COPIES)
    return made


@pytest.mark.parametrize("order", ["SEQUENTIAL", "RANDOM"])
@pytest.mark.parametrize(("batch_size", "num_workers"), [(3, 1), (4, 2)])
def test_the_copies_of_a_repeated_sample_are_those_of_our_own_loader(
    ops: Any, ours: Path, our_copies: Any, order: str, batch_size: int, num_workers: int
) -> None:
    from ffcv.loader import OrderOption

    options = {"indices": COPIES, "order": OrderOption[order], "batch_size": batch_size}
    decoder = ops.RandomResizedCropRGBImageDecoder((32, 32), seed=7, flip=0.5)
    assert copies_of(open_ffcv(ours, decoder, num_workers=num_workers, **options)) == our_copies


def test_two_of_ffcvs_ranks_never_make_the_same_copy(
    ops: Any, ours: Path, our_copies: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ffcv.loader import OrderOption

    parts = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        decoder = ops.RandomResizedCropRGBImageDecoder((32, 32), seed=7, flip=0.5)
        options = {"indices": COPIES, "order": OrderOption.RANDOM, "distributed": True, "seed": 1}
        parts.append(copies_of(open_ffcv(ours, decoder, **options)))
    assert [sorted(first + second) for first, second in zip(*parts)] == our_copies


@pytest.mark.parametrize("workers", [1, 2])
def test_jpegs_of_every_kind_are_read(ops: Any, tmp_path: Path, workers: int) -> None:
    image, wide = picture(173, 141, 1), picture(500, 60, 2)
    entries: list[Entry | bytes] = [
        jpeg(image, subsampling="4:4:4"),
        jpeg(image, subsampling="4:2:2"),
        jpeg(image, progressive=True),
        jpeg(image.convert("L")),
        encode_jpeg(image.convert("L").convert("RGB"), Encoding(restart_mcus=1)),
        jpeg(picture(1, 1)),
        jpeg(picture(17, 16)),
        jpeg(wide),
        Entry.raw(image),
        Entry.raw(picture(1, 3)),
    ]
    path = write(tmp_path / "a.beton", entries)
    decoder = ops.CenterCropRGBImageDecoder((56, 56), 0.9)
    images = epochs_of(path, decoder, batch_size=4, num_workers=workers)[0]
    for k, image in enumerate(stored(path)):
        assert difference(images[k], middle(image, 0.9, 56, 56)) < CLOSE


def test_ffcvs_own_operations_work_after_ours(ops: Any, ours: Path) -> None:
    from ffcv.fields.basics import IntDecoder
    from ffcv.loader import Loader
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    loader = Loader(
        str(ours),
        7,
        num_workers=1,
        pipelines={
            "image": [
                ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7),
                RandomHorizontalFlip(1.0),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    expected = loaded(ours, train=True, shuffle=False, size=64, seed=7, flip=1.0)
    unflipped = loaded(ours, train=True, shuffle=False, size=64, seed=7, flip=0.0)
    ((images, labels),) = loader
    assert labels.tolist() == list(range(7))
    for k, image in enumerate(images):
        assert torch.equal(image.flip(2), torch.from_numpy(unflipped[k]))
        assert difference(image.numpy(), expected[k]) < 0.5


GOOD = [encode_jpeg(picture(200, 150, seed), Encoding()) for seed in range(8)]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("os_cache", [True, False])
def test_a_corrupt_sample_is_an_error_that_names_it_after_the_good_batches(
    ops: Any, tmp_path: Path, workers: int, os_cache: bool
) -> None:
    broken = GOOD[5][:3000] + bytes(2000) + GOOD[5][5000:]
    path = write(tmp_path / "a.beton", [Entry(broken if k == 5 else GOOD[k], 200, 150) for k in range(8)])
    path.with_name("a.beton.json").write_text(json.dumps({"paths": [f"class/{k}.JPEG" for k in range(8)]}))
    decoder = ops.CenterCropRGBImageDecoder((64, 64), 1.0)
    loader = open_ffcv(path, decoder, batch_size=1, num_workers=workers, os_cache=os_cache, batches_ahead=1)
    for _ in range(2):
        delivered = {}
        with pytest.raises(BrokenSample, match=rf"sample 5 \(class/5\.JPEG\) of {path} cannot be decoded: "):
            for images, labels in loader:
                delivered[labels[0].item()] = images[0].copy()
        assert sorted(delivered) == [0, 1, 2, 3, 4]
        for k, image in delivered.items():
            assert difference(image, middle(stored_jpeg(GOOD[k]), 1.0, 64, 64)) < CLOSE
    assert [
        labels[0].item()
        for _, labels in open_ffcv(path, decoder, batch_size=1, indices=[7, 4, 6], os_cache=os_cache)
    ] == [7, 4, 6]


def stored_jpeg(payload: bytes) -> Image.Image:
    return Image.fromarray(pixels(payload))


@pytest.mark.parametrize(
    ("impossible", "why"),
    [
        (Entry(GOOD[0], 150, 200), "another size"),
        (Entry(b"no image", 200, 150), "no JPEG"),
        (Entry(GOOD[0][:2000], 200, 150), "disagrees with its bytes"),
        (Entry(bytes(300), 10, 11, 1), "mode 1 and 10 x 11 pixels, and its payload 300 bytes"),
        (Entry(GOOD[0], 0, 150), "0 x 150 pixels"),
        (Entry(GOOD[0], 200, 150, 2), "mode 2"),
        (Entry(GOOD[0], 65_535, 65_535), "more than 2\\^28 pixels"),
    ],
)
def test_a_sample_with_impossible_metadata_is_an_error_that_names_it(
    ops: Any, tmp_path: Path, impossible: Entry, why: str
) -> None:
    path = write(tmp_path / "a.beton", [GOOD[0], impossible, GOOD[2]])
    decoder = ops.RandomResizedCropRGBImageDecoder((64, 64), seed=0)
    with pytest.raises(BrokenSample, match=rf"^sample 1 of {path} cannot be decoded: .*{why}"):
        epochs_of(path, decoder)


def test_any_error_in_ffcvs_thread_reaches_the_consumer_and_ends_the_thread(ops: Any, ours: Path) -> None:
    class Unlucky(ops.CenterCropRGBImageDecoder):
        def boxes(self, samples: np.ndarray, epoch: int) -> np.ndarray:
            raise MemoryError("no room for boxes")

    iterator = iter(open_ffcv(ours, Unlucky((64, 64), 1.0)))
    with pytest.raises(MemoryError, match="no room for boxes"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)
    iterator.join(5)
    assert not iterator.is_alive()


def test_ffcvs_thread_ends_after_its_consumer_left_even_if_it_fails(ops: Any, tmp_path: Path) -> None:
    entries = [Entry(GOOD[k] if k < 3 else b"no image", 200, 150) for k in range(8)]
    path = write(tmp_path / "a.beton", entries)
    decoder = ops.CenterCropRGBImageDecoder((64, 64), 1.0)
    iterator = iter(open_ffcv(path, decoder, batch_size=1, batches_ahead=1))
    next(iterator)
    iterator.close()
    iterator.join(5)
    assert not iterator.is_alive()


def test_memory_per_sample_is_its_output_and_a_few_bytes_whatever_the_images_are(
    ops: Any, tmp_path: Path
) -> None:
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder

    path = write(tmp_path / "a.beton", [jpeg(picture(900, 700))] * 24)

    def bytes_of(decoder: Any) -> int:
        arrays = open_ffcv(path, decoder, batch_size=24).graph.allocate_memory(24, 5)["operation"].values()
        images = next(memory for memory in arrays if isinstance(memory, tuple))
        return sum(array.nbytes for array in images) // (24 * 5)

    output = 64 * 64 * 3
    assert bytes_of(RandomResizedCropRGBImageDecoder((64, 64))) == output + 900 * 700 * 3
    decoder = ops.RandomResizedCropRGBImageDecoder((64, 64), seed=0)
    assert bytes_of(decoder) == output + 48
    for batch_size in (2, 24):  # and a thread keeps one scratch, not a sample
        epochs_of(path, decoder, 2, batch_size=batch_size, num_workers=2)
        assert 1 <= len(decoder._pool._idle) <= 2


def test_two_iterations_at_once_do_not_mix_their_pixels(ops: Any, ours: Path) -> None:
    expected = epochs_of(ours, ops.RandomResizedCropRGBImageDecoder((64, 64), seed=1), 2)
    loader = open_ffcv(ours, ops.RandomResizedCropRGBImageDecoder((64, 64), seed=1), batch_size=1)
    iterators, seen = [], []
    for _ in range(2):
        iterators.append(iter(loader))
        seen.append({0: next(iterators[-1])[0][0].copy()})
    for _ in range(len(SIZES) - 1):
        for iterator, images in zip(iterators, seen):
            image, label = next(iterator)
            images[label[0].item()] = image[0].copy()
    assert same(seen[0], expected[0]) and same(seen[1], expected[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"output_size": 224}, r"output_size = 224 is not a pair of numbers, expected \(height, width\)"),
        ({"output_size": (224,)}, "output_size"),
        ({"output_size": (0, 224)}, "1 to 4096"),
        ({"output_size": (224, 5000)}, "1 to 4096"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 0.2)}, "least <= most"),
        ({"scale": 0.5}, "scale = 0.5"),
        ({"ratio": (4 / 3, 3 / 4)}, "ratio"),
        ({"seed": -1}, "seed = -1"),
        ({"flip": 1.5}, "a probability"),
        ({"output_size": "ab"}, "output_size = 'ab' is not a pair"),
        ({"output_size": None}, "output_size = None"),
        ({"output_size": (224, "224")}, "output_size"),
        ({"output_size": (True, True)}, "output_size"),
        ({"output_size": (224, float("inf"))}, "1 to 4096"),
        ({"scale": None}, "scale = None is not a pair of numbers"),
        ({"scale": ("a", "b")}, "scale"),
        ({"scale": (float("nan"), 1)}, "scale"),
        ({"ratio": (1.0, float("inf"))}, "ratio"),
        ({"seed": "0"}, "seed = '0' is of type str, expected a whole number"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"flip": None}, "flip = None is of type NoneType, expected a number"),
        ({"flip": True}, "flip = True"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_sentence(
    ops: Any, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        ops.RandomResizedCropRGBImageDecoder(**{"output_size": (224, 224), **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", [0, 1.2, (0.5, 1.0), None, "1", True, float("nan")])
def test_a_centre_crop_larger_than_the_image_is_refused(ops: Any, ratio: Any) -> None:
    with pytest.raises(UserError, match="ratio"):
        ops.CenterCropRGBImageDecoder((224, 224), ratio)


def test_a_wrong_output_size_is_refused_when_it_is_set(ops: Any) -> None:
    decoder = ops.CenterCropRGBImageDecoder([224, 224], 1)
    with pytest.raises(UserError, match="output_size"):
        decoder.output_size = (224.5, 224)
    assert decoder.output_size == (224, 224)


def test_the_settings_of_a_decoder_may_change_between_epochs(ops: Any, ours: Path) -> None:
    decoder = ops.RandomResizedCropRGBImageDecoder((32, 32), seed=2)
    loader = open_ffcv(ours, decoder)
    epoch_of(loader)
    decoder.output_size, decoder.scale, decoder.ratio = [48, 48], [0.3, 0.6], np.array([1.0, 1.0])
    decoder.seed, decoder.flip = np.int64(5), 1
    options: dict[str, Any] = {"seed": 5, "scale": (0.3, 0.6), "ratio": (1.0, 1.0), "flip": 1.0, "size": 48}
    expected = loaded(ours, train=True, shuffle=False, epoch=1, **options)
    assert same(epoch_of(loader), {k: image.transpose(1, 2, 0) for k, image in expected.items()})


def test_a_wrong_setting_is_refused_when_it_is_set(ops: Any) -> None:
    decoder = ops.RandomResizedCropRGBImageDecoder((32, 32), seed=2)
    for name in ("output_size", "scale", "ratio", "seed", "flip"):
        before = getattr(decoder, name)
        with pytest.raises(UserError, match=f"^{name} = 'wrong'"):
            setattr(decoder, name, "wrong")
        assert getattr(decoder, name) == before
    middle = ops.CenterCropRGBImageDecoder((32, 32), 0.5)
    middle.ratio = 1
    with pytest.raises(UserError, match="^ratio = 2"):
        middle.ratio = 2
    assert middle.ratio == 1


@pytest.mark.parametrize(
    ("name", "near"), [("outputsize", "output_size"), ("scal", "scale"), ("sead", "seed")]
)
def test_a_setting_that_a_decoder_does_not_have_is_an_error(ops: Any, name: str, near: str) -> None:
    decoder = ops.RandomResizedCropRGBImageDecoder((32, 32), seed=2)
    with pytest.raises(AttributeError, match=f"there is no such attribute; did you mean {near}") as caught:
        setattr(decoder, name, (48, 48))
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "again",
    [lambda each: pickle.loads(pickle.dumps(each)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_a_pickled_or_copied_decoder_draws_the_same_crops(ops: Any, ours: Path, again: Any) -> None:
    decoder = ops.RandomResizedCropRGBImageDecoder((32, 40), (0.3, 0.6), flip=0.5)
    expected = epochs_of(ours, decoder)[0]
    other = again(decoder)
    assert other._pool is not decoder._pool and other.seed == decoder.seed
    assert same(epochs_of(ours, other)[0], expected)


LEAVE_EARLY = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.loader import Loader
from alexnet_fast.ffcv_ops import RandomResizedCropRGBImageDecoder as Decoder

pipelines = {"image": [Decoder((224, 224))], "label": [IntDecoder()]}
loader = Loader(sys.argv[1], 4, num_workers=int(sys.argv[2]), indices=list(range(7)) * 500, pipelines=pipelines)
next(iter(loader))
print("left")
"""


@pytest.mark.parametrize("workers", [2])
def test_a_process_may_end_in_the_middle_of_an_epoch(
    ops: Any, ours: Path, run_cli: Callable[..., Any], workers: int
) -> None:
    finished = run_cli("-c", LEAVE_EARLY, ours, workers)
    assert (finished.code, finished.stdout) == (0, "left\n"), finished.stderr
    assert "Error" not in finished.stderr and "Traceback" not in finished.stderr


def test_without_ffcv_the_import_says_what_to_install(run_cli: Callable[..., Any]) -> None:
    body = """
import sys
sys.modules["ffcv"] = None
from alexnet_fast.errors import UserError, exit_code
def body():
    try:
        import alexnet_fast.ffcv_ops
    except ImportError as error:
        assert isinstance(error, UserError)
        raise
sys.exit(exit_code(body))
"""
    finished = run_cli("-c", body)
    assert finished.code == 2
    assert finished.stderr.startswith("error: alexnet_fast.ffcv_ops works inside FFCV's Loader")
    assert "pip install ffcv==1.0.2" in finished.stderr and finished.stderr.count("\n") == 1


@pytest.fixture
def two_betons(ours: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A file to be written over, and another of the same length and metadata with other pixels."""
    entries = [encode_jpeg(picture(*size, seed + 50), Encoding()) for seed, size in enumerate(SIZES)]
    return Path(shutil.copy(ours, tmp_path / "a.beton")), write(tmp_path / "other.beton", entries)


def ours_in(path: Path, epochs: int) -> list[dict[int, np.ndarray]]:
    """The same crops by our own loader: 64 px, seed 7."""
    options: dict[str, Any] = {"train": True, "shuffle": False, "size": 64, "seed": 7, "flip": 0.0}
    made = [loaded(path, epoch=epoch, **options) for epoch in range(epochs)]
    return [{k: image.transpose(1, 2, 0) for k, image in images.items()} for images in made]


def refused(loader: Any, match: str, expected: dict[int, np.ndarray] | None = None) -> None:
    """Check that the next epoch ends in a BetonError, after batches that are as expected, and that FFCV's threads end."""
    iterator = iter(loader)
    with pytest.raises(BetonError, match=match):
        for images, labels in iterator:
            for image, label in zip(images, labels):
                assert expected is not None and np.array_equal(image, expected[label.item()])
    with pytest.raises(StopIteration):
        next(iterator)
    iterator.join(60)
    assert not iterator.is_alive()


@pytest.mark.parametrize(
    ("how", "os_cache"), [("cp", True), ("truncate", True), ("r+b", False), ("truncate", False)]
)
def test_no_batch_is_handed_out_of_a_file_that_is_written_over_while_it_is_decoded(
    ops: Any,
    ours: Path,
    two_betons: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    os_cache: bool,
) -> None:
    """A lost page of it does not end the process either."""
    path, other = two_betons
    expected = ours_in(ours, epochs=2)
    decode, batches = DecodePool.decode, count()

    def overwrite_and_decode(*arguments: Any) -> np.ndarray:
        if next(batches) == 4:  # in the second epoch
            OVERWRITERS[how](path, other)
        return decode(*arguments)

    monkeypatch.setattr(DecodePool, "decode", overwrite_and_decode)
    decoder = ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7)
    loader = open_ffcv(path, decoder, os_cache=os_cache, batches_ahead=1)
    assert same(epoch_of(loader), expected[0])
    refused(loader, f"^{path} was (shortened|written over)", expected[1])
    refused(loader, f"^{path} was (shortened|written over)")  # it stays so


def test_a_file_that_is_replaced_stays_readable_if_ffcv_has_it_open(
    ops: Any, ours: Path, two_betons: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path, other = two_betons
    expected = ours_in(ours, epochs=3)
    loader = open_ffcv(path, ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7))
    with caplog.at_level(logging.WARNING, "alexnet_fast"):
        assert same(epoch_of(loader), expected[0])
        os.replace(other, path)
        assert all(same(epoch_of(loader), expected[epoch]) for epoch in (1, 2))
    assert [f"{path} was replaced" in record.getMessage() for record in caplog.records] == [True]


def test_a_file_that_is_replaced_is_an_error_if_ffcv_opens_it_by_name_again(
    ops: Any, two_betons: tuple[Path, Path]
) -> None:
    path, other = two_betons
    loader = open_ffcv(path, ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7), os_cache=False)
    epoch_of(loader)
    os.replace(other, path)
    refused(loader, f"^{path} was replaced or deleted while FFCV read it without os_cache")


def test_a_file_with_other_metadata_than_ffcv_read_is_an_error(ops: Any, ours: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(ours, tmp_path / "a.beton"))
    loader = open_ffcv(path, ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7))
    os.replace(write(tmp_path / "other.beton", GOOD), path)
    refused(loader, f"^{path} was changed since FFCV read its metadata")
    loader = open_ffcv(path, ops.RandomResizedCropRGBImageDecoder((64, 64), seed=7), os_cache=False)
    path.write_bytes(b"")
    refused(loader, f"{path}")
