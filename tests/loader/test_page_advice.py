"""Advice to the kernel: which bytes are asked for, in how many requests."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_fast import Beton
from alexnet_fast.decode.kernel import SAMPLE_DTYPE, sample_table
from alexnet_fast.loader.page_advice import PAGE, PIECE, WILLNEED, advise_willneed
from bench import cold_cache
from bench.large_files import write_repeated
from betons import jpeg, picture, write

P = int(PAGE)


def samples_of(*spans: tuple[int, int]) -> np.ndarray:
    """Samples of these (ptr, size)."""
    samples = np.zeros(len(spans), SAMPLE_DTYPE)
    for index, (sample, (ptr, size)) in enumerate(zip(samples, spans)):
        sample["ptr"], sample["size"], sample["index"] = ptr, size, index
    return samples


@pytest.mark.parametrize(
    ("spans", "requests"),
    [
        ([], 0),
        ([(100, 50)], 1),
        ([(0, P), (P, P), (2 * P, 10)], 1),  # neighbours
        ([(10, P), (P + 10, P), (2 * P + 10, P)], 1),  # neighbours that share pages
        ([(0, P), (10 * P, P), (20 * P, P)], 3),
        ([(10 * P, P), (9 * P, P)], 2),  # backwards
        ([(0, 10 * P), (P, P)], 1),  # one inside the other
    ],
)
def test_neighbours_are_asked_for_in_one_request(spans: list[tuple[int, int]], requests: int) -> None:
    memory = np.zeros(
        40 * P, np.uint8
    )  # advice on memory that is no file's, at an address that begins no page
    assert advise_willneed(memory[5:], samples_of(*spans), PAGE, WILLNEED) == requests


@pytest.mark.parametrize("end", [0, 1, P, int(PIECE) - 1])
def test_a_call_is_for_no_more_than_the_kernel_reads(end: int) -> None:
    """It reads what its read-ahead is set to, 128 KiB as a rule, and skips the rest without an error."""
    memory = np.zeros(4 * int(PIECE), np.uint8)
    address = memory.ctypes.data
    begin = -address % P  # the first of its pages
    spans = ((begin, int(PIECE)), (begin + int(PIECE), int(PIECE) + end))
    assert advise_willneed(memory, samples_of(*spans), PAGE, WILLNEED) == 2 + (end > 0)


def settled_pages(path: Path) -> np.ndarray:
    """Which of its pages lie in memory, once what the kernel read ahead as it was opened has come. (pages,) bool"""
    looks = [cold_cache.cached_pages(path)]
    while len(looks) < 4 or not all(np.array_equal(look, looks[-1]) for look in looks[-4:]):
        assert len(looks) < 600, "pages come and go without end"
        time.sleep(0.1)
        looks.append(cold_cache.cached_pages(path))
    return looks[-1]


def test_it_brings_the_bytes_that_are_asked_for_into_the_page_cache_and_no_others(tmp_path: Path) -> None:
    small = write(tmp_path / "a.beton", [jpeg(picture(400, 300, seed)) for seed in range(10)])
    path = write_repeated(small, tmp_path / "b.beton", 40)
    cold_cache.drop(path)
    if cold_cache.cached_pages(path).mean() > 0.02:
        pytest.skip("this file system keeps a dropped file in memory (tmpfs)")
    with Beton(path) as beton:
        beton.expect_random_access()
        before = settled_pages(path)
        wanted = np.zeros(len(before), bool)
        for sample in (samples := sample_table(beton)[::50]):
            wanted[sample["ptr"] // P : -(-(sample["ptr"] + sample["size"]) // P)] = True
        assert (wanted & ~before).any()
        advise_willneed(beton.map, samples, PAGE, WILLNEED)
        deadline = time.monotonic() + 60
        while not (after := cold_cache.cached_pages(path))[wanted].all():
            assert time.monotonic() < deadline, "what was asked for did not come"
        assert not (after & ~before & ~wanted).any()
