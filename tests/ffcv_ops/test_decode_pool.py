"""Batches that are decoded while their caller waits."""

from __future__ import annotations

import importlib.util
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("ffcv") is None:
    pytest.skip("ffcv is not here", allow_module_level=True)

from alexnet_fast import Beton
from alexnet_fast.decode.crop import CROP_DTYPE, CropOptions, draw_crops
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.decode.status import NOT_JPEG
from alexnet_fast.ffcv_ops import decode_pool
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import RATIO, SCALE, Entry, loaded, picture, write

SIZES = [(200, 150), (96, 130), (333, 250), (65, 33), (640, 600)] * 8


@pytest.fixture(scope="module")
def file(require: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("turbojpeg")
    payloads = [encode_jpeg(picture(width, height, 1), Encoding()) for width, height in SIZES]
    return write(tmp_path_factory.mktemp("team") / "a.beton", payloads)


def drawn(samples: np.ndarray, flip: float = 0.5) -> np.ndarray:
    boxes = np.empty(len(samples), CROP_DTYPE)
    draw_crops(samples, np.uint64(0), CropOptions(True, 0, 0, np.uint64(0), SCALE, RATIO, flip), boxes)
    return boxes


def decoded(path: Path, height: int, width: int, threads: int) -> np.ndarray:
    beton = Beton(path)
    samples = sample_table(beton)
    out = np.empty((len(samples), height, width, 3), np.uint8)
    assert not decode_pool.DecodePool().decode(beton.map, samples, drawn(samples), out, threads).any()
    return out


def test_squares_are_the_loaders_pixels_on_any_number_of_threads(file: Path) -> None:
    expected = loaded(file, train=True, shuffle=False, size=64)
    for threads in (1, 2, 5):
        out = decoded(file, 64, 64, threads)
        assert all(np.array_equal(image.transpose(2, 0, 1), expected[k]) for k, image in enumerate(out))


def test_a_lower_image_is_the_square_of_a_taller_box(file: Path) -> None:
    """Halving the height of the output halves the rows: they are means of pairs, except for rounding and the filter's overlap."""
    square, low = decoded(file, 64, 64, 2).astype(float), decoded(file, 32, 64, 2)
    assert np.abs((square[:, ::2] + square[:, 1::2]) / 2 - low).mean() < 2


def test_the_status_of_each_sample_is_returned(file: Path, tmp_path: Path) -> None:
    payload = Beton(file).payload(0).tobytes()
    path = write(tmp_path / "a.beton", [Entry(payload if k % 7 else b"none", 200, 150) for k in range(20)])
    beton = Beton(path)
    samples = sample_table(beton)
    out = np.empty((20, 16, 16, 3), np.uint8)
    for threads in (1, 2):
        statuses = decode_pool.DecodePool().decode(beton.map, samples, drawn(samples), out, threads)
        assert statuses.tolist() == [NOT_JPEG if k % 7 == 0 else 0 for k in range(20)]


def test_when_one_thread_fails_the_others_have_ended_before_the_caller_gets_the_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended, numbers = [], [], count()
    real_decode = decode_pool.Worker.decode

    def failing(self: decode_pool.Worker, *arguments: Any) -> None:
        started.append(threading.get_ident())
        if next(numbers) == 0:
            raise MemoryError("no room")
        time.sleep(0.01)
        real_decode(self, *arguments)
        ended.append(threading.get_ident())

    monkeypatch.setattr(decode_pool.Worker, "decode", failing)
    with pytest.raises(MemoryError, match="no room"):
        decoded(file, 32, 32, 3)
    assert len(ended) == len(started) - 1 > 1


def test_workers_are_kept_and_no_more_of_them_than_threads(file: Path) -> None:
    beton = Beton(file)
    samples = sample_table(beton)
    ours = decode_pool.DecodePool()
    for size in (32, 48, 32):
        out = np.empty((len(samples), size, size, 3), np.uint8)
        ours.decode(beton.map, samples, drawn(samples), out, 3)
        assert 1 <= len(ours._idle) <= 3


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("other", [(48, 48), (48, 20), (20, 48)])
def test_a_large_image_fits_after_a_small_one_at_each_size_in_turn(
    tmp_path: Path, threads: int, other: tuple[int, int]
) -> None:
    """Each is a separate batch: the room that a thread has at one size may not suffice for the next."""
    images = [picture(40, 30), picture(900, 700, 1), picture(40, 30, 2), picture(60, 1200, 3)]
    payloads = [encode_jpeg(image, Encoding(quality=98)) for image in images]
    assert len(payloads[1]) > 1 << 16
    beton = Beton(write(tmp_path / "a.beton", payloads))
    samples, ours = sample_table(beton), decode_pool.DecodePool()
    expected = {}
    for height, width in ((32, 32), other, (32, 32), other):
        for k in range(len(samples)):
            out, one = np.empty((1, height, width, 3), np.uint8), samples[k : k + 1]
            assert ours.decode(beton.map, one, drawn(one), out, threads).tolist() == [0]
            assert np.array_equal(out, expected.setdefault((height, k), out))
