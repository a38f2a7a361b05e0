"""Progress of long work: in a log, a line at intervals with the time left."""

from __future__ import annotations

import io
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest

import command_line
from alexnet_fast.common import progress
from alexnet_fast.common.console import Console
from components import ROOT


def test_a_log_gets_lines_with_rate_and_time_left_and_earlier_work_does_not_count_for_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.progress_bar("packing train", 1000) as report:
        for done in (400, 410, 700):
            report(done)
            now += 31.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "packing train: 410 of 1,000, 0 img/s, 30.5 min left",
        "packing train: 700 of 1,000, 5 img/s, 1.0 min left",
    ]


def test_bytes_are_shown_in_megabytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.progress_bar("fetching s3://a/b", 1_000_000_000, unit="B") as report:
        for done in (100_000_000, 400_000_000):
            report(done)
            now += 31.0
    assert capsys.readouterr().err == "fetching s3://a/b: 400.0 MB of 1,000.0 MB, 9.7 MB/s, 1.0 min left\n"


def test_work_whose_log_cannot_be_written_continues() -> None:
    code = (
        "from alexnet_fast.common import progress\n"
        "progress.LINE_EVERY_S = 0\n"
        "with progress.progress_bar('packing', 9) as report:\n"
        "    for done in range(10):\n"
        "        report(done)\n"
        "print(done)\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            env=command_line.environment({"PYTHONPATH": str(ROOT)}),
        )
    assert (done.returncode, done.stdout) == (0, "9\n")


def test_the_number_of_all_images_may_be_given_with_the_number_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.progress_bar("verifying") as report:
        report(1, 10)
        now = 40.0
        report(5, 10)
    assert "verifying: 5 of 10, " in capsys.readouterr().err


def test_a_bars_name_may_hold_braces_markup_and_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    terminal = partial(Console, file=out, force_terminal=True, width=200)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal())
    with progress.progress_bar("verifying {0}[bold]\x1b]0;x\x07.beton", 10) as report:
        report(1)
    assert r"verifying {0}[bold]\x1b]0;x\x07.beton" in out.getvalue()
