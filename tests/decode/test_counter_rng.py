"""The generator against its published numbers."""

from __future__ import annotations

import numpy as np

from alexnet_fast.decode.counter_rng import mix, sample_key, uniform

# The first outputs of Vigna's splitmix64.c for the state 1234567 (prng.di.unimi.it).
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_it_is_splitmix64() -> None:
    state = 1234567
    for expected in PUBLISHED:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        assert int(mix(np.uint64(state))) == expected


def test_draws_are_the_upper_53_bits_of_its_outputs() -> None:
    assert [uniform(np.uint64(1234567), k) for k in range(5)] == [(n >> 11) / 2**53 for n in PUBLISHED]


def test_draws_fill_the_unit_interval_evenly() -> None:
    draws = np.array(
        [
            uniform(np.uint64(sample_key(np.uint64(1), np.uint64(0), i, 0)), k)
            for i in range(500)
            for k in range(20)
        ]
    )
    assert draws.min() >= 0 and draws.max() < 1
    histogram, _ = np.histogram(draws, 20, (0, 1))
    assert ((histogram - 500) ** 2 / 500).sum() < 43.8  # chi-squared of 19 degrees, one in a thousand


def test_keys_differ_in_each_of_seed_epoch_index_and_occurrence() -> None:
    keys = {
        int(sample_key(np.uint64(s), np.uint64(e), i, copy))
        for s in range(10)
        for e in range(10)
        for i in range(10)
        for copy in range(10)
    }
    assert len(keys) == 10**4


def test_the_keys_of_samples_that_come_once_stay_what_they_are() -> None:
    """Changing them changes every training run and breaks exact resumes: a change of major version, said in the changelog."""
    for seed, epoch, index, expected in (
        (0, 0, 0, 6235967106033911276),
        (0, 0, 5, 13653148524785732609),
        (7, 2, 1_281_166, 9102621959694918380),
        (2**64 - 1, 2**62, 2**31 - 1, 11950667142031188407),
    ):
        assert int(sample_key(np.uint64(seed), np.uint64(epoch), index, 0)) == expected
