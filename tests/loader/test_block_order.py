"""The block order: every sample once, window by window, the same on any ranks and after a resume, read in large requests."""

from __future__ import annotations

import pickle
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast import Beton, Block, Loader, UserError
from alexnet_fast.beton import format as fmt
from alexnet_fast.decode.kernel import sample_table
from alexnet_fast.loader import planner
from alexnet_fast.loader.block_order import block_permutation
from alexnet_fast.loader.orders import BlockShuffled
from alexnet_fast.run.same_set import identity
from betons import jpeg, picture, write
from handed_out import places_and_pixels, places_of

PAGES, OF_A_PAGE = 7, 6
COUNT = PAGES * OF_A_PAGE
WAIT_S = 20.0


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pages of six images, out of the set's order, as FFCV's workers leave them."""
    return spread(packed(tmp_path_factory.mktemp("block")))


def packed(folder: Path) -> Path:
    """The same images on one page."""
    images = [jpeg(picture(40 + k % 5, 36, k)) for k in range(COUNT)]
    return write(folder / "a.beton", images, [k // 6 for k in range(COUNT)])


def spread(path: Path) -> Path:
    """Move the payloads of a small file apart, to six on a page, every second page's among themselves in another order."""
    content = path.read_bytes()
    header = np.frombuffer(content, fmt.HEADER, 1).copy()
    start, page = fmt.metadata_offset(2), int(header["page_size"][0])
    dtype = fmt.record_dtype([fmt.RGB_IMAGE_ID, fmt.INT_ID])
    count, table_ptr = int(header["num_samples"][0]), int(header["alloc_table_ptr"][0])
    records = np.frombuffer(content, dtype, count, start).copy()
    table = np.frombuffer(content, fmt.ALLOCATION, count, table_ptr).copy()
    pages = [np.arange(k, count, PAGES) for k in range(PAGES)]  # neighbours in the set lie on different pages
    with open(path, "r+b") as file:
        for k, members in enumerate(pages):
            at = (k + 1) * page
            for place in members[:: -1 if k % 2 else 1]:
                ptr, size = int(records["f0"]["data_ptr"][place]), int(table["size"][place])
                file.seek(at)
                file.write(content[ptr : ptr + size])
                records["f0"]["data_ptr"][place] = at
                table["ptr"][table["sample_id"] == place] = at
                at += size
        header["alloc_table_ptr"] = (PAGES + 1) * page
        file.seek(int(header["alloc_table_ptr"][0]))
        file.write(table.tobytes())
        file.seek(0)
        file.write(header.tobytes())
        file.seek(start)
        file.write(records.tobytes())
    return path


def opened(beton: Path, batch_size: int = 5, **options: Any) -> Loader:
    given = {
        "train": True,
        "size": 24,
        "seed": 3,
        "threads": 1,
        "drop_last": False,
        "order": Block(2),
        **options,
    }
    return Loader(beton, batch_size, **given)


def page_of(place: int) -> int:
    return place % PAGES


# -- which samples, in which order


def test_each_sample_comes_once_an_epoch_and_seed_and_epoch_change_the_order(beton: Path) -> None:
    with opened(beton) as loader, opened(beton, seed=4) as other:
        epochs = [places_of(loader), places_of(loader), places_of(other)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    with opened(beton) as again:
        assert places_of(again) == epochs[0]


def test_a_window_has_whole_pages_and_its_samples_are_shuffled(beton: Path) -> None:
    with opened(beton) as loader:
        drawn = loader._own.orders.draw(0)
        places = places_of(loader)
    assert drawn.windows is not None
    seen: list[set[int]] = []
    for begin, end in pairwise(drawn.windows):
        pages = {page_of(place) for place in places[begin:end]}
        assert len(pages) * OF_A_PAGE == end - begin and 1 <= len(pages) <= 2
        assert places[begin:end] != sorted(places[begin:end])
        seen.append(pages)
    assert sorted(map(len, seen)) == [1, 2, 2, 2] and set().union(*seen) == set(range(PAGES))


def test_windows_differ_by_one_page_at_most() -> None:
    pages = np.arange(65)
    for window_pages, expected in (
        (64, [32, 33]),
        (65, [65]),
        (1000, [65]),
        (22, [21, 22, 22]),
        (1, [1] * 65),
    ):
        places, windows = block_permutation(pages, window_pages, 0, 0)
        assert sorted(np.diff(windows).tolist()) == expected
        assert sorted(places.tolist()) == pages.tolist()


def test_pages_meet_others_in_another_epoch() -> None:
    pages = np.repeat(np.arange(40), 3)
    companies = []
    for epoch in range(2):
        places, windows = block_permutation(pages, 10, 0, epoch)
        companies.append({frozenset(pages[places[b:e]]) for b, e in pairwise(windows)})
    assert not companies[0] & companies[1]


def test_it_is_the_same_for_any_threads_batches_ranks_and_resumes(beton: Path) -> None:
    with opened(beton, 64) as loader:
        loader.set_epoch(2)
        expected = places_and_pixels(loader)
    with opened(beton, 7, threads=3) as loader:
        loader.set_epoch(2)
        batches = iter(loader)
        next(batches), next(batches)
        state = loader.state_dict()
    for ranks in (1, 3):
        rest, whole = [], []
        for rank in range(ranks):
            with opened(beton, 2, rank=rank, world_size=ranks) as loader:
                loader.set_epoch(2)
                whole += places_and_pixels(loader)
                loader.load_state_dict(state)
                rest += places_and_pixels(loader)
        assert sorted(whole) == sorted(expected)
        assert sorted(rest) == sorted(expected[14:])


def test_a_file_of_one_page_is_one_shuffled_window(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(40, 36, k)) for k in range(9)])
    with opened(path, order="block") as loader:
        first, second = places_of(loader), places_of(loader)
        assert loader._own.orders.draw(0).windows.tolist() == [0, 9]
    assert sorted(first) == sorted(second) == list(range(9)) and first != second


def test_some_samples_and_copies_of_them_keep_their_numbers(beton: Path) -> None:
    indices = [9, 8, 8, 7, 30, 30]
    with opened(beton, indices=indices) as loader:
        made = places_and_pixels(loader)
    assert sorted(place for place, _ in made) == sorted(indices)
    assert len({pixels for _, pixels in made}) == len(indices), "each copy has a crop of its own"


# -- how it is given


def test_its_name_stands_for_its_default(beton: Path) -> None:
    with opened(beton, order="block") as loader, opened(beton, order=Block()) as other:
        assert places_of(loader) == places_of(other)
        with pickle.loads(pickle.dumps(loader)) as copy:
            copy.set_epoch(0)
            loader.set_epoch(0)
            assert places_and_pixels(copy) == places_and_pixels(loader)


def test_what_does_not_fit_is_refused(beton: Path) -> None:
    with pytest.raises(UserError, match="order = 'blocks'"):
        opened(beton, order="blocks")
    with pytest.raises(UserError, match="shuffle = True and an order"):
        opened(beton, order="block", shuffle=True)
    with pytest.raises(UserError, match="order is the class Block"):
        opened(beton, order=Block)
    for wrong in (0, 1.5):
        with pytest.raises(UserError, match="^Block.window_pages"):
            Block(wrong)  # type: ignore[arg-type]


def test_a_state_of_other_windows_is_refused(beton: Path) -> None:
    with opened(beton, order=Block(2)) as loader:
        next(iter(loader))
        state = loader.state_dict()
    for order in (Block(3), None):
        with opened(beton, order=order) as loader, pytest.raises(UserError):
            loader.load_state_dict(state)


def test_a_state_of_the_same_images_on_other_pages_is_refused(beton: Path, tmp_path: Path) -> None:
    other = packed(tmp_path)
    with opened(beton) as loader, opened(other) as moved:
        with pytest.raises(UserError):
            moved.load_state_dict(loader.state_dict())
        assert identity(loader)["pages"] != identity(moved)["pages"]
    with opened(beton, order=None) as loader, opened(other, order=None) as moved:
        moved.load_state_dict(loader.state_dict())
        assert identity(loader) == identity(moved) and "pages" not in identity(loader)


# -- what is read


class Reads:
    """Stands in for the kernel call: the samples that were asked for, and where they lie, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.samples: list[int] = []
        self.ptrs: list[int] = []
        monkeypatch.setattr(planner, "advise_willneed", self)

    def __call__(self, file: np.ndarray, samples: np.ndarray, page: int, advice: int) -> None:
        self.samples += samples["index"].tolist()
        self.ptrs += samples["ptr"].tolist()


def settled(loader: Loader) -> None:
    """Wait until the planner has requested all that it will for now."""
    planning, deadline = loader._pipeline.planner, time.monotonic() + WAIT_S
    while not planning._stats.doing.startswith("waiting: enough") or not planning._wake.empty():
        assert time.monotonic() < deadline, planning.report()
        time.sleep(0.001)


@pytest.mark.parametrize("ranks", [1, 3])
def test_windows_are_requested_in_the_files_order_before_they_begin_and_no_more_than_two(
    beton: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    with opened(beton, 2, rank=0, world_size=ranks, read_ahead_bytes=1, batches_ahead=1) as loader:
        orders = [loader._own.orders.draw(epoch) for epoch in range(2)]
        batches = iter(loader)
        first = next(batches)
        settled(loader)
        windows = [
            set(drawn.places[begin:end].tolist())
            for drawn in orders
            for begin, end in pairwise(drawn.windows)
        ]
        planned = len(first.labels) * ranks * 3  # handed out, being decoded, planned
        assert windows[0] <= set(reads.samples)
        assert len(reads.samples) <= planned + len(windows[0]) + len(windows[1])
        for _ in batches:
            pass
        settled(loader)
    at = 0
    for window in windows[: len(windows) // 2 + 1]:  # of this epoch, and the first of the next
        asked = reads.samples[at : at + len(window)]
        assert set(asked) <= window and len(set(asked)) == len(asked), "each once, window after window"
        ptrs = reads.ptrs[at : at + len(window)]
        assert ptrs == sorted(ptrs), "in the order of the file"
        at += len(window)
    assert set(reads.samples[:COUNT]) == set(range(COUNT)), "and all of the epoch"


def test_a_resume_requests_the_window_it_is_in_first(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    with opened(beton, 2, read_ahead_bytes=1) as loader:
        drawn = loader._own.orders.draw(5)
        begin, end = drawn.windows[2:4].tolist()
        loader.set_epoch(5, (begin + 2) // 2)
        next(iter(loader))
        assert set(reads.samples[: end - begin]) == set(drawn.places[begin:end].tolist())


def test_after_a_long_pause_the_window_is_requested_again(
    beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Reads(monkeypatch)
    with opened(beton, 2, read_ahead_bytes=1, batches_ahead=1) as loader:
        window = set(loader._own.orders.draw(0).places[: loader._own.orders.draw(0).windows[1]].tolist())
        batches = iter(loader)
        next(batches)
        settled(loader)
        monkeypatch.setattr(planner, "PAUSE_S", -1.0)
        before = len(reads.samples)
        next(batches)
        deadline = (
            time.monotonic() + WAIT_S
        )  # a decoding thread is woken first, which takes a plan and so wakes the planner
        while not window <= set(reads.samples[before:]):
            assert time.monotonic() < deadline, window - set(reads.samples[before:])
            time.sleep(0.001)


def test_no_read_ahead_requests_nothing(beton: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    with opened(beton, read_ahead_bytes=0) as loader:
        assert sorted(places_of(loader)) == list(range(COUNT))
    assert reads.samples == []


def test_pages_are_counted_from_the_start_of_the_file(beton: Path) -> None:
    with Beton(beton) as file:
        samples = sample_table(file)
        order = BlockShuffled(samples["ptr"], file.page_size, Block(1), 0)
    assert order.pages.tolist() == [page_of(place) for place in range(COUNT)]
