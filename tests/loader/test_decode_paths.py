"""Which decoder a sample took is counted, and can be chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alexnet_fast import Loader
from alexnet_fast.errors import UserError
from betons import jpeg, loaded, picture, write


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five baseline JPEGs and three progressive ones."""
    images = [picture(70 + 9 * k, 60 + 7 * k, k) for k in range(8)]
    entries = [jpeg(image) if k < 5 else jpeg(image, progressive=True) for k, image in enumerate(images)]
    return write(tmp_path_factory.mktemp("paths") / "a.beton", entries)


def test_baseline_jpegs_take_our_own_decoder_and_progressive_ones_libjpegs(beton: Path) -> None:
    with Loader(beton, 4, train=False, size=32, threads=2) as loader:
        for _ in loader:
            pass
        own, unusual, amiss = loader.decode_paths
        # The threads are in the next epoch by now, in the file's order.
        assert own >= 5 and unusual >= 3 and amiss == 0 and own >= unusual


def test_libjpeg_can_be_forced_and_gives_the_same_pixels(beton: Path) -> None:
    with Loader(beton, 4, train=False, size=32, decoder="libjpeg") as loader:
        for _ in loader:
            pass
        assert loader.decode_paths == (0, 0, 0)
    ours, libjpegs = (loaded(beton, train=True, size=32, decoder=name) for name in ("auto", "libjpeg"))
    assert ours.keys() == libjpegs.keys()
    assert all(np.array_equal(ours[label], libjpegs[label]) for label in ours)


def test_another_decoder_is_refused(beton: Path) -> None:
    with pytest.raises(UserError, match=r"^decoder = .fast. is out of range, expected .auto. or .libjpeg.$"):
        Loader(beton, 4, train=False, decoder="fast")  # type: ignore[arg-type]
