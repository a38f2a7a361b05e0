"""throughput.png, drawn from profiles as they come: of a CPU, an accelerator, a slow pipeline, raw pixels."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from alexnet_fast.profile import picture
from alexnet_fast.profile.copying import Copy
from alexnet_fast.profile.decoding import Decode, Scaling, Split
from alexnet_fast.profile.end_to_end import EndToEnd
from alexnet_fast.profile.prediction import Stages
from alexnet_fast.profile.repack import StorageOption
from alexnet_fast.profile.result import Profile
from alexnet_fast.profile.stats import Stat
from alexnet_fast.profile.stepping import Step
from alexnet_fast.profile.storage import Read
from alexnet_fast.profile.verdict import find_bottleneck
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate


def about(value: float) -> Stat:
    return Stat(value, 0.95 * value, 1.04 * value, 5)


ON_A_CPU = Stages(
    read=Read(about(5.4e9), about(1.6e9), 0.87, 67_132_864, 24_000_000_000, 55_984.0),
    decode=Decode(
        2,
        [Scaling(1, about(2803)), Scaling(2, about(4787))],
        Split(about(8.5), about(302), Stat(-4, -8, 258, 5), about(359)),
    ),
    modes=[
        StorageOption("as it is", "", about(349), 54_770),
        StorageOption("JPEG, 256 px", "--max-resolution 256", about(135), 16_100),
        StorageOption("raw, 256 px", "--mode raw --max-resolution 256", about(35.6), 143_755),
    ],
    copy=None,
    step=Step(about(84.7), about(1511), about(26), about(482), about(930), about(59), None, 0.98, 5),
    whole=EndToEnd(about(84.2), 0.01, 0.01, 0.03, 0.5, 0, 0.87, 7, 10.6),
    ranks=1,
    cores=2,
)
ON_EIGHT_CARDS = replace(
    ON_A_CPU,
    read=replace(ON_A_CPU.read, cached_bytes_per_s=about(6e10), disk_bytes_per_s=None),
    decode=Decode(
        24,
        [Scaling(threads, about(18_000 * threads**0.9)) for threads in (1, 2, 4, 8, 12, 16, 23, 24)],
        ON_A_CPU.decode.split,
    ),
    copy=Copy(about(1.9e11), about(6e10), 150_528),
    step=Step(
        about(98_000), about(10.4), about(0.2), about(2.6), about(6.3), about(1.3), about(1.9), 0.1, 200
    ),
    whole=replace(ON_A_CPU.whole, img_per_s=about(95_500), resident_share=1.0),
    ranks=8,
    cores=192,
)
HELD_TO_ONE_THREAD = replace(
    ON_EIGHT_CARDS,
    decode=replace(ON_EIGHT_CARDS.decode, threads=1),
    whole=replace(ON_EIGHT_CARDS.whole, img_per_s=about(17_100)),
)
OF_RAW_PIXELS = replace(
    ON_A_CPU,
    decode=Decode(1, [Scaling(1, about(26_000))], Split(None, None, about(36.2), about(36.2))),
    modes=ON_A_CPU.modes[:1],
)


@pytest.fixture
def document() -> Callable[..., dict[str, Any]]:
    """document(stages, name): what stands in throughput.json."""
    device = {"processor": "Intel(R) Xeon(R) Platinum 8480+", "device": "NVIDIA H100 80GB HBM3"}

    def make(stages: Stages, name: str = "profiled") -> dict[str, Any]:
        machine = {**device, "cores": stages.cores, "kind": "cuda", "ranks": stages.ranks}
        recipe = validate({"run": {"name": "any"}, "data": {"train": "train.beton"}})
        assert isinstance(recipe, Recipe)
        found = Profile(
            stages, find_bottleneck(stages), machine, recipe.model_dump(mode="json"), 60.0
        ).document()
        return {**found, "name": name}

    return make


@pytest.mark.parametrize("stages", [ON_A_CPU, ON_EIGHT_CARDS, HELD_TO_ONE_THREAD, OF_RAW_PIXELS])
def test_a_profile_is_drawn_1500_px_wide_without_a_warning(
    stages: Stages, document: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    # Dollars would be a formula, the font has no such letters, and the line is too long: all may stand in a name.
    name = "a$long$" * 12 + "研究" if stages is OF_RAW_PIXELS else "profiled"
    path = tmp_path / "throughput.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with matplotlib.rc_context({"font.size": 31.0}):  # somebody's own settings
            assert picture.draw(document(stages, name), path)
            assert matplotlib.rcParams["font.size"] == 31.0
    with Image.open(path) as drawn:
        assert drawn.format == "PNG" and drawn.width == 1500 and 1100 < drawn.height < 1700


def test_nothing_is_drawn_where_matplotlib_is_not_installed(
    document: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert picture.draw(document(ON_A_CPU), tmp_path / "throughput.png") is False
    assert not list(tmp_path.iterdir())


def test_storage_of_least_and_most_speed_lies_about_its_ceiling(
    document: Callable[..., dict[str, Any]],
) -> None:
    found = document(ON_A_CPU)
    least, most = picture.spreads(found)["read"]
    ceiling = found["verdict"]["ceilings_img_per_s"]["read"]
    assert (least / ceiling, most / ceiling) == (pytest.approx(0.95), pytest.approx(1.04))
