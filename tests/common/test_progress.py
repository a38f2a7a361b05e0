"""How far a long work is: in a log a line now and then, with what is left."""

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


def test_a_log_gets_lines_with_rate_and_time_left_and_what_was_done_before_is_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.progress_bar("packing train", 1000) as told:
        for done in (400, 410, 700):
            told(done)
            now += 31.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "packing train: 410 of 1,000, 0 img/s, 30.5 min left",
        "packing train: 700 of 1,000, 5 img/s, 1.0 min left",
    ]


def test_work_whose_log_cannot_be_written_goes_on() -> None:
    code = (
        "from alexnet_fast.common import progress\n"
        "progress.LINE_EVERY_S = 0\n"
        "with progress.progress_bar('packing', 9) as told:\n"
        "    for done in range(10):\n"
        "        told(done)\n"
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


def test_the_number_of_all_may_be_told_with_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.progress_bar("verifying") as told:
        told(1, 10)
        now = 40.0
        told(5, 10)
    assert "verifying: 5 of 10, " in capsys.readouterr().err


def test_a_bars_name_may_hold_braces_markup_and_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    terminal = partial(Console, file=out, force_terminal=True, width=200)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal())
    with progress.progress_bar("verifying {0}[bold]\x1b]0;x\x07.beton", 10) as told:
        told(1)
    assert r"verifying {0}[bold]\x1b]0;x\x07.beton" in out.getvalue()
