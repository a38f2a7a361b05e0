"""The augmentations' benchmark, on a few small images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import components
from betons import jpeg, picture, write
from command_line import Finished


@pytest.fixture
def beton(tmp_path: Path) -> Path:
    return write(tmp_path / "a.beton", [jpeg(picture(80, 60, seed)) for seed in range(16)])


def test_operations_are_measured_alone_beside_torchvision_and_in_the_loader(
    beton: Path, run_cli: Callable[..., Finished]
) -> None:
    out = beton.with_name("figures.json")
    arguments = ("--size", 48, "--images", 16, "--rounds", 3, "--only", "Invert,GaussianBlur", "--json", out)
    done = run_cli("tools/bench_augment.py", beton, *arguments)
    assert done.code == 0, done.stderr
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["operations"]] == ["Invert", "GaussianBlur"]
    assert report["loader_without_us"] > 0
    for row in report["operations"]:
        assert row["ours_us"] > 0
        assert [len(row[f"{name}_us_rounds"]) for name in ("ours", "loader")] == [3, 3]
    components.require("torchvision")
    for row in report["operations"]:
        assert row["torchvision_us"] > 0
        assert row["ratio"] == pytest.approx(row["torchvision_us"] / row["ours_us"])


def test_what_it_cannot_measure_is_refused_in_one_sentence(
    beton: Path, run_cli: Callable[..., Finished]
) -> None:
    done = run_cli("tools/bench_augment.py", beton, "--only", "Magic")
    assert (done.code, len(done.stderr.splitlines())) == (2, 1) and "--only Magic" in done.stderr
    done = run_cli("tools/bench_augment.py", beton, "--images", 17)
    assert (done.code, len(done.stderr.splitlines())) == (2, 1) and "has 16 images" in done.stderr
