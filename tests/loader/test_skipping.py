"""One image in a hundred broken, in six ways: 'raise' names the first, 'skip' skips and lists each, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_fast import Loader
from alexnet_fast.decode.status import BrokenSample
from alexnet_fast.loader.bad_samples import SkippedSample, summarize
from alexnet_fast.loader.sampler import epoch_permutation
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, loaded, picture, write
from stress.broken_samples import WAYS, damage

BROKEN = dict(zip(range(7, 1000, 100), [*WAYS, "truncated", "wrong size", "not a JPEG", "lying header"]))
BATCH = 50


@pytest.fixture(scope="module")
def corrupt(all_photos_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage(all_photos_beton, tmp_path_factory.mktemp("corrupt") / "train.beton", BROKEN, seed=0)


Found = tuple[list[SkippedSample], int, dict[int, np.ndarray]]


def skipping(path: Path, rank: int = 0, world_size: int = 1, threads: int = 2) -> Found:
    """What was skipped in an epoch of training, how often, and the pixels by label of what was not (a class has one image)."""
    with Loader(
        path, BATCH // world_size, train=True, seed=3, threads=threads, rank=rank, world_size=world_size,
        on_error="skip",
    ) as loader:  # fmt: skip
        delivered = {int(label): image.numpy().copy() for batch in loader for image, label in zip(*batch)}
        return loader.skipped, loader.skipped_in_epoch, delivered


def test_skip_skips_and_lists_each_for_any_number_of_threads_and_ranks(
    corrupt: Path, all_photos_beton: Path
) -> None:
    skipped, count, delivered = skipping(corrupt)
    listed = {each.index for each in skipped}
    always = {k for k, way in BROKEN.items() if way not in ("zeroed scan", "bad marker order")}
    assert always < listed <= set(BROKEN), "of the other two a crop may not touch the broken part"
    assert count == len(skipped) == len(listed) == 1000 - len(delivered)
    assert all(each.path and each.path.endswith(".JPEG") and each.epoch == 0 for each in skipped)

    intact = loaded(all_photos_beton, BATCH, train=True, seed=3, threads=2)
    assert all(np.array_equal(image, intact[label]) for label, image in delivered.items())

    alone, _, same = skipping(corrupt, threads=1)
    assert alone == skipped, "in the same order too"
    assert list(same) == list(delivered)
    assert all(np.array_equal(same[label], delivered[label]) for label in same)

    ranks = [skipping(corrupt, rank, 2) for rank in range(2)]
    assert sorted((*ranks[0][0], *ranks[1][0]), key=lambda each: each.index) == sorted(
        skipped, key=lambda each: each.index
    )
    assert {*ranks[0][2], *ranks[1][2]} == set(delivered)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_raise_names_the_first_in_the_epochs_order(corrupt: Path, threads: int) -> None:
    order = epoch_permutation(1000, seed=6, epoch=0).tolist()
    always = [k for k, way in BROKEN.items() if way not in ("zeroed scan", "bad marker order")]
    first = min(always, key=order.index)
    assert order.index(first) < min(order.index(k) for k in BROKEN if k not in always), (
        "else take another seed"
    )
    with (
        Loader(corrupt, BATCH, train=True, seed=6, size=32, threads=threads) as loader,
        pytest.raises(BrokenSample, match=rf"^sample {first} \(.*\.JPEG\) of {corrupt} cannot be decoded: "),
    ):
        list(loader)


# -- the batches


def path_of(folder: Path, broken: set[int], count: int = 12) -> Path:
    good = encode_jpeg(picture(80, 60), Encoding())
    return write(
        folder / "a.beton", [Entry(b"no image" if k in broken else good, 80, 60) for k in range(count)]
    )


def test_a_batch_is_shorter_by_what_is_skipped_and_keeps_its_order(tmp_path: Path) -> None:
    with Loader(path_of(tmp_path, {0, 5, 6, 11}), 4, train=False, size=16, on_error="skip") as loader:
        for epoch in range(3):
            batches = list(loader)
            assert [batch.labels.tolist() for batch in batches] == [[1, 2, 3], [4, 7], [8, 9, 10]]
            assert [len(batch.images) for batch in batches] == [3, 2, 3]
            assert [batch.indices.tolist() for batch in batches] == [[1, 2, 3], [4, 7], [8, 9, 10]]
            assert all(batch.images.is_contiguous() for batch in batches)
            assert [(each.index, each.epoch) for each in loader.skipped] == [(0, 0), (5, 0), (6, 0), (11, 0)]
            assert (loader.epoch, loader.skipped_in_epoch) == (epoch + 1, 4)


def test_an_epoch_of_no_broken_sample_counts_none(tmp_path: Path) -> None:
    with Loader(path_of(tmp_path, set()), 4, train=True, size=16, on_error="skip") as loader:
        assert sum(len(batch.labels) for batch in loader) == 12
        assert (loader.skipped, loader.skipped_in_epoch) == ([], 0)


def test_a_batch_of_which_nothing_is_left_is_an_error_where_all_ranks_make_as_many_steps(
    tmp_path: Path,
) -> None:
    path = path_of(tmp_path, {4, 5, 6, 7})
    with Loader(path, 4, train=True, shuffle=False, size=16, on_error="skip") as loader:
        delivered = []
        expected = rf"^all 4 samples of epoch 0, step 1 are broken.*: sample 4 of {path} cannot be decoded"
        with pytest.raises(BrokenSample, match=expected):
            for batch in loader:
                delivered += batch.labels.tolist()
        assert delivered == [0, 1, 2, 3]


def test_a_batch_of_which_nothing_is_left_is_skipped_elsewhere(tmp_path: Path) -> None:
    with Loader(path_of(tmp_path, {4, 5, 6, 7}), 4, train=False, size=16, on_error="skip") as loader:
        assert [batch.labels.tolist() for batch in loader] == [[0, 1, 2, 3], [8, 9, 10, 11]]
        assert loader.skipped_in_epoch == 4


def test_a_report_names_the_first_and_counts_the_rest() -> None:
    skipped = [
        SkippedSample(k, f"a/{k}.JPEG" if k % 2 else None, "its bytes are no JPEG", 0) for k in (5, 2, 9)
    ]
    assert summarize(skipped, most=2) == (
        "3 samples cannot be decoded and are skipped: sample 2: its bytes are no JPEG; "
        "sample 5 (a/5.JPEG): its bytes are no JPEG; and 1 more"
    )
