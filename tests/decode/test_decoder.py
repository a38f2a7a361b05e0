"""One thread's decoder: its working memory and its handle."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast import Beton
from alexnet_fast.decode import decoder
from alexnet_fast.decode.crop import CROP_DTYPE, CropOptions, draw_crops
from alexnet_fast.decode.decoder import Decoder
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.decode.status import OK, TOO_LARGE
from betons import RATIO, SCALE, Entry, jpeg, picture, write

SIZE = 64
TRAINING = CropOptions(True, SIZE, SIZE, np.uint64(3), SCALE, RATIO, 0.5)


@pytest.fixture(scope="module")
def beton(require: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Beton:
    """A small image, one that is larger than a decoder's first memory, and a small one again."""
    require("turbojpeg")
    images = [picture(120, 90, 1), picture(900, 1300, 2), picture(150, 200, 3)]
    return Beton(write(tmp_path_factory.mktemp("decoder") / "a.beton", [jpeg(image) for image in images]))


def decoded(ours: Decoder, beton: Beton, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images = np.full((len(samples), 3, SIZE, SIZE), 0xAA, np.uint8)
    statuses = np.full(len(samples), 0xAA, np.uint8)
    boxes = np.empty(len(samples), CROP_DTYPE)
    draw_crops(samples, np.uint64(1), TRAINING, boxes)
    ours.decode(beton.map, samples, boxes, images, statuses)
    return images, statuses


def test_a_batch_has_the_pixels_that_each_sample_has_alone_whatever_was_decoded_before(beton: Beton) -> None:
    samples, used = sample_table(beton), Decoder(SIZE)
    for _ in range(2):
        images, statuses = decoded(used, beton, samples)
        assert not statuses.any()
        for k in range(len(samples)):
            alone, status = Decoder(SIZE).decode_one(beton.map, samples[k : k + 1], TRAINING, epoch=1)
            assert status == OK and np.array_equal(alone, images[k])


def test_several_decoders_share_a_batch_and_each_sample_is_decoded_by_one_of_them(beton: Beton) -> None:
    samples = np.tile(sample_table(beton), 40)
    boxes = np.empty(len(samples), CROP_DTYPE)
    draw_crops(samples, np.uint64(1), TRAINING, boxes)
    expected, _ = decoded(Decoder(SIZE), beton, samples)
    images, statuses = np.zeros_like(expected), np.full(len(samples), 0xAA, np.uint8)
    progress = np.zeros(2, np.int64)

    def work(_: int) -> list[int]:
        done = Decoder(SIZE).decode(beton.map, samples, boxes, images, statuses, progress)
        return list(done.tolist())

    with ThreadPoolExecutor(3) as pool:
        shares = list(pool.map(work, range(3)))
    assert sorted(place for share in shares for place in share) == list(range(len(samples)))
    assert progress[0] >= len(samples) and progress[1] == len(samples)
    assert not statuses.any() and np.array_equal(images, expected)


def test_a_decoder_stops_after_its_current_sample_when_all_are_taken(beton: Beton) -> None:
    samples = sample_table(beton)
    images, statuses = np.zeros((3, 3, SIZE, SIZE), np.uint8), np.zeros(3, np.uint8)
    boxes, progress = np.zeros(3, CROP_DTYPE), np.array([3, 0])
    assert len(Decoder(SIZE).decode(beton.map, samples, boxes, images, statuses, progress)) == 0
    assert progress[1] == 0 and not images.any()


def test_a_sample_that_no_memory_is_taken_for_leaves_the_others_of_its_batch_alone(tmp_path: Path) -> None:
    image = picture(120, 90)
    beton = Beton(write(tmp_path / "a.beton", [jpeg(image)] * 3))
    samples = sample_table(beton)
    samples["width"][1] = samples["height"][1] = 60_000
    samples["size"][1] = 1 << 26
    images, statuses = decoded(Decoder(SIZE), beton, samples)
    assert statuses.tolist() == [OK, TOO_LARGE, OK]
    assert images[0].std() > 0 and images[2].std() > 0 and (images[1] == 0xAA).all()


def test_without_a_crop_the_whole_image_is_decoded(tmp_path: Path) -> None:
    left_white = np.zeros((90, 120, 3), np.uint8)
    left_white[:, :60] = 255
    beton = Beton(write(tmp_path / "a.beton", [Entry.raw(Image.fromarray(left_white))]))
    image, status = Decoder(SIZE).decode_one(beton.map, sample_table(beton))
    assert status == OK and (image[:, :, :31] == 255).all() and (image[:, :, 33:] == 0).all()


def test_a_handle_is_freed_once_when_its_decoder_is_closed_or_dropped(
    beton: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[int] = []
    free = decoder.close_handle
    monkeypatch.setattr(decoder, "close_handle", lambda handle: (freed.append(handle), free(handle)))
    with Decoder(SIZE) as closed:
        handle = int(closed.scratch.handle)
        decoded(closed, beton, sample_table(beton))
        assert int(closed.scratch.handle) == handle, "it has grown, with the same handle"
    closed.close()
    assert freed == [handle]
    with pytest.raises(AttributeError, match="scratch"):
        decoded(closed, beton, sample_table(beton))
    dropped = Decoder(SIZE)
    other = int(dropped.scratch.handle)
    del dropped
    gc.collect()
    assert freed == [handle, other]


@pytest.mark.parametrize(
    ("boxes", "images", "statuses"), [((1,), (3,), 3), ((3,), (2,), 3), ((3,), (3,), 2), ((1, 3), (2, 3), 3)]
)
def test_arrays_that_are_not_of_the_same_samples_are_refused_before_compiled_code_sees_them(
    beton: Beton, boxes: tuple[int, ...], images: tuple[int, ...], statuses: int
) -> None:
    with Decoder(SIZE) as one, pytest.raises(ValueError, match="are not those of 3 samples"):
        one.decode(
            beton.map,
            sample_table(beton)[:3],
            np.zeros(boxes, CROP_DTYPE),
            np.zeros((*images, 3, SIZE, SIZE), np.uint8),
            np.zeros(statuses, np.uint8),
        )
