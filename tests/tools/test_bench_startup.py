"""tools/bench_startup.py as people run it: one start of each kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOADER, TRAIN = "to the first batch of 64", "to the first step of 8"


pytestmark = pytest.mark.long  # a whole run of the benchmark, some 30 s and more


@pytest.fixture(scope="module")
def bench(tiny_beton: Path, run_cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What it printed, and its report."""
    path = tmp_path_factory.mktemp("bench") / "start.json"
    arguments = ["--beton", tiny_beton / "train.beton", "--batch", 64, "--train-batch", 8, "--rounds", 1]
    done = run_cli("tools/bench_startup.py", *arguments, "--json", path)
    assert done.code == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def test_each_stage_of_each_start_is_told(bench: Any) -> None:
    out, report = bench
    stages = {name: [s["stage"] for s in figures["stages"]] for name, figures in report["starts"].items()}
    imports = ["interpreter", "torch", "numba", "our modules"]
    assert stages == {
        "import torch": ["interpreter", "torch"],
        LOADER: [*imports, "open", "kernels", "first batch"],
        TRAIN: [*imports, "recipe", "set-up", "first step"],
    }
    assert all(stage in out for stage in stages[LOADER] + stages[TRAIN])


def test_what_goes_beyond_torch_is_the_difference_of_the_same_rounds_starts(bench: Any) -> None:
    _, report = bench
    (alone,), (loader,) = report["every_start"]["import torch"], report["every_start"][LOADER]
    figures = report["starts"][LOADER]
    assert figures["beyond_torch_s"]["median"] == pytest.approx(loader[-1][1] - alone[-1][1])
    assert sum(stage["wall_s"] for stage in figures["stages"]) == pytest.approx(figures["wall_s"]["median"])
    assert all(stage["wall_s"] >= 0 for stage in figures["stages"])


def test_a_file_that_is_not_there_is_one_sentence(run_cli: Callable[..., Any], tmp_path: Path) -> None:
    done = run_cli("tools/bench_startup.py", "--beton", tmp_path / "none.beton")
    assert done.code == 2 and "none.beton is no file" in done.stderr and done.stderr.count("\n") == 1
