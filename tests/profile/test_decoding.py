"""What the profile tells of decoding: which decoder the samples took, and where the time of one goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from alexnet_fast import Loader
from alexnet_fast.decode.decoder import DecodePaths, DecoderName
from alexnet_fast.distributed.world import World
from alexnet_fast.profile import decoding
from alexnet_fast.profile.decoding import share_of_libjpeg, split
from alexnet_fast.profile.stats import stored
from betons import Entry, jpeg, picture, write

PICTURES = [picture(100, 80, seed) for seed in range(8)]
USUAL = [jpeg(each) for each in PICTURES]
PROGRESSIVE = [jpeg(each, progressive=True) for each in PICTURES]


@pytest.mark.parametrize(
    ("jpegs", "share"), [(USUAL, 0.0), (USUAL[:6] + PROGRESSIVE[:2], 0.25), (PROGRESSIVE, 1.0)]
)
def test_the_share_of_libjpeg_turbo_is_that_of_the_jpegs_that_our_own_decoder_left_to_it(
    jpegs: Sequence[bytes], share: float, tmp_path: Path
) -> None:
    with Loader(write(tmp_path / "a.beton", jpegs), 8, train=True, size=32, threads=1) as loader:
        for _ in loader:
            pass
    # The loader was closed within a batch, of which only some samples are counted.
    assert share_of_libjpeg(loader.decode_paths, World()) == pytest.approx(
        share, abs=0.15 if 0 < share < 1 else 0
    )


def test_where_libjpeg_turbo_was_to_decode_all_or_there_are_no_jpegs_nothing_is_amiss() -> None:
    assert share_of_libjpeg(DecodePaths(), World()) == 0


@pytest.mark.parametrize("decoder", ["auto", "libjpeg"])
def test_the_time_of_a_sample_is_cut_decode_and_render_by_the_recipes_decoder(
    decoder: DecoderName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = []

    class Watched(decoding.DecodeStages):
        def time(self, number: int, stage: int) -> float:
            took_s = super().time(number, stage)
            uses.append(self._decoder.paths.own > 0)
            return took_s

    monkeypatch.setattr(decoding, "DecodeStages", Watched)
    with Loader(write(tmp_path / "a.beton", USUAL), 8, train=True, size=32, threads=1) as loader:
        found = split(loader.beton, loader.cropping, decoder, World())
    assert list(stored(found)) == ["cut_us", "decode_us", "render_us", "all_us"]
    assert found.cut_us is not None and found.cut_us.min > 0
    assert uses[-1] == (decoder == "auto")


def test_raw_pixels_have_no_cutting_and_no_decoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.beton", list(map(Entry.raw, PICTURES)))
    with Loader(path, 8, train=True, size=32, threads=1) as loader:
        found = split(loader.beton, loader.cropping, "auto", World())
    assert (found.cut_us, found.decode_us) == (None, None) and found.render_us == found.all_us
