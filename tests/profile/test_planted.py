"""Planted bottlenecks, each named by the profile: those of planted_cases.py on the stand-in NPU, and one between ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import components
import ranked
from alexnet_fast.distributed.launcher import LaunchConfig
from alexnet_fast.packing.encode import Encoding, encode_jpeg
from betons import Entry, picture, write
from called_as_ranks import launch
from standin import cases

CASES = "profile/planted_cases.py"
QUICK = "test_a_slow_reader_is_named"  # the others take 25 s each


@pytest.fixture(scope="module")
def packed_once(all_photos_beton: Path) -> Iterator[None]:
    """The process of the cases uses the images that this one has packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(components.PACKED_ENVIRONMENT, str(all_photos_beton))
        yield


@pytest.mark.usefixtures("packed_once")
def test_one_of_them_on_the_stand_in_npu() -> None:
    cases.check(CASES, QUICK, (QUICK,))


@pytest.mark.long
@pytest.mark.usefixtures("packed_once")
@pytest.mark.parametrize("name", cases.names(CASES))
def test_on_the_stand_in_npu(name: str) -> None:
    cases.check(CASES, name)


@pytest.mark.long
def test_slow_sums_between_ranks_are_named(tmp_path: Path) -> None:
    """In a set with one large image and a broken one, which only one rank gets."""
    small, large = encode_jpeg(picture(160, 120), Encoding()), encode_jpeg(picture(600, 450), Encoding())
    path = write(tmp_path / "mixed.beton", [large, Entry(b"no image", 160, 120), *[small] * 62], [0] * 64)
    assert launch(LaunchConfig(nproc=2), ranked.profiles_with_slow_sums, str(path), str(tmp_path)) == 0
    assert {path.name for path in (tmp_path / "slow-sums").iterdir()} >= {"throughput.json", "timeline.json"}
