"""tools/bench_pipeline.py as people run it: a short run on real images with every peer that is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest
from PIL import Image

import components

PEERS = ("ours", "limit", "ffcv", "ours-on-ffcv", "ffcv-ours", "pillow", "ours-raw")
ON_FFCV = {"ffcv", "ours-on-ffcv", "ffcv-ours"}
IMAGES, ROUNDS, EPOCHS = 40, 2, 2

Run = Callable[..., Any]


class Bench(NamedTuple):
    """A finished run: its folder, what it printed, its report."""

    out: Path
    finished: Any
    report: dict[str, Any]

    def result(self, name: str) -> dict[str, Any]:
        return next(r for r in self.report["results"] if r["name"] == name)


def command(out: Path) -> list[object]:
    """40 images at 256 px on one core, two rounds."""
    photos = components.require("data") / "imagenet-samples"
    arguments = ["--data", photos, "--out", out, "--sides", 256, "--images", 49, "--batch", 20]
    arguments += ["--rounds", ROUNDS, "--epochs", EPOCHS, "--peers", ",".join(PEERS)]
    return ["tools/bench_pipeline.py", *arguments]


pytestmark = pytest.mark.long  # a whole run of the benchmark, some 30 s and more


@pytest.fixture(scope="module")
def bench(run_cli: Run, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    finished = run_cli(*command(folder))
    assert finished.code == 0, finished.stderr
    return Bench(folder, finished, json.loads((folder / "bench.json").read_text()))


def test_every_pipeline_that_is_installed_is_measured_and_the_others_are_named_as_absent(bench: Bench):
    absent = set() if importlib.util.find_spec("ffcv") else ON_FFCV
    assert {r["name"] for r in bench.report["results"]} == set(PEERS) - absent
    assert set(bench.report["absent"]) == absent
    for name in absent:
        assert f"absent: {name}" in bench.finished.stdout


def test_every_round_of_every_pipeline_delivers_the_same_images(bench: Bench):
    assert bench.report["settings"]["images"] == IMAGES
    labels = {r["labels"] for result in bench.report["results"] for r in result["rounds"]}
    assert len(labels) == 1
    for result in bench.report["results"]:
        assert len(result["rounds"]) == ROUNDS
        assert all(r["images"] == IMAGES * EPOCHS for r in result["rounds"])


def test_medians_spreads_and_ratios_follow_from_the_rounds(bench: Bench):
    for result in bench.report["results"]:
        speeds = [r["images"] / r["wall_s"] for r in result["rounds"]]
        assert result["img_per_s"] == pytest.approx(
            {"median": median(speeds), "min": min(speeds), "max": max(speeds)}
        )
        cpu_ms = [1e3 * r["cpu_s"] / r["images"] for r in result["rounds"]]
        assert result["cpu_ms_per_image"]["median"] == pytest.approx(median(cpu_ms))
    found = {r["what"]: r["ratio"] for r in bench.report["ratios"]}
    assert {"ours / pillow", "ours / limit"} <= set(found)
    speed = {name: bench.result(name)["img_per_s"]["median"] for name in ("ours", "pillow")}
    assert found["ours / pillow"] == pytest.approx(speed["ours"] / speed["pillow"])


def test_a_process_pinned_to_one_core_uses_no_more_cpu_time_than_wall_time(bench: Bench):
    for result in bench.report["results"]:
        assert 0 < result["busy"]["max"] < 1.1
        assert result["peak_memory_bytes"] > 1 << 20


def test_the_table_names_each_pipeline_with_its_speed(bench: Bench):
    for result in bench.report["results"]:
        row = next(line for line in bench.finished.stdout.splitlines() if f" {result['label']} " in line)
        assert f"{result['img_per_s']['median']:,.0f}" in row


def test_the_chart_is_a_png_wide_enough_to_read(bench: Bench):
    with Image.open(bench.out / "bench.png") as image:
        assert image.format == "PNG" and image.width >= 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10


def test_packed_inputs_are_used_again_and_hold_the_same_pixels(
    bench: Bench, photos: Path, run_cli: Run, tmp_path: Path
):
    inputs = next((bench.out / "inputs").iterdir())
    before = {path.name: path.stat().st_mtime_ns for path in inputs.iterdir()}
    arguments = ["--data", photos, "--out", tmp_path, "--work", bench.out / "inputs", "--sides", 256]
    arguments += ["--images", IMAGES, "--batch", 20, "--rounds", 1, "--epochs", 1]
    finished = run_cli("tools/bench_pipeline.py", *arguments, "--peers", "limit,pillow")
    assert finished.code == 0, finished.stderr
    assert {path.name: path.stat().st_mtime_ns for path in inputs.iterdir()} == before

    import io

    from alexnet_fast.beton.reader import Beton

    with Beton(next(inputs.glob("tiles-*.beton"))) as beton:
        files = sorted(next(inputs.glob("folder-*")).rglob("*.jpg"), key=lambda path: path.name)
        assert len(files) == beton.num_samples == IMAGES
        for index in (0, IMAGES - 1):
            with (
                Image.open(io.BytesIO(beton.payload(index).tobytes())) as ours,
                Image.open(files[index]) as theirs,
            ):
                assert ours.tobytes() == theirs.tobytes()
                assert "dri" not in theirs.info


def test_an_interpreter_without_the_peer_is_reported(
    bench: Bench, photos: Path, run_cli: Run, tmp_path: Path
):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # -S: no installed packages
    bare.chmod(0o755)
    arguments = ["--data", photos, "--out", tmp_path, "--work", bench.out / "inputs", "--sides", 256]
    arguments += ["--images", IMAGES, "--batch", 20, "--rounds", 1, "--epochs", 1]
    finished = run_cli(
        "tools/bench_pipeline.py", *arguments, "--peers", "limit,pillow", "--python", f"pillow={bare}"
    )
    assert finished.code == 0, finished.stderr
    assert "absent: pillow (ModuleNotFoundError" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "5", "--batch", "20"], "fewer than one batch"),
        (["--threads", "4096"], "this process may use"),
        (["--peers", "ours,dalli"], "'dalli' is not one of"),
        (["--python", "dali=/no/such/python"], "cannot be run"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    arguments: list[str], said: str, photos: Path, run_cli: Run, tmp_path: Path
):
    finished = run_cli("tools/bench_pipeline.py", "--data", photos, "--out", tmp_path, *arguments)
    assert finished.code == 2
    assert said in finished.stderr and "Traceback" not in finished.stderr
