"""The perceptual hash and the search for near ones, next to the plain way of computing each."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_fast.inspection import perceptual_hash as module
from alexnet_fast.inspection.perceptual_hash import are_flat, correlation, near_pairs, perceptual_hashes


def test_the_hash_is_the_low_frequencies_above_their_median() -> None:
    grays = np.random.default_rng(0).uniform(0, 255, (3, 32, 32)).astype(np.float32)
    for image, found in zip(grays.astype(float), perceptual_hashes(grays).tolist()):
        low = [
            sum(
                image[y, x] * np.cos(np.pi * (2 * y + 1) * u / 64) * np.cos(np.pi * (2 * x + 1) * v / 64)
                for y in range(32)
                for x in range(32)
            )
            for u in range(8)
            for v in range(8)
        ]
        above = np.array(low) > np.median(low[1:])
        assert f"{found:064b}" == "".join("01"[bit] for bit in above.tolist())


@pytest.mark.parametrize("distance", [0, 1, 6, 12])
def test_every_near_pair_is_found_and_no_other(distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 1000)  # several parts
    generator = np.random.default_rng(distance)
    ones = np.unique(generator.integers(0, 1 << 63, 300, dtype=np.uint64))
    flips = [
        np.bitwise_or.reduce(np.uint64(1) << generator.choice(64, k, False).astype(np.uint64))
        if k
        else np.uint64(0)
        for k in range(15)
    ]
    others = np.unique(np.concatenate([ones[20 * k : 20 * k + 20] ^ flip for k, flip in enumerate(flips)]))
    expected = {
        (i, j)
        for i, one in enumerate(ones.tolist())
        for j, other in enumerate(others.tolist())
        if (one ^ other).bit_count() <= distance
    }
    found = {pair for a, b in near_pairs(ones, others, distance) for pair in zip(a.tolist(), b.tolist())}
    assert found == expected and len(expected) >= 20 * (min(distance, 14) + 1)


def test_images_of_one_colour_are_flat_and_brightness_does_not_change_a_correlation() -> None:
    noise = np.random.default_rng(1).uniform(50, 200, (1, 32, 32)).astype(np.float32)
    assert are_flat(np.concatenate([noise, noise * 0.001 + 90])).tolist() == [False, True]
    assert correlation(noise, noise * 0.5 + 20)[0] == pytest.approx(1, abs=1e-4)
    assert correlation(noise, 255 - noise)[0] == pytest.approx(-1, abs=1e-4)
