"""A Loader over several files: one exact order over all of them, the pixels and the state of the same samples in one file."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Loader, UserError
from alexnet_fast.beton.errors import BetonError
from alexnet_fast.decode.status import BrokenSample
from betons import OVERWRITERS, Entry, jpeg, picture, write
from handed_out import Samples, labels_and_pixels, places_and_pixels, places_of
from loader.conftest import FIFTY, opened

BEGINS = (0, 7, 31, FIFTY)  # three files of unequal length


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The fifty of ``fifty``, in three files."""
    folder = tmp_path_factory.mktemp("several")
    return [
        write(
            folder / f"{'abc'[k]}.beton",
            [jpeg(picture(60, 50, i)) for i in range(begin, end)],
            list(range(begin, end)),
        )
        for k, (begin, end) in enumerate(pairwise(BEGINS))
    ]


@pytest.mark.parametrize("options", [{}, {"drop_last": False}, {"train": False}, {"threads": 3}])
def test_batches_are_those_of_one_file_with_the_same_samples(
    fifty: Path, files: list[Path], options: dict[str, Any]
) -> None:
    with opened(fifty, **options) as one, opened(files, **options) as several:
        for _ in range(2):
            assert places_and_pixels(one) == places_and_pixels(several)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_evaluation_has_every_sample_once_over_all_ranks(files: list[Path], world_size: int) -> None:
    found = []
    for rank in range(world_size):
        with opened(files, train=False, rank=rank, world_size=world_size) as loader:
            found += places_of(loader)
    assert sorted(found) == list(range(FIFTY))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 1)])
def test_an_epoch_resumes_in_its_middle_with_another_number_of_ranks(
    epochs: list[Samples], files: list[Path], before: int, after: int
) -> None:
    states, first = [], [[]] * before
    for rank in range(before):
        with opened(files, 4, drop_last=False, rank=rank, world_size=before) as loader:
            first[rank] = labels_and_pixels(iter(loader), 3)
            states.append(json.loads(json.dumps(loader.state_dict())))
    assert states == [states[0]] * before
    rest: Samples = []
    for rank in range(after):
        with opened(files, 5, drop_last=False, rank=rank, world_size=after) as loader:
            loader.load_state_dict(states[0])
            rest += labels_and_pixels(iter(loader))
    assert sorted([*(each for of_rank in first for each in of_rank), *rest]) == sorted(epochs[0])


def test_the_state_of_one_file_is_the_state_of_the_same_samples_in_several(
    fifty: Path, files: list[Path], epochs: list[Samples]
) -> None:
    with opened(fifty, drop_last=False) as loader:
        labels_and_pixels(iter(loader), 2)
        state = loader.state_dict()
    with opened(files, drop_last=False) as loader:
        loader.load_state_dict(state)
        assert labels_and_pixels(iter(loader)) == epochs[0][16:]


def test_indices_random_access_and_the_dataset_count_over_all_files(files: list[Path]) -> None:
    with opened(files, train=False, indices=[49, 8, 0, 8], batch_size=4) as loader:
        (batch,) = loader
        assert batch.labels.tolist() == [49, 8, 0, 8] == loader.dataset.targets
        assert loader.dataset[1][1] == 8 and len(loader.dataset) == 4
        assert loader.get([30, 31]).labels.tolist() == [30, 31]
        assert np.array_equal(loader.get([8]).images[0], batch.images[1])
        assert int(loader[7][1]) == 7 and loader.num_classes == FIFTY


def test_the_block_order_reads_windows_of_pages_of_all_files(files: list[Path]) -> None:
    with opened(files, order="block", drop_last=False) as loader:
        assert sorted(places_of(loader)) == list(range(FIFTY))
        assert loader.pages_checksum is not None


def test_a_pickle_opens_the_same_files(files: list[Path]) -> None:
    with opened(files[0].parent / "*.beton") as loader, pickle.loads(pickle.dumps(loader)) as again:
        assert places_and_pixels(again) == places_and_pixels(loader)
        assert again.beton.files == files


def test_a_broken_sample_is_named_with_its_file(files: list[Path], tmp_path: Path) -> None:
    broken = write(tmp_path / "broken.beton", [jpeg(picture(60, 50)), Entry(b"no JPEG" * 99, 60, 50)], [0, 1])
    with opened([files[0], broken], train=False) as loader, pytest.raises(BrokenSample) as error:
        list(loader)
    assert f"sample 8 of {files[0]}" in str(error.value).replace(" and 1 more", "")
    assert f"sample 1 of {broken} cannot be decoded" in str(error.value)
    with opened([files[0], broken], train=False, on_error="skip") as loader:
        assert sum(len(batch.labels) for batch in loader) == 8
        assert [each.index for each in loader.skipped] == [8]


@pytest.mark.parametrize("how", sorted(OVERWRITERS))
def test_a_file_that_changes_while_it_is_read_is_an_error_and_no_batch(
    files: list[Path], tmp_path: Path, how: str
) -> None:
    copies = [tmp_path / path.name for path in files]
    for path, copy in zip(files, copies):
        shutil.copy(path, copy)
    with opened(copies, 8, batches_ahead=1) as loader:
        batches = iter(loader)
        next(batches)
        time.sleep(0.02)  # a tick of the kernel's clock: see mapped.Witness
        OVERWRITERS[how](copies[1], files[0])
        with pytest.raises(BetonError, match=r"b\.beton was"):
            for _ in range(100):
                list(loader)
        with pytest.raises(BetonError, match=r"b\.beton was"):
            loader.get([8])
        assert loader.get([0, 49]).labels.tolist() == [0, 49], "the other files are as they were"


# -- weights


def shares(loader: Loader, epochs: int) -> list[list[int]]:
    """How many samples of each file each epoch has."""
    return [
        np.bincount(np.searchsorted(BEGINS, places_of(loader), side="right") - 1, minlength=3).tolist()
        for _ in range(epochs)
    ]


def test_each_entry_has_its_share_of_every_epoch_and_on_the_whole_exactly(files: list[Path]) -> None:
    with opened(files, weights=[0.5, 0.33, 0.17], drop_last=False) as loader:
        found = np.array(shares(loader, 20))
    assert (found.sum(axis=1) == FIFTY).all()
    assert (abs(found - np.array([25, 16.5, 8.5])) < 1).all()
    assert abs(found.mean(axis=0) - [25, 16.5, 8.5]).max() < 0.1


def test_within_an_entry_each_sample_comes_once_before_one_comes_again(files: list[Path]) -> None:
    with opened(files, weights=[3, 0, 2], drop_last=False) as loader:
        places = places_of(loader)
        times = np.bincount(places, minlength=FIFTY)
        assert set(times[:7]) == {4, 5} and set(times[7:31]) == {0} and set(times[31:]) == {1, 2}
        copies = {pixels for place, pixels in places_and_pixels(loader) if place == 0}
        assert len(copies) >= 4, "each copy has a crop of its own"


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 2)])
def test_a_weighted_epoch_resumes_exactly_with_another_number_of_ranks(
    files: list[Path], before: int, after: int
) -> None:
    def of_ranks(
        count: int, batch_size: int, state: dict[str, int] | None, steps: int
    ) -> tuple[Samples, Any]:
        found: Samples = []
        for rank in range(count):
            with opened(
                files, batch_size, drop_last=False, weights=[1, 1, 4], rank=rank, world_size=count
            ) as loader:
                if state:
                    loader.load_state_dict(state)
                found += labels_and_pixels(iter(loader), steps)
                last = loader.state_dict()
        return found, last

    every, _ = of_ranks(1, 8, None, 99)
    first, state = of_ranks(before, 4, None, 2)
    rest, _ = of_ranks(after, 5, state, 99)
    assert sorted(first + rest) == sorted(every)


def test_a_pattern_in_a_list_is_one_entry(files: list[Path]) -> None:
    folder = files[0].parent
    with opened([str(folder / "[ab].beton"), files[2]], weights=[0, 1]) as loader:
        assert min(places_of(loader)) >= BEGINS[2]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weights": [1, 2]}, "has 2 numbers, but the list of files has 3 entries"),
        ({"weights": [0, 0, 0]}, "one of them more"),
        ({"weights": "abc"}, "a list of numbers"),
        ({"weights": [1, 1, 1], "order": "block"}, "an order"),
        ({"weights": [1, 1, 1], "shuffle": False}, "an order"),
        ({"weights": [1, 1, 1], "indices": [0, 8]}, r"weights\[2\] = 1, but indices has no sample"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_words(
    files: list[Path], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        opened(files, **options)


def test_weights_of_a_single_file_are_refused_in_words(fifty: Path) -> None:
    with pytest.raises(UserError, match="has 2 numbers, but the list of files has 1 entry"):
        opened(fifty, weights=[1, 2])
