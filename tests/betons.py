"""Betons for tests: pictures, JPEGs of every kind, and a writer of the format that shares no code with the package.

The layout is written here by hand, from the specification, so that a mistake in ``alexnet_fast.beton`` cannot cancel
itself out.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import components
from alexnet_fast import Loader
from alexnet_fast.common.sizes import Size, sides
from alexnet_fast.decode.counter_rng import sample_key, view_key
from alexnet_fast.decode.crop import draw_flip, random_resized_crop

PAGE = 1 << 21
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Entry:
    """One sample as it is written to the file; its metadata may be wrong on purpose."""

    payload: bytes
    width: int
    height: int
    mode: int = 0

    @staticmethod
    def of(jpeg: bytes) -> Entry:
        with Image.open(io.BytesIO(jpeg)) as image:
            return Entry(jpeg, image.width, image.height)

    @staticmethod
    def raw(image: Image.Image) -> Entry:
        return Entry(image.tobytes(), image.width, image.height, 1)


def write(
    path: Path,
    entries: Iterable[Entry | bytes],
    labels: Sequence[float] | None = None,
    more: Sequence[tuple[str, Sequence[float]]] = (),
) -> Path:
    """Write a beton of an image and a label field in one or more pages; labels are 0, 1, 2 ... unless given.

    A field whose first value is a float is a float field, any other an int field.
    more: names and values of further fields, after the label.
    """
    samples = [entry if isinstance(entry, Entry) else Entry.of(entry) for entry in entries]
    columns = [("label", range(len(samples)) if labels is None else labels), *more]
    floats = [len(values) > 0 and isinstance(values[0], float) for _, values in columns]
    metadata_end = 24 + (2 + len(more)) * 1041 + (24 + 8 * len(more)) * len(samples)
    at = -(-metadata_end // PAGE) * PAGE
    records, table, pages = b"", b"", bytearray()
    for i, sample in enumerate(samples):
        room = PAGE - len(pages) % PAGE
        if len(sample.payload) > room:
            pages += bytes(room)
        ptr = at + len(pages)
        pages += sample.payload
        records += struct.pack("<BHHQ3x", sample.mode, sample.width, sample.height, ptr)
        records += b"".join(
            struct.pack("<d" if is_float else "<q", values[i])
            for (_, values), is_float in zip(columns, floats)
        )
        table += struct.pack("<QQQ", i, ptr, len(sample.payload))
    pages += bytes(-len(pages) % PAGE)
    named = [(2, "image"), *((0 if is_float else 1, name) for (name, _), is_float in zip(columns, floats))]
    fields = b"".join(struct.pack("<B16s1024x", kind, name.encode()) for kind, name in named)
    head = struct.pack("<HHIQQ", 2, len(named), PAGE, len(samples), at + len(pages)) + fields + records
    path.write_bytes(head + bytes(at - len(head)) + pages + table)
    return path


def copied_over(path: Path, other: Path) -> None:
    """As ``cp`` does: truncated to nothing first."""
    subprocess.run(["cp", other, path], check=True)


def written_over(path: Path, other: Path) -> None:
    """As ``rsync --inplace`` does, and code that opens a file with "r+b"."""
    with open(path, "r+b") as file:
        file.write(other.read_bytes())


def cut(path: Path, other: Path) -> None:
    os.truncate(path, PAGE + 5000)  # pages that are still mapped no longer exist


OVERWRITERS = {"cp": copied_over, "r+b": written_over, "truncate": cut}
"""Each changes a beton in place; the other file has the same length."""


@cache
def picture(width: int = 500, height: int = 375, seed: int = 0) -> Image.Image:
    """A photo-like RGB image: a spectrum that falls as in natural scenes, hues that vary more slowly than brightness, a few edges."""
    rng = np.random.default_rng(seed)
    high, wide = (max(16, side + side % 2) for side in (height, width))
    frequency = np.hypot(np.fft.fftfreq(high)[:, None], np.fft.rfftfreq(wide)[None, :])
    frequency[0, 0] = np.inf
    noise = rng.standard_normal((3, high, wide))
    light, *hues = (
        np.fft.irfft2(np.fft.rfft2(noise[k]) / frequency ** (1.5 if k == 0 else 2)) for k in range(3)
    )
    light, hues = light / light.std(), [hue / hue.std() for hue in hues]
    y, x = np.mgrid[:high, :wide]
    for _ in range(6):
        cy, cx, ry, rx = (
            rng.uniform(0, high),
            rng.uniform(0, wide),
            rng.uniform(0, high / 2),
            rng.uniform(0, wide / 2),
        )
        light += (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) * rng.uniform(-1, 1)
    pixels = (
        125
        + 40 * light
        + 10 * hues[0] * np.array([[[1]], [[-0.5]], [[0]]])
        + 10 * hues[1] * np.array([[[0]], [[-0.2]], [[1]]])
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)[:height, :width].copy())


def photo_paths(count: int) -> list[Path]:
    """Paths of ``count`` ImageNet images, spread over their classes; skips where there are none."""
    found = sorted((components.require("data") / "imagenet-samples/train").glob("*/*.JPEG"))
    return found[:: max(1, len(found) // count)][:count]


def jpeg(image: Image.Image, **options: object) -> bytes:
    """Pillow's JPEG of an image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 90, **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def pixels(jpeg: bytes) -> np.ndarray:
    """The pixels that Pillow decodes. (height, width, 3) uint8."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def cjpeg(image: Image.Image, *options: str) -> bytes:
    """Encode with libjpeg-turbo's program: it has sampling factors and markers that Pillow has no options for."""
    buffer = io.BytesIO()
    image.save(buffer, "PPM")
    return _tool("cjpeg", *options, data=buffer.getvalue())


def jpegtran(jpeg: bytes, *options: str) -> bytes:
    """Write the same coefficients again: ``-restart 4B`` sets markers every 4 MCUs, ``-restart 2`` every 2 rows, ``-restart 0`` none."""
    return _tool("jpegtran", *options, data=jpeg)


def _tool(name: str, *options: str, data: bytes) -> bytes:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (Debian, Ubuntu: libjpeg-turbo-progs)")
    return subprocess.run([name, *options], input=data, capture_output=True, check=True).stdout


def segments(jpeg: bytes) -> dict[int, tuple[int, bytes]]:
    """Marker -> (offset, content) of each segment up to the scan; the last one of each marker."""
    found, at = {}, 2
    while True:
        marker, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found[marker] = (at, jpeg[at + 4 : at + 2 + length])
        at += 2 + length
        if marker == 0xDA:
            found[0] = (at, jpeg[at:])  # the entropy-coded data
            return found


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """The JPEG without one of its segments."""
    at, content = segments(jpeg)[marker]
    return jpeg[:at] + jpeg[at + 4 + len(content) :]


def marks(scan: bytes) -> list[int]:
    """Offsets just after each RST marker in entropy-coded data, and its end."""
    return [k + 2 for k in range(len(scan) - 1) if scan[k] == 0xFF and 0xD0 <= scan[k + 1] <= 0xD7] + [
        len(scan)
    ]


def check_tiles(payload: bytes, width: int, height: int, mcu_px: tuple[int, int] = (16, 16)) -> None:
    """Assert that the interval divides the MCUs per row, the markers count modulo 8, and the table agrees with them."""
    found = segments(payload)
    per_row, rows = -(-width // mcu_px[0]), -(-height // mcu_px[1])
    interval = int.from_bytes(found[0xDD][1], "big")
    assert per_row % interval == 0
    _, scan = found[0]
    ends = marks(scan)
    assert len(ends) == rows * per_row // interval
    assert [scan[end - 1] for end in ends] == [*(0xD0 + k % 8 for k in range(len(ends) - 1)), 0xD9]
    at, content = found[0xEA]
    assert at == 2, "the table comes directly after SOI"
    assert content.startswith(b"TILES\x00\x01\x02")
    assert np.cumsum(np.frombuffer(content[8:], "<u2")).tolist() == ends


def loaded(path: Path, batch_size: int = 16, **options: object) -> dict[int, np.ndarray]:
    """One epoch's pixels by label (the sample's index, where ``write`` made the labels). (3, height, width) uint8 each."""
    options = {"train": False, "drop_last": False, "threads": 1, **options}
    epoch = options.pop("epoch", 0)
    with Loader(path, batch_size, **options) as loader:  # type: ignore[arg-type]
        loader.set_epoch(epoch)  # type: ignore[arg-type]
        return {
            int(label): image.numpy().copy()
            for batch in loader
            for image, label in zip(batch.images, batch.labels)
        }


def drawn_crop(
    width: int,
    height: int,
    index: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    occurrence: int = 0,
    view: int = 0,
    scale: tuple[float, float] = SCALE,
    flip: float = 0.5,
) -> tuple[tuple[int, int, int, int], bool]:
    """The box (left, top, right, bottom) that training draws for a sample, and whether it is mirrored."""
    own = np.uint64(sample_key(np.uint64(seed), np.uint64(epoch), index, occurrence))
    key = np.uint64(view_key(own, view))
    top, left, h, w = random_resized_crop(height, width, key, scale, RATIO)
    return (left, top, left + w, top + h), bool(draw_flip(key, flip))


BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def train_reference(
    image: Image.Image,
    box: tuple[int, int, int, int],
    mirrored: bool,
    size: Size,
    resampling: Image.Resampling = BILINEAR,
) -> np.ndarray:
    """Crop, Pillow's antialiased resize, flip: as torchvision does for a PIL image. (3, height, width) uint8"""
    made = image.crop(box).resize(sides(size)[::-1], resampling)
    if mirrored:
        made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(made).transpose(2, 0, 1)


def eval_reference(
    image: Image.Image,
    size: Size = 224,
    resize: Size = 256,
    resampling: Image.Resampling = BILINEAR,
) -> np.ndarray:
    """torchvision's Resize(resize) and CenterCrop(size) of a PIL image, by Pillow. (3, height, width) uint8"""
    left, top, width, height = eval_geometry(image.width, image.height, size, resize)
    resized, (high, wide) = image.resize((width, height), resampling), sides(size)
    return np.asarray(resized.crop((left, top, left + wide, top + high))).transpose(2, 0, 1)


def eval_geometry(width: int, height: int, size: Size, resize: Size) -> tuple[int, int, int, int]:
    """Where CenterCrop(size) cuts (left, top), and the size (width, height) that Resize(resize) gives, as torchvision computes them.

    ``_compute_resized_output_size`` and ``center_crop`` of torchvision/transforms/functional.py.  Of a size that is no square,
    torchvision's Resize would change the image's shape: here the shorter side becomes what lets the image just cover it, as
    timm's ResizeKeepRatio.
    """
    (high, wide), (to_height, to_width) = sides(size), sides(resize)
    if width * to_height <= height * to_width:
        new_width, new_height = to_width, int(to_width * height / width)
    else:
        new_width, new_height = int(to_height * width / height), to_height
    return int(round((new_width - wide) / 2.0)), int(round((new_height - high) / 2.0)), new_width, new_height


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(ours.astype(np.int16) - theirs).mean())


def read_with_ffcv(
    path: Path, *, os_cache: bool = True, floats: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 3) uint8 and labels (N,) int64 as ffcv's own Loader delivers a file of one image size.

    Without ``os_cache`` it reads the file page by page into its own memory.  floats: labels are a float field, (N,) float64.
    """
    from ffcv.fields.basics import FloatDecoder, IntDecoder
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import Loader as TheirLoader
    from ffcv.loader import OrderOption

    loader = TheirLoader(
        str(path),
        batch_size=4,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [FloatDecoder() if floats else IntDecoder()]},
        os_cache=os_cache,
    )
    images, labels = (
        np.concatenate(parts) for parts in zip(*([part.copy() for part in batch] for batch in loader))
    )
    return images, labels.ravel()
