"""Promise 4: a sample that cannot be decoded is an error that names it, or is skipped, counted and listed; it never becomes stale memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast import Loader
from alexnet_fast.decode.status import BrokenSample
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, loaded, picture, write

GOOD = [encode_jpeg(picture(200, 150, seed), Encoding()) for seed in range(12)]


BROKEN = [
    GOOD[5][:3000],
    GOOD[5][:3000] + bytes(2000) + GOOD[5][5000:],
    b"no image",
    encode_jpeg(picture(150, 200), Encoding()),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_sample_is_an_error_that_names_it_in_every_epoch(tmp_path: Path, broken: bytes) -> None:
    entries = [Entry(broken if k == 5 else good, 200, 150) for k, good in enumerate(GOOD)]
    path = write(tmp_path / "a.beton", entries)
    path.with_name("a.beton.json").write_text(json.dumps({"paths": [f"class/{k}.JPEG" for k in range(12)]}))
    true = loaded(write(tmp_path / "good.beton", GOOD))
    with Loader(path, 1, train=False) as loader:
        for _ in range(3):
            delivered = {}
            with pytest.raises(
                BrokenSample, match=rf"sample 5 \(class/5\.JPEG\) of {path} cannot be decoded: "
            ):
                for batch in loader:
                    delivered[int(batch.labels[0])] = batch.images[0].numpy()
            assert sorted(delivered) == [0, 1, 2, 3, 4]
            assert all(np.array_equal(image, true[label]) for label, image in delivered.items())


@pytest.mark.parametrize("threads", [1, 2])
def test_skipped_broken_samples_are_counted_and_listed_and_deliver_no_pixel(
    tmp_path: Path, threads: int
) -> None:
    entries = [Entry(BROKEN[k // 3] if k % 3 == 1 else good, 200, 150) for k, good in enumerate(GOOD)]
    path = write(tmp_path / "a.beton", entries)
    true = loaded(write(tmp_path / "good.beton", GOOD))
    with Loader(path, 4, train=False, threads=threads, on_error="skip") as loader:
        for _ in range(3):
            delivered = {int(label): image.numpy() for batch in loader for image, label in zip(*batch)}
            assert sorted(delivered) == [0, 2, 3, 5, 6, 8, 9, 11]
            assert all(np.array_equal(image, true[label]) for label, image in delivered.items())
            assert [each.index for each in loader.skipped] == [1, 4, 7, 10] and loader.skipped_in_epoch == 4
