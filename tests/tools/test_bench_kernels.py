"""The stages' benchmark, on a few small images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from betons import Entry, jpeg, picture, write
from command_line import Finished

Bench = Callable[..., Finished]


@pytest.fixture
def bench(run_cli: Callable[..., Finished]) -> Bench:
    return lambda *arguments: run_cli("tools/bench_kernels.py", "--rounds", 5, *arguments)


def test_the_stages_of_two_files_are_measured_side_by_side(tmp_path: Path, bench: Bench) -> None:
    images = [jpeg(picture(200, 150, seed)) for seed in range(12)]
    files = [write(tmp_path / f"{name}.beton", images) for name in ("a", "b")]
    done = bench(*files, "--size", 96, "--json", tmp_path / "figures.json")
    assert done.code == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["files"]
    assert [row["beton"] for row in figures] == [str(path) for path in files]
    for row in figures:
        assert row["images"] == 12
        assert 0 < row["cut_us"] < row["planes_us"] < row["all_us"]
        parts = [row[f"{part}_us"] for part in ("cut", "unstuff", "huffman", "idct", "render")]
        assert sum(parts) == pytest.approx(row["all_us"])
        assert sum(parts[1:4]) == pytest.approx(row["decode_us"])
        assert 0 < row["libjpeg_cut_us"] < row["libjpeg_planes_us"]
        assert row["libjpeg_cut_us"] + row["libjpeg_us"] == pytest.approx(row["libjpeg_planes_us"])
        assert row["libjpeg_to_ours"] == pytest.approx(row["libjpeg_planes_us"] / row["planes_us"])
        assert row["own_decoder_images"] == 12
    assert "in any case" not in done.stdout


def test_images_that_are_left_to_libjpeg_turbo_are_counted_and_told(tmp_path: Path, bench: Bench) -> None:
    images = [jpeg(picture(200, 150, seed), progressive=seed % 4 == 0) for seed in range(12)]
    path = write(tmp_path / "[a].beton", images)
    done = bench(path, "--size", 96, "--json", tmp_path / "figures.json")
    assert done.code == 0, done.stderr
    (row,) = json.loads((tmp_path / "figures.json").read_text())["files"]
    assert row["own_decoder_images"] == 9
    assert "[a].beton: libjpeg-turbo decodes 3 of 12 images in any case" in " ".join(done.stdout.split())


def test_raw_pixels_are_refused_in_one_sentence(tmp_path: Path, bench: Bench) -> None:
    done = bench(write(tmp_path / "raw.beton", [Entry.raw(picture(64, 64))]))
    assert (done.code, len(done.stderr.splitlines())) == (2, 1) and "raw" in done.stderr


def test_a_file_that_is_not_there_is_refused_in_one_sentence(tmp_path: Path, bench: Bench) -> None:
    done = bench(tmp_path / "none.beton")
    assert (done.code, len(done.stderr.splitlines())) == (2, 1) and "none.beton" in done.stderr


def test_of_several_images_the_one_that_is_named_is_measured(tmp_path: Path, bench: Bench) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(200, 150))] * 4, more=[("index", [5, 6, 7, 8])])
    done = bench(path, "--size", 96)
    assert done.code == 2 and "has 2 int fields" in done.stderr
    done = bench(path, "--size", 96, "--label-field", "index", "--image-field", "image")
    assert done.code == 0, done.stderr
