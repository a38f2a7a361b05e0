"""tools/bench_storage.py as people run it: a short run on real images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pytest

import components
from alexnet_fast.beton.reader import Beton
from bench.large_files import write_repeated
from betons import Entry, jpeg, picture, write

Run = Callable[..., Any]
ROUNDS, EPOCHS, SAMPLES = 2, 3, 20_000


class Bench(NamedTuple):
    """A finished run: what it printed, its report, the folder of its inputs."""

    finished: Any
    report: dict[str, Any]
    inputs: Path


def command(folder: Path) -> list[object]:
    arguments: list[object] = ["--data", components.require("data") / "imagenet-samples"]
    arguments += ["--out", folder / "out", "--work", folder / "work", "--images", 40, "--batch", 20]
    arguments += ["--gigabytes", 0.03, "--rounds", ROUNDS, "--batches", 3, "--threads", 1]
    arguments += ["--block-rounds", ROUNDS, "--window-pages", 2]
    arguments += ["--read-ahead-mib", "1,4", "--samples", SAMPLES, "--epochs", EPOCHS]
    return ["tools/bench_storage.py", *arguments]


@pytest.fixture(scope="module")
def bench(run_cli: Run, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    finished = run_cli(*command(folder))
    assert finished.code == 0, finished.stderr
    return Bench(finished, json.loads((folder / "out" / "storage.json").read_text()), folder / "work")


def test_cold_and_warm_with_read_ahead_and_without_take_turns(bench: Bench) -> None:
    results = bench.report["cold"]["results"]
    assert [(r["cold"], r["read_ahead_bytes"] >> 20) for r in results] == [
        (cold, mib) for cold in (True, False) for mib in (0, 1, 4)
    ]
    for result in results:
        assert len(result["rounds"]) == ROUNDS
        speeds = [r["img_per_s"] for r in result["rounds"]]
        assert result["img_per_s"] == {"median": median(speeds), "min": min(speeds), "max": max(speeds)}
        assert result["name"] in bench.finished.stdout


def test_a_cold_round_reads_from_the_disk_and_a_warm_one_does_not_or_it_says_so(bench: Bench) -> None:
    results = bench.report["cold"]["results"]
    assert all(r["cached_before"]["min"] > 0.98 for r in results if not r["cold"])
    if any(r["cached_before"]["max"] > 0.02 for r in results if r["cold"]):
        assert "not cold:" in bench.finished.stdout
        return
    assert all(r["read_kb_per_image"]["min"] > 1 for r in results if r["cold"])
    assert bench.report["cold"]["disk"]["sequential_mb_per_s"] > 0


def test_the_block_order_is_read_next_to_others_and_its_batches_are_compared(bench: Bench) -> None:
    block = bench.report["block"]
    assert [r["name"] for r in block["results"]] == [
        "read(2)",
        "file order",
        "block",
        "block, two windows kept",
        "shuffled",
    ]
    for result in block["results"]:
        assert len(result["rounds"]) == ROUNDS and result["mb_per_s"]["min"] > 0
        assert result["name"] in bench.finished.stdout
    needed = block["results"][2]["needed_bytes"]
    assert 0 < needed["max"] <= block["file_bytes"]
    mixed = {(m["packed"], m["order"]): m["classes"]["mean"] for m in block["mixtures"]}
    assert mixed["by class", "block, 32 pages"] < mixed["by class", "block, 128 pages"]
    assert abs(mixed["shuffled", "block, 32 pages"] - mixed["shuffled", "shuffled"]) < 1


def test_opening_and_memory_over_epochs_are_reported(bench: Bench) -> None:
    assert bench.report["settings"]["samples"] == SAMPLES
    for opened in bench.report["opening"].values():
        for what in ("Beton", "Loader"):
            assert opened[what]["seconds"] > 0 and 0 < opened[what]["peak_bytes"] < 200e6
    assert len(bench.report["growth"]["own_bytes"]) == EPOCHS
    assert "own memory after epoch 1:" in bench.finished.stdout


def test_the_large_files_are_gone_afterwards(bench: Bench) -> None:
    assert not list(bench.inputs.glob("*.beton"))


def test_a_repeated_file_holds_its_samples_many_times_in_bytes_of_their_own(tmp_path: Path) -> None:
    entries = [Entry.of(jpeg(picture(64, 48, seed))) for seed in range(3)] + [Entry.raw(picture(20, 30))]
    source = write(tmp_path / "a.beton", entries, labels=[7, 0, 7, 2])
    with Beton(source) as once, Beton(write_repeated(source, tmp_path / "b.beton", 5)) as many:
        assert len(many) == 20 and many.labels.tolist() == once.labels.tolist() * 5
        assert len(np.unique(many.images["data_ptr"])) == 20
        for index in range(20):
            assert np.array_equal(many.payload(index), once.payload(index % 4))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "/no/such/folder", "--samples", "0"], "is not a folder"),
        (["--data", ".", "--rounds", "-1"], "-1 is out of range"),
        (["--data", ".", "--read-ahead-mib", "64,0"], "0 is out of range"),
        (["--data", ".", "--out", "/dev/null/x"], "cannot write below"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    arguments: list[str], said: str, run_cli: Run, tmp_path: Path
) -> None:
    finished = run_cli("tools/bench_storage.py", "--out", tmp_path, *arguments)
    assert finished.code == 2
    assert said in finished.stderr and "Traceback" not in finished.stderr
