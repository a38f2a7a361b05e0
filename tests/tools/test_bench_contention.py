"""tools/bench_contention.py as people run it: two short rounds with every peer that is installed."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from bench.neighbour import burn, clocks
from betons import jpeg, picture, write
from command_line import Finished

COMMAND = "tools/bench_contention.py"
PEERS = ["lock-free", "ours", "ffcv", "dataloader"]
Run = Callable[..., Finished]


@pytest.fixture(scope="module")
def bench(tiny_beton: Path, run_cli: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What it printed, and its report."""
    path = tmp_path_factory.mktemp("bench") / "contention.json"
    arguments = ["--beton", tiny_beton / "train.beton", "--batch", 16, "--threads", "1,3", "--rounds", 2]
    done = run_cli(COMMAND, *arguments, "--steps", 5, "--step-ms", 5, "--json", path)
    assert done.code == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def result(report: Any, peer: str, threads: int) -> Any:
    return next(row for row in report["results"] if (row["peer"], row["threads"]) == (peer, threads))


@pytest.mark.long
def test_every_peer_that_is_installed_is_measured_at_each_number_of_threads(bench: Any) -> None:
    out, report = bench
    absent = [] if importlib.util.find_spec("ffcv") else ["ffcv"]
    measured = [(row["peer"], row["threads"]) for row in report["results"]]
    there = [peer for peer in PEERS if peer not in absent]
    assert measured == [("alone", 0), *((peer, threads) for threads in (1, 3) for peer in there)]
    assert list(report["absent"]) == absent
    assert all(peer in out for peer in PEERS)


@pytest.mark.long
def test_a_step_holds_its_batch_and_its_differences_are_of_the_same_round(bench: Any) -> None:
    _, report = bench
    for row in report["results"]:
        assert len(row["rounds"]) == 2
        assert 0 <= row["next_ms"]["median"] < row["step_ms"]["median"]
        for figures, alone in zip(row["rounds"], result(report, "alone", 0)["rounds"]):
            assert figures["beyond_alone_ms"] == pytest.approx(figures["step_ms"] - alone["step_ms"])
    beside = result(report, "lock-free", 3)["rounds"]
    ours = result(report, "ours", 3)
    differences = [mine["step_ms"] - theirs["step_ms"] for mine, theirs in zip(ours["rounds"], beside)]
    assert ours["beyond_lock_free_ms"]["median"] == pytest.approx(median(differences))


@pytest.mark.long
def test_a_loaders_threads_switch_and_use_the_processor(bench: Any) -> None:
    _, report = bench
    rounds = result(report, "ours", 3)["rounds"]
    assert all(figures["switches"] >= figures["main_switches"] >= 0 for figures in rounds)
    assert sum(figures["switches"] - figures["main_switches"] for figures in rounds) > 0
    assert sum(figures["neighbour_cpu_ms"] for figures in rounds) > 0


def test_flat_out_makes_steps_that_are_shorter_than_a_batch_and_without_warning(
    tmp_path: Path, run_cli: Run
) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 64, seed)) for seed in range(8)])
    arguments = ["--beton", path, "--batch", 8, "--threads", 1, "--rounds", 1, "--steps", 3, "--flat-out"]
    done = run_cli(COMMAND, *arguments, "--peers", "alone,ours", "--json", tmp_path / "figures.json")
    assert done.code == 0, done.stderr
    assert "shorter than a batch" in done.stdout and "longer --step-ms" not in done.stdout
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [row["peer"] for row in report["results"]] == ["alone", "ours"]
    assert "beyond_lock_free_ms" not in result(report, "ours", 1)


def test_a_lock_free_neighbour_burns_the_time_that_it_was_told_and_ends_when_told() -> None:
    state, used = np.zeros(16, np.int64), []

    def run() -> None:
        before = time.thread_time()
        burn(state, 4_000_000, 1_000_000, clocks())
        used.append(time.thread_time() - before)

    burn(np.ones(16, np.int64), 1, 0, clocks())  # compile
    thread, began = threading.Thread(target=run), time.monotonic()
    thread.start()
    time.sleep(0.3)
    state[0] = 1
    thread.join()
    assert 0 < used[0] < 0.7 * (time.monotonic() - began)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "ours,dalli"], "'dalli' is not one of"),
        (["--peers", "ours,ffcv"], "'alone' must take part"),
        (["--threads", "0"], "0 is out of range"),
        (["--step-ms", "0"], "0 is out of range"),
        (["--batch", "9"], "has 8 images, fewer than one batch; lower --batch to that"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, run_cli: Run
) -> None:
    path = write(tmp_path / "a.beton", [jpeg(picture(64, 64, seed)) for seed in range(8)])
    done = run_cli(COMMAND, "--beton", path, *arguments)
    assert done.code == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, run_cli: Run) -> None:
    done = run_cli(COMMAND, "--beton", tmp_path / "none.beton")
    assert done.code == 2 and "none.beton" in done.stderr and done.stderr.count("\n") == 1
