"""How far a long work is: in a log a line now and then, with what is left."""

from __future__ import annotations

import pytest

from alexnet_fast import progress


def test_a_log_gets_lines_with_rate_and_time_left_and_what_was_done_before_is_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_bar("packing train", 1000) as told:
        for done in (400, 410, 700):
            told(done)
            now += 31.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "packing train: 410 of 1,000, 0 img/s, 30.5 min left",
        "packing train: 700 of 1,000, 5 img/s, 1.0 min left",
    ]


def test_the_number_of_all_may_be_told_with_what_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_bar("verifying") as told:
        told(1, 10)
        now = 40.0
        told(5, 10)
    assert "verifying: 5 of 10, " in capsys.readouterr().err
