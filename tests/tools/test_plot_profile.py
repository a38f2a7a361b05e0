"""tools/plot_profile.py draws profiles as they come: of a CPU, of cards, of raw pixels, and of version 0.1."""

from __future__ import annotations

import copy
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import plot_profile
from alexnet_fast.errors import UserError
from alexnet_fast.run import ceiling

Change = Callable[[dict[str, Any]], None]


def about(value: float) -> dict[str, float]:
    return {"median": value, "least": 0.95 * value, "most": 1.04 * value, "n": 5}


# As version 0.1 wrote it on a CPU, but for what the picture does not show: versions, recipe, model, options ...
VERSION_0_1: dict[str, Any] = {
    "format": 1,
    "name": "quickstart",
    "made": "2026-11-23T03:21:15+00:00",
    "verdict": {
        "binding": "step",
        "ceilings_img_per_s": {"read": 80_100.0, "decode": 4787.0, "step": 84.7},
        "predicted_img_per_s": 83.4,
        "text": "The cores are the limit, mostly for the training step: training makes 82 img/s, 98 % of the 83 img/s that "
        "the stages allow together. Alone they make, in img/s: the training step 85 and decoding 4,787.",
    },
    "read": {
        "cached_bytes_per_s": about(5.4e9),
        "disk_bytes_per_s": about(1.6e9),
        "resident_share": 0.87,
        "sample_bytes": 55_984.0,
    },
    "decode": {
        "threads": 2,
        "scaling": [{"threads": 1, "img_per_s": about(2803)}, {"threads": 2, "img_per_s": about(4787)}],
        "split": {
            "cut_us": about(8.5),
            "libjpeg_us": about(302),
            "render_us": {"median": -4, "least": -8, "most": 258, "n": 5},  # a difference, on a busy machine
            "all_us": about(359),
        },
    },
    "modes": [
        {"name": "as it is", "decode_us": about(349)},
        {"name": "JPEG, 256 px", "decode_us": about(135)},
        {"name": "raw, 256 px", "decode_us": about(35.6)},
    ],
    "copy": None,
    "step": {
        "img_per_s": about(84.7),
        "step_ms": about(1511),
        "normalise_ms": about(26),
        "forward_ms": about(482),
        "backward_ms": about(930),
        "optimizer_ms": about(59),
        "all_reduce_ms": None,
    },
    "whole": {"img_per_s": about(82.2), "resident_share": 0.87},
    "machine": {
        "processor": "AMD EPYC 9R45",
        "device": "AMD EPYC 9R45",
        "cores": 2,
        "kind": "cpu",
        "ranks": 1,
    },
}


def on_a_cpu(document: dict[str, Any]) -> None:
    """As it is."""


def on_eight_cards(document: dict[str, Any]) -> None:
    document["machine"] |= {"device": "NVIDIA H100 80GB HBM3", "cores": 192, "ranks": 8}
    document["machine"]["processor"] = "Intel(R) Xeon(R) Platinum 8480+"
    document["read"] |= {"cached_bytes_per_s": about(6e10), "disk_bytes_per_s": None}
    points = [{"threads": n, "img_per_s": about(18_000 * n**0.9)} for n in (1, 2, 4, 8, 12, 16, 23, 24)]
    document["decode"] |= {"threads": 24, "scaling": points}
    document["copy"] = {"pinned_bytes_per_s": about(1.9e11), "image_bytes": 150_528}
    times = {
        "step": 10.4,
        "normalise": 0.2,
        "forward": 2.6,
        "backward": 6.3,
        "optimizer": 1.3,
        "all_reduce": 1.9,
    }
    document["step"] = {f"{part}_ms": about(took) for part, took in times.items()} | {
        "img_per_s": about(98_000)
    }
    document["whole"] |= {"img_per_s": about(95_500), "resident_share": 1.0}
    document["verdict"] |= {"binding": "all-reduce", "predicted_img_per_s": 98_000.0}


def on_a_host_that_queues(document: dict[str, Any]) -> None:
    on_eight_cards(document)
    times = {"alone_ms": 4.4, "beside_ms": 11.5, "device_ms": 4.45}
    document["queue"] = {part: about(took) for part, took in times.items()} | {"img_per_s": about(89_000)}
    document["verdict"]["binding"] = "queue"


def on_idle_threads(document: dict[str, Any]) -> None:
    on_a_host_that_queues(document)
    document["queue"]["device_ms"] = None
    document["verdict"]["binding"] = "ahead"


def on_one_thread(document: dict[str, Any]) -> None:
    on_eight_cards(document)
    document["decode"]["threads"] = 1
    document["verdict"] |= {"binding": "decode", "predicted_img_per_s": 18_000.0}
    document["whole"]["img_per_s"] = about(17_100)


def of_raw_pixels(document: dict[str, Any]) -> None:
    document["decode"]["split"] |= {"cut_us": None, "libjpeg_us": None, "render_us": about(36.2)}
    del document["modes"][1:]
    document["decode"] |= {"threads": 1, "scaling": [{"threads": 1, "img_per_s": about(26_000)}]}
    # Dollars would be a formula, the font has no such letters, a terminal would obey the rest: a name may hold them all.
    document["name"] = "a$long$" * 12 + "研究\n\x1b[31m"


@pytest.fixture
def profile(tmp_path: Path) -> Callable[[Change], Path]:
    """profile(change): the throughput.json of a profile that differs from VERSION_0_1 in something."""

    def write(change: Change) -> Path:
        change(document := copy.deepcopy(VERSION_0_1))
        path = tmp_path / "throughput.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.mark.parametrize(
    "change", [on_a_cpu, on_eight_cards, on_a_host_that_queues, on_one_thread, of_raw_pixels]
)
def test_a_profile_is_drawn_next_to_its_file_1500_px_wide_without_a_warning(
    change: Change, profile: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    path = profile(change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with matplotlib.rc_context({"font.size": 31.0}):  # the settings of a user
            plot_profile.main([str(path)])
            assert matplotlib.rcParams["font.size"] == 31.0
    picture = path.with_name("throughput.png")
    assert capsys.readouterr().out == f"{picture}\n"
    with Image.open(picture) as drawn:
        assert (drawn.format, drawn.size) == ("PNG", (1500, 1425))
        assert {(0xE0, 0x82, 0x14), (0x1F, 0x6F, 0xB4)} <= {
            color for _, color in drawn.convert("RGB").getcolors(1 << 24) or []
        }


def test_the_picture_goes_where_out_says_in_the_format_that_its_name_says(
    profile: Callable[[Change], Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    plot_profile.main([str(profile(on_a_cpu)), "--out", str(tmp_path / "a.svg")])
    assert "<svg" in (tmp_path / "a.svg").read_text()
    for name, reason in (("a.xyz", "'xyz' is not supported"), ("nowhere/a.png", "No such file")):
        with pytest.raises(UserError, match=f"cannot write .*{reason}.*; give another --out"):
            plot_profile.main([str(profile(on_a_cpu)), "--out", str(tmp_path / name)])


def test_the_stage_that_binds_is_orange_and_summing_gradients_is_a_part_of_the_step(
    profile: Callable[[Change], Path],
) -> None:
    for change, binding in (
        (on_a_cpu, "step"),
        (on_eight_cards, "step"),
        (on_one_thread, "decode\n(1 thread a rank)"),
        (on_a_host_that_queues, "queue on host"),
    ):
        ceilings = plot_profile.read(profile(change)).ceilings
        assert [bar.label for bar in ceilings if bar.color == plot_profile.ORANGE] == [binding]


def test_how_long_the_host_queues_a_step_is_next_to_the_parts_of_the_step(
    profile: Callable[[Change], Path],
) -> None:
    found = plot_profile.read(profile(on_a_host_that_queues))
    queued = [(bar.label, bar.median) for bar in found.step_ms[-3:]]
    assert queued == [("queued, alone", 4.4), ("queued, decoding", 11.5), ("computed, no gaps", 4.45)]
    idle = plot_profile.read(profile(on_idle_threads))
    assert [bar.label for bar in idle.step_ms[-2:]] == ["queued, alone", "queued, decoding"]
    assert not [bar for bar in idle.ceilings if bar.color == plot_profile.ORANGE], "it has no ceiling"


def test_the_rate_of_reading_mixes_cached_and_uncached_samples(profile: Callable[[Change], Path]) -> None:
    reading = plot_profile.read(profile(on_a_cpu)).ceilings[0]
    rate = 1 / (0.87 / 5.4e9 + 0.13 / 1.6e9) / 55_984
    assert reading.median == pytest.approx(rate)
    assert (reading.minimum / rate, reading.maximum / rate) == (pytest.approx(0.95), pytest.approx(1.04))


def now(document: dict[str, Any]) -> None:
    """As it is written since our own decoder decodes."""
    document["decode"]["split"]["decode_us"] = document["decode"]["split"].pop("libjpeg_us")


@pytest.mark.parametrize("change", [on_a_cpu, now])
def test_the_decoding_of_a_sample_has_one_name_whichever_version_wrote_the_profile(
    change: Change, profile: Callable[[Change], Path]
) -> None:
    parts = plot_profile.read(profile(change)).sample_us[:3]
    assert [(bar.label, bar.median) for bar in parts] == [("cut", 8.5), ("decode", 302), ("render", 0.0)]


def test_a_time_below_zero_is_drawn_as_zero(profile: Callable[[Change], Path]) -> None:
    render = plot_profile.read(profile(on_a_cpu)).sample_us[2]
    assert render[:4] == ("render", 0.0, 0.0, 258.0)


def test_without_matplotlib_one_sentence_says_what_to_install(
    profile: Callable[[Change], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = profile(on_a_cpu)
    with pytest.raises(UserError, match="needs matplotlib; install it: pip install matplotlib"):
        plot_profile.main([str(path)])
    assert [each.name for each in path.parent.iterdir()] == ["throughput.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read (No such file or directory): expected the throughput.json"),
        ("not JSON", "is not a profile (Expecting value"),
        ("[]", "is not a profile (it holds a list, expected an object)"),
        ("{}", "is not a profile (it has no 'format')"),
        ('{"format": 2}', "is not a profile (its format is 2, and 1 can be drawn)"),
        ('{"format": 1}', "is not a profile (it has no 'decode')"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_sentence(
    text: str | None, said: str, tmp_path: Path, run_cli: Any
) -> None:
    path = tmp_path / "throughput.json"
    if text is not None:
        path.write_text(text)
    done = run_cli("tools/plot_profile.py", path)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path} {said}") and done.stderr.count("\n") == 1


def places(value: Any, *way: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each value in a document."""
    if way:
        yield way
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, *way, key)


@pytest.mark.parametrize("wrong", ["word", None, [], {}, 0, -1, math.nan, 1e300, 10**400])
def test_whatever_a_file_says_it_is_refused_or_gives_numbers_that_can_be_drawn(
    wrong: Any, tmp_path: Path
) -> None:
    path = tmp_path / "throughput.json"
    for change in (on_a_cpu, on_eight_cards, on_a_host_that_queues):
        change(document := copy.deepcopy(VERSION_0_1))
        for *way, last in places(document):
            spoilt = copy.deepcopy(document)
            inner: Any = spoilt
            for key in way:
                inner = inner[key]
            inner[last] = wrong
            path.write_text(json.dumps(spoilt))
            try:
                found = plot_profile.read(path)
            except UserError as error:
                assert str(path) in str(error)
                continue
            bars = [
                *found.ceilings,
                *found.scaling.values(),
                *found.sample_us,
                *found.step_ms,
                found.predicted,
            ]
            assert all(0 <= bar.minimum <= bar.median <= bar.maximum < 1e16 for bar in bars)
            assert min(found.scaling) >= 1


def test_the_format_is_the_one_that_a_profile_writes_and_torch_is_not_needed(run_cli: Any) -> None:
    assert plot_profile.FORMAT == ceiling.FORMAT
    code = "import sys; sys.path.insert(0, 'tools'); import plot_profile; print('torch' in sys.modules)"
    assert run_cli("-c", code).stdout == "False\n"
