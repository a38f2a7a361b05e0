"""The log of a run: metrics.jsonl, the live line, and the lines that scripts read."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_fast.common.files import write_text
from alexnet_fast.devices.registry import resolve
from alexnet_fast.engine.evaluate import Evaluation
from alexnet_fast.engine.meter import Averages, Interval, ThroughputMeter
from alexnet_fast.run import checkpoint
from alexnet_fast.run.log import METRICS, Log

AVERAGES = Averages(last_loss=2.25, loss=2.5, metrics={"acc1": 12.5, "acc5": 50.0})
EVALUATION = Evaluation(500, {"acc1": 70.0, "acc5": 96.0}, {"top1": 350, "top5": 480}, loss=1.0)


def log(folder: Path, **options: Any) -> Log:
    return Log(
        folder,
        **{
            "epochs": 2,
            "steps_per_epoch": 4,
            "going_on_from": {"epoch": 0, "step": 0},
            "tensorboard": False,
            **options,
        },
    )


def clock() -> ThroughputMeter:
    clock = ThroughputMeter(resolve("cpu"), 0)
    with clock.training():
        clock.step(64, 0.0)
    return clock


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def test_the_log_lines_are_those_that_scripts_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speaking = log(tmp_path)
    speaking.step(0, 3, AVERAGES, clock(), lr=0.01)
    speaking.epoch(0, 0.01, AVERAGES, EVALUATION, clock())
    speaking.close()
    out = capsys.readouterr().out
    number = r"\s*[\d.e+-]+ \(\s*[\d.e+-]+\)"
    line = rf"^Epoch: \[0\]\[3/4\]  Time{number}  Data{number}  Loss{number}  Acc@1  12\.50  Acc@5  50\.00$"
    assert re.search(line, out, re.MULTILINE)
    assert re.search(r"^\[gpu id: 0 \] \* FPS@all [\d.]+$", out, re.MULTILINE)
    assert "[AVG-ACC] * Acc@1 70.000 Acc@5 96.000\n" in out


@pytest.mark.parametrize("columns", [80, 140])
def test_the_live_line_fits_its_figures_into_the_terminal(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name, value in {"COLUMNS": str(columns), "FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    speaking = log(tmp_path, steps_per_epoch=10_010, epochs=90, ceiling_img_per_s=100_000)
    speaking.advance(89, 10_009)
    at_full_speed = SimpleNamespace(
        line=lambda: Interval(1, 99_999, 1.0, 0.0), epoch=Interval(1, 99_999, 1.0, 0.0)
    )
    speaking.step(89, 10_009, AVERAGES, at_full_speed)  # type: ignore[arg-type]
    speaking.close()
    line = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out).rstrip().splitlines()[-1]
    assert "epoch 89/90 step 10009/10010" in line and "(100 % of ceiling)" in line and "wait 0 %" in line
    assert re.search(r"0:00:00( left)?$", line) and "…" not in line and len(line) <= columns


def test_ranks_other_than_rank_0_print_and_write_nothing(tmp_path: Path, capsys: Any) -> None:
    silent = log(tmp_path, speaks=False)
    silent.step(0, 0, AVERAGES, clock(), lr=0.01)
    silent.close()
    assert capsys.readouterr().out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["a pipe without a reader", "a full disk"])
def test_a_console_that_cannot_be_written_to_is_quiet_and_the_run_continues(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "a full disk":
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    with open(descriptor, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        speaking = log(tmp_path)
        for step in range(2):
            speaking.step(0, step, AVERAGES, clock())
        speaking.close()
        print("what remains in its buffer is lost")
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


class FullFor:
    """A file on a disk that is full during the first writes; every second one writes a part."""

    def __init__(self, file: Any, writes: int) -> None:
        self.file, self.writes, self.close = file, writes, file.close

    def write(self, content: bytes) -> int:
        self.writes -= 1
        if self.writes < 0:
            return int(self.file.write(content))
        if self.writes % 2:
            return int(self.file.write(content[:5]))
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("writes", "lost"), [(4, 0), (1000, 3)])
def test_metrics_wait_in_memory_while_the_disk_is_full_and_the_run_continues(
    writes: int, lost: int, tmp_path: Path, capsys: Any
) -> None:
    speaking = log(tmp_path)
    speaking._lines._file = FullFor(speaking._lines._file, writes)  # type: ignore[assignment, union-attr]
    for step in range(3):
        speaking.step(0, step, AVERAGES, clock())
    speaking.close()
    out = capsys.readouterr().out
    assert out.count(f"{METRICS} cannot be written (No space left on device)") == 1
    assert (f"the last {lost} lines of" in out) == (lost > 0)
    if not lost:
        assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]


def test_metrics_are_one_json_object_per_line_with_the_runs_step(tmp_path: Path) -> None:
    speaking = log(tmp_path)
    speaking.step(1, 2, AVERAGES, clock(), lr=0.5, loss_scale=128.0)
    speaking.epoch(1, 0.5, AVERAGES, EVALUATION, clock())
    speaking.close()
    step, epoch = records(tmp_path)
    assert (step["kind"], step["step"], step["loss"], step["loss_scale"]) == ("step", 7, 2.25, 128.0)
    assert (epoch["kind"], epoch["step"], epoch["acc1"], epoch["acc5"]) == ("epoch", 8, 70.0, 96.0)


def test_a_resumed_run_deletes_records_after_its_checkpoint_and_truncated_lines(tmp_path: Path) -> None:
    first = log(tmp_path)
    for step in range(4):
        first.step(0, step, AVERAGES, clock())
    first.close()
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"kind": "step", "st')
    log(tmp_path, going_on_from={"epoch": 0, "step": 2}).close()
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    log(tmp_path).close()
    assert records(tmp_path) == []


@pytest.mark.parametrize(("write", "content"), [(write_text, "text"), (checkpoint.save, {"weights": 1})])
def test_content_is_synced_before_the_file_gets_its_name_and_the_folder_after(
    write: Callable[[Path, Any], None], content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        done.append("name")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write(tmp_path / "file", content)
    assert done == ["content", "name", "folder"]


def test_tensorboard_records_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    speaking = log(tmp_path, tensorboard=True)
    speaking.epoch(1, 0.5, AVERAGES, EVALUATION, clock())
    speaking.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("epoch/acc1")] == [(8, 70.0)]
