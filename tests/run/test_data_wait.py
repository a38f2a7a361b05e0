"""The warning that a training run waits for data, and its reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_fast.common import page_cache
from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine import meter
from alexnet_fast.engine.meter import ThroughputMeter
from alexnet_fast.run.data_wait import DataWaitMonitor


class Run:
    """A training run with 2 decoding threads, a fake clock that the test advances, and a log line every 10 steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world_size: int = 1) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: self.now_s))
        monkeypatch.setattr(page_cache, "resident_share", self.resident_share)
        self.resident, self.looks = 1.0, 0
        self.threads = [SimpleNamespace(busy_s=0.0, cpu_s=0.0, faults=0) for _ in range(2)]
        beton = SimpleNamespace(files=[Path("any.beton")])
        self.loader: Any = SimpleNamespace(thread_stats=self.threads, threads=2, wait_s=0.0, beton=beton)
        self.wait = DataWaitMonitor(self.loader, world_size)
        self.clock = ThroughputMeter(resolve("cpu"), warmup_steps=5)

    def resident_share(self, path: Path) -> float:
        self.looks += 1
        return self.resident

    def decode(self, seconds: float, busy: float, on_core: float, faults: int = 0) -> None:
        for thread in self.threads:
            thread.busy_s += busy * seconds
            thread.cpu_s += busy * on_core * seconds
            thread.faults += faults

    def epoch(
        self,
        wait: float,
        busy: float = 1.0,
        on_core: float = 1.0,
        *,
        steps: int = 50,
        step_s: float = 0.2,
        own_wait: float | None = None,
        faults: int = 0,
    ) -> list[str]:
        """Run steps, then an evaluation of 20 s; returns the warnings.

        wait, busy, on_core: shares of the time.  own_wait: this rank's share, where another rank waits longer.
        """
        said = []
        with self.clock.training():
            self.wait.go_on()
            for step in range(steps):
                self.now_s += step_s
                self.decode(step_s, busy, on_core, faults)
                self.loader.wait_s += step_s * (wait if own_wait is None else own_wait)
                self.clock.step(10, step_s * wait)
                if (step % 10 == 0 or step + 1 == steps) and (late := self.wait.warning(self.clock.steady)):
                    said.append(late)
        self.now_s += 20
        self.decode(20, busy=0.5, on_core=0.1)  # during an evaluation, which uses the cores
        return said


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_a_run_that_waits_for_data_warns_once_with_the_reason(run: Run) -> None:
    said = [late for _ in range(4) for late in run.epoch(wait=0.4)]
    assert (
        len(said) == 1 and "waits for data 40 % of its time" in said[0] and "decoding is the limit" in said[0]
    )


def test_evaluations_do_not_change_the_reason(run: Run) -> None:
    said = [late for _ in range(4) for late in run.epoch(wait=0.12, steps=16)]
    assert len(said) == 1, "even though no epoch alone is long enough"
    assert "2 decoding threads are busy 100 % of the time, so decoding is the limit" in said[0]


def test_a_run_that_becomes_slow_late_warns(run: Run) -> None:
    assert not [late for _ in range(20) for late in run.epoch(wait=0.02)]
    assert len(run.epoch(wait=0.4)) == 1


def test_another_reason_is_logged_too_and_each_only_once(run: Run) -> None:
    said = []
    for _ in range(2):
        said += run.epoch(wait=0.4, busy=0.4) + run.epoch(wait=0.4) + run.epoch(wait=0.4, on_core=0.3)
    assert ["batches_ahead" in said[0], "the limit" in said[1], "for a core" in said[2]] == [True] * 3
    assert len(said) == 3 and "busy only 40 % of the time" in said[0]


def test_a_run_that_waits_a_little_does_not_warn(run: Run) -> None:
    assert not run.epoch(wait=0.09, steps=1000)


@pytest.mark.parametrize(("steps", "step_s"), [(20, 0.5), (100, 0.01)])
def test_a_wait_of_few_steps_or_one_second_does_not_warn(run: Run, steps: int, step_s: float) -> None:
    assert not run.epoch(wait=0.5, steps=steps, step_s=step_s)


def test_another_rank_is_blamed_only_where_there_is_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "another rank" not in run.epoch(wait=0.4, own_wait=0.01)[0]
    two = Run(monkeypatch, world_size=2)
    assert "another rank's batches are late" in two.epoch(wait=0.4, own_wait=0.01, busy=0.5)[0]
    assert "decoding is the limit" in two.epoch(wait=0.4)[0]


def test_a_slow_disk_is_named_even_if_reading_ahead_avoids_page_faults(run: Run) -> None:
    run.resident = 0.4
    said = [late for _ in range(4) for late in run.epoch(wait=0.4, on_core=0.2)]
    assert len(said) == 1 and "80 % of that is waiting for the disk" in said[0]
    assert run.looks == 1, "the file's pages are checked only for a warning"


def test_page_faults_name_the_disk_without_a_check_of_the_file(run: Run) -> None:
    assert "for the disk" in run.epoch(wait=0.4, on_core=0.2, faults=10)[0] and run.looks == 0


def test_a_missing_file_does_not_end_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_gone(path: Path) -> float:
        raise FileNotFoundError(path)

    monkeypatch.setattr(page_cache, "resident_share", is_gone)
    assert "waiting for a core" in run.epoch(wait=0.4, on_core=0.2)[0]


def test_a_single_decoding_thread_is_named_in_the_singular(run: Run) -> None:
    run.loader.threads, run.loader.thread_stats = 1, run.threads[:1]
    assert "the one decoding thread is busy 100 %" in run.epoch(wait=0.4)[0]
