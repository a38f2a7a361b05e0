"""Pixels against Pillow's decoder and Pillow's antialiased filters, bilinear and bicubic, which are torchvision's on a PIL image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_fast.beton.reader import Beton
from alexnet_fast.common.sizes import Size, sides
from alexnet_fast.packing.encode import Encoding, encode_jpeg, with_tile_table
from alexnet_fast.packing.writer import ImageFolder, write_beton
from betons import (
    BICUBIC,
    BILINEAR,
    Entry,
    cjpeg,
    difference,
    drawn_crop,
    eval_reference,
    jpeg,
    jpegtran,
    loaded,
    picture,
    pixels,
    train_reference,
    write,
)

MEAN, MOST = 1.5, 4.0  # levels: mean absolute difference over a set of images, and of the worst of them
SIZES: list[Size] = [64, 100, 160, 223, 224, 288, (160, 224), (224, 97)]
RESAMPLING = {"bilinear": BILINEAR, "bicubic": BICUBIC}

SAMPLINGS: dict[str, Callable[[Image.Image], bytes]] = {
    "4:2:0": functools.partial(jpeg, subsampling="4:2:0"),
    "4:2:2": functools.partial(jpeg, subsampling="4:2:2"),
    "4:4:4": functools.partial(jpeg, subsampling="4:4:4"),
    "4:4:0": lambda image: cjpeg(image, "-quality", "90", "-sample", "1x2"),
    "4:1:1": lambda image: cjpeg(image, "-quality", "90", "-sample", "4x1"),
    "grey": lambda image: jpeg(image.convert("L")),
    "grey, factors 2x2": lambda image: cjpeg(image, "-quality", "90", "-grayscale", "-sample", "2x2"),
    "4:4:4, factors 2x1": lambda image: cjpeg(image, "-quality", "90", "-sample", "2x1,2x1,2x1"),
    "4:4:4, factors 1x2": lambda image: cjpeg(image, "-quality", "90", "-sample", "1x2,1x2,1x2"),
}

LAYOUTS: dict[str, Callable[[bytes], bytes]] = {
    "no markers": lambda plain: plain,
    "tiles and a table": lambda plain: with_tile_table(jpegtran(plain, "-restart", "4B")),
    "tiles of one MCU": lambda plain: with_tile_table(jpegtran(plain, "-restart", "1B")),
    "markers and no table": lambda plain: jpegtran(plain, "-restart", "4B"),
    "markers every row": lambda plain: jpegtran(plain, "-restart", "1"),
    "markers every third row": lambda plain: with_tile_table(jpegtran(plain, "-restart", "3")),
    "markers across rows": lambda plain: jpegtran(plain, "-restart", "7B"),
    "progressive": lambda plain: jpegtran(plain, "-progressive"),
}


def images() -> list[Image.Image]:
    """512 px wide are 16, 32 or 64 MCUs: tiles of four in every sampling; the others need other divisors, or end inside an MCU."""
    return [
        picture(width, height, seed)
        for seed, (width, height) in enumerate([(512, 384), (512, 341), (375, 500), (449, 203), (90, 70)])
    ]


@functools.cache
def stored(sampling: str) -> list[bytes]:
    return [SAMPLINGS[sampling](image) for image in images()]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_crops_of_every_sampling_are_pillows(tmp_path: Path, sampling: str) -> None:
    path = write(tmp_path / "a.beton", [LAYOUTS["tiles and a table"](plain) for plain in stored(sampling)])
    check_training(path, [Image.fromarray(pixels(plain)) for plain in stored(sampling)], size=224, epochs=4)
    check_evaluation(path, [Image.fromarray(pixels(plain)) for plain in stored(sampling)], size=224)


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("size", SIZES)
def test_crops_of_every_size_are_pillows(tmp_path: Path, size: Size, interpolation: str) -> None:
    path = write(
        tmp_path / "a.beton",
        [with_tile_table(jpegtran(plain, "-restart", "4B")) for plain in stored("4:2:0")],
    )
    decoded = [Image.fromarray(pixels(plain)) for plain in stored("4:2:0")]
    check_training(path, decoded, size=size, epochs=3, interpolation=interpolation)
    check_evaluation(path, decoded, size=size, interpolation=interpolation)


def check_training(
    path: Path,
    decoded: list[Image.Image],
    *,
    size: Size,
    epochs: int,
    interpolation: str = "bilinear",
) -> None:
    """Training crops are within MEAN over all of them, and each within MOST."""
    differences = []
    for epoch in range(epochs):
        ours = loaded(path, train=True, size=size, epoch=epoch, seed=3, interpolation=interpolation)
        for index, image in enumerate(decoded):
            crop = drawn_crop(image.width, image.height, index, epoch=epoch, seed=3)
            theirs = train_reference(image, *crop, size, RESAMPLING[interpolation])
            differences.append(difference(ours[index], theirs))
    assert np.mean(differences) <= MEAN and max(differences) <= MOST, differences


def check_evaluation(
    path: Path, decoded: list[Image.Image], *, size: Size, interpolation: str = "bilinear"
) -> None:
    ours = loaded(path, size=size, interpolation=interpolation)
    height, width = sides(size)
    resize = round(height / (224 / 256)), round(width / (224 / 256))
    differences = [
        difference(ours[index], eval_reference(image, size, resize, RESAMPLING[interpolation]))
        for index, image in enumerate(decoded)
    ]
    assert np.mean(differences) <= MEAN and max(differences) <= MOST, differences


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
def test_however_the_coefficients_are_cut_the_pixels_are_the_same_bits(
    tmp_path: Path, sampling: str, layout: str
) -> None:
    """A sliced decode equals the whole: planes have no filter across blocks."""
    whole = write(tmp_path / "whole.beton", stored(sampling))
    cut = write(tmp_path / "cut.beton", [LAYOUTS[layout](plain) for plain in stored(sampling)])
    cubic = {"interpolation": "bicubic", "size": 64}
    for options in (
        {"train": True, "epoch": 0},
        {"train": True, "epoch": 1, "size": 100},
        {"train": False},
        {"train": True, **cubic},
        {"train": False, **cubic},
    ):
        expected, found = loaded(whole, **options), loaded(cut, **options)
        assert all(np.array_equal(expected[index], found[index]) for index in expected), options


def test_each_of_1000_photos_trains_as_pillow_would_decode_it(all_photos_beton: Path) -> None:
    ours = loaded(all_photos_beton, train=True, batch_size=100)
    differences = []
    with Beton(all_photos_beton) as beton:
        for index, label in enumerate(beton.labels.tolist()):
            image = Image.fromarray(pixels(beton.payload(index).tobytes()))
            theirs = train_reference(image, *drawn_crop(image.width, image.height, index), 224)
            differences.append(difference(ours[label], theirs))
    assert len(differences) == 1000
    assert np.mean(differences) <= MEAN and max(differences) <= MOST


def test_each_of_1000_photos_evaluates_as_torchvision_would(all_photos_beton: Path) -> None:
    ours = loaded(all_photos_beton, batch_size=100)
    differences = []
    with Beton(all_photos_beton) as beton:
        for index, label in enumerate(beton.labels.tolist()):
            image = Image.fromarray(pixels(beton.payload(index).tobytes()))
            differences.append(difference(ours[label], eval_reference(image)))
    assert np.mean(differences) <= MEAN and max(differences) <= MOST


@pytest.mark.parametrize("size", [224, (160, 256)])
def test_bicubic_crops_of_100_photos_are_pillows(all_photos_beton: Path, size: Size) -> None:
    """As far from them as bilinear crops are: what differs is that we resize before the conversion to RGB."""
    options = {"size": size, "interpolation": "bicubic", "indices": range(0, 1000, 10), "batch_size": 100}
    trained, evaluated = loaded(all_photos_beton, train=True, **options), loaded(all_photos_beton, **options)
    differences: list[list[float]] = [[], []]
    resize = round(sides(size)[0] / 0.875), round(sides(size)[1] / 0.875)
    with Beton(all_photos_beton) as beton:
        for index in range(0, 1000, 10):
            image, label = Image.fromarray(pixels(beton.payload(index).tobytes())), int(beton.labels[index])
            crop = drawn_crop(image.width, image.height, index)
            theirs = train_reference(image, *crop, size, BICUBIC)
            differences[0].append(difference(trained[label], theirs))
            differences[1].append(difference(evaluated[label], eval_reference(image, size, resize, BICUBIC)))
    for each in differences:
        assert len(each) == 100 and np.mean(each) <= MEAN and max(each) <= MOST


def test_evaluation_takes_tiles_that_end_where_the_filter_does(tmp_path: Path) -> None:
    """Sizes whose filter begins on a tile's edge, up to rounding: counted from the tile it must not reach one pixel before it."""
    sizes = [(354, 219), (219, 354), (258, 219), (219, 258), (238, 235), (235, 238), (462, 455), (455, 462)]
    grey = [(358, 378), (324, 380), (228, 231), (301, 424)]
    entries = [encode_jpeg(picture(*size), Encoding(restart_mcus=1)) for size in sizes]
    entries += [jpegtran(jpeg(picture(*size).convert("L")), "-restart", "1B") for size in grey]
    check_evaluation(
        write(tmp_path / "a.beton", entries), [Image.fromarray(pixels(entry)) for entry in entries], size=224
    )


def test_evaluation_of_images_of_any_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sizes = [(int(w), int(h)) for w, h in rng.integers(20, 520, (60, 2))]
    entries = [
        encode_jpeg(picture(*size, k), Encoding(restart_mcus=int(rng.integers(1, 5))))
        for k, size in enumerate(sizes)
    ]
    check_evaluation(
        write(tmp_path / "a.beton", entries), [Image.fromarray(pixels(entry)) for entry in entries], size=176
    )


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.01, 0.02)])
def test_eightfold_shrinking_and_enlarging_are_antialiased_alike(
    tmp_path: Path, scale: tuple[float, float], interpolation: str
) -> None:
    """1,600 x 1,200 to 64 px is a filter of 50 taps; a hundredth of 320 x 240 to 224 px enlarges eightfold."""
    image, size = (picture(1600, 1200), 64) if scale[0] == 1 else (picture(320, 240), 224)
    entry = encode_jpeg(image, Encoding())
    path, decoded = write(tmp_path / "a.beton", [entry] * 8), Image.fromarray(pixels(entry))
    ours = loaded(path, train=True, size=size, scale=scale, interpolation=interpolation)
    for index in range(8):
        crop = drawn_crop(*image.size, index, scale=scale)
        theirs = train_reference(decoded, *crop, size, RESAMPLING[interpolation])
        assert difference(ours[index], theirs) <= 2.5


@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_a_mirrored_image_is_the_same_bits_mirrored(tmp_path: Path, interpolation: str) -> None:
    path = write(
        tmp_path / "a.beton",
        [*stored("4:2:0"), *stored("4:1:1"), *stored("grey"), Entry.raw(picture(90, 70))],
    )
    plain, mirrored = (
        loaded(path, train=True, flip=flip, interpolation=interpolation) for flip in (0.0, 1.0)
    )
    assert all(np.array_equal(plain[index][:, :, ::-1], mirrored[index]) for index in plain)


@pytest.mark.parametrize(("interpolation", "mean"), [("bilinear", 0.6), ("bicubic", 0.3)])
def test_raw_images_are_pillows_within_the_filters_rounding(
    tmp_path: Path, interpolation: str, mean: float
) -> None:
    decoded = images()
    path = write(tmp_path / "a.beton", [Entry.raw(image) for image in decoded])
    ours, resampling = loaded(path, train=True, interpolation=interpolation), RESAMPLING[interpolation]
    for index, image in enumerate(decoded):
        theirs = train_reference(image, *drawn_crop(*image.size, index), 224, resampling)
        assert difference(ours[index], theirs) <= mean
        assert np.abs(ours[index].astype(int) - theirs).max() <= 4
    evaluated = loaded(path, interpolation=interpolation)
    for index, image in enumerate(decoded):
        assert difference(evaluated[index], eval_reference(image, 224, 256, resampling)) <= mean


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (1, 254, 128), (17, 99, 203)])
def test_a_flat_colour_stays_what_it_is(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    """The weights of every output pixel sum to one, in whatever box."""
    path = write(
        tmp_path / "a.beton",
        [Entry.raw(Image.new("RGB", size, colour)) for size in ((500, 375), (64, 64), (1, 1), (1000, 31))],
    )
    cubic = {"interpolation": "bicubic", "train": True}
    for options in (
        {"train": True},
        {"train": True, "size": 61},
        {"train": False},
        cubic,
        {**cubic, "size": 61},
    ):
        for image in loaded(path, **options).values():
            assert (image == np.array(colour)[:, None, None]).all()


def test_a_grey_jpeg_has_three_equal_channels(tmp_path: Path) -> None:
    for image in loaded(write(tmp_path / "a.beton", stored("grey")), train=True).values():
        assert np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])


def test_colours_are_jfifs(tmp_path: Path) -> None:
    """Saturated corners of the cube, flat, so that chroma has nothing to interpolate."""
    colours = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)] + [
        (255, 128, 0),
        (3, 77, 250),
    ]
    entries = [jpeg(Image.new("RGB", (64, 64), colour), quality=100, subsampling=0) for colour in colours]
    ours = loaded(write(tmp_path / "a.beton", entries), train=True)
    for index, entry in enumerate(entries):
        assert np.abs(ours[index].reshape(3, -1).astype(int).T - pixels(entry)[0, 0]).max() <= 1


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 500), (500, 1), (2, 3), (15, 17), (33, 500), (16 * 29, 40), (16 * 31, 16)]
)
def test_odd_sizes_load(tmp_path: Path, size: tuple[int, int]) -> None:
    entry = encode_jpeg(picture(*size), Encoding())
    path, decoded = write(tmp_path / "a.beton", [entry]), Image.fromarray(pixels(entry))
    ours = loaded(path, train=True)[0]
    assert difference(ours, train_reference(decoded, *drawn_crop(*size, 0), 224)) <= MOST
    assert loaded(path)[0].shape == (3, 224, 224)


def test_a_whole_photo_as_large_as_jpegs_get_loads(tmp_path: Path) -> None:
    """65,495 px are 4,094 MCUs, which reach beyond libjpeg's 65,500."""
    entry = encode_jpeg(Image.new("RGB", (65_495, 8), (90, 120, 150)), Encoding())
    path = write(tmp_path / "a.beton", [entry])
    for options in ({"train": True, "scale": (1.0, 1.0), "ratio": (0.75, 1e4)}, {"train": False}):
        image = loaded(path, size=16, **options)[0]
        assert np.abs(image.reshape(3, -1).astype(int).T - (90, 120, 150)).max() <= 2


def test_ffcvs_files_load(require: Callable[[str], object], tmp_path: Path) -> None:
    require("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    originals = images()
    for mode in ("jpg", "raw"):
        path = tmp_path / f"{mode}.beton"
        fields = {"label": IntField(), "image": RGBImageField(write_mode=mode, jpeg_quality=95)}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(
            [(k, image) for k, image in enumerate(originals)]
        )
        with Beton(path) as beton:
            decoded = (
                [Image.fromarray(pixels(beton.payload(i).tobytes())) for i in range(len(beton))]
                if mode == "jpg"
                else originals
            )
        check_training(path, decoded, size=224, epochs=2)
        check_evaluation(path, decoded, size=224)


def test_what_the_packer_writes_evaluates_as_its_source_would(tmp_path: Path) -> None:
    """From file to pixels: the packing's own loss at quality 90 is what is left."""
    for k in range(4):
        picture(400, 300, k).save(tmp_path / f"{k}.png")
    split = ImageFolder(tmp_path, [f"{k}.png" for k in range(4)], [0, 1, 2, 3], list("abcd"))
    ours = loaded(write_beton(split, tmp_path / "a.beton", Encoding(), workers=1).path)
    assert max(difference(ours[k], eval_reference(picture(400, 300, k))) for k in range(4)) < 2.5
