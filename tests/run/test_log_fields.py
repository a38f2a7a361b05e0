"""All logged values: where they are written, under which name, in which order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet_fast.engine.evaluate import Evaluation, Score
from alexnet_fast.engine.meter import Averages, Interval
from alexnet_fast.run import log_fields
from alexnet_fast.run.log import METRICS, Log
from alexnet_fast.run.log_fields import LogField
from alexnet_fast.run.report import Report

AVERAGES = Averages(last_loss=2.25, loss=2.5, metrics={"acc1": 12.5, "acc5": 50.0})
EVALUATION = Evaluation(500, {"acc1": 70.0, "acc5": 96.0}, {"top1": 350, "top5": 480}, loss=1.0)
CLOCK: Any = SimpleNamespace(line=lambda: Interval(2, 128, 0.5, 0.125), epoch=Interval(4, 256, 2.0, 0.5))

STEP = (
    '{"kind": "step", "step": 8, "epoch": 1, "loss": 2.25, "epoch_loss": 2.5, "train_acc1": 12.5, "train_acc5": 50.0, '
    '"img_per_s": 256.0, "data_wait_share": 0.25, "lr": 0.5, "loss_scale": 128.0, "skipped_steps": 3%s}'
)
EPOCH = (
    '{"kind": "epoch", "step": 8, "epoch": 1, "lr": 0.5, "epoch_loss": 2.5, "train_acc1": 12.5, "train_acc5": 50.0, '
    '"img_per_s": 128.0, "data_wait_share": 0.25, "seconds": 2.0%s}'
)
SAID = """\
Epoch: [1][3/4]  Time  0.250 ( 0.500)  Data  0.062 ( 0.125)  Loss 2.2500e+00 (2.5000e+00)  Acc@1  12.50  Acc@5  50.00
[gpu id: 0 ] * FPS@all 128.000
[AVG-ACC] * Acc@1 70.000 Acc@5 96.000
    epoch         lr       loss    train@1      Acc@1      Acc@5      img/s  data wait    seconds
      2/2    0.50000     2.5000      12.50      70.00      96.00      128.0     25.0 %        2.0
[gpu id: 0 ] * FPS@all 128.000
      2/2    0.50000     2.5000      12.50                            128.0     25.0 %        2.0
"""


def log(folder: Path, **options: Any) -> Log:
    begin: Any = {"epoch": 0, "step": 0}
    return Log(folder, epochs=2, steps_per_epoch=4, going_on_from=begin, **{"tensorboard": False} | options)


@pytest.mark.parametrize(("ceiling", "share"), [(None, ""), (512.0, ', "ceiling_share": 0.5')])
def test_lines_and_records_are_byte_for_byte_those_of_version_0_1(
    ceiling: float | None, share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speaking = log(tmp_path, ceiling_img_per_s=ceiling)
    speaking.step(1, 3, AVERAGES, CLOCK, lr=0.5, loss_scale=128.0, skipped_steps=3)
    speaking.epoch(1, 0.5, AVERAGES, EVALUATION, CLOCK, skipped_in_epoch=7)
    speaking.epoch(1, 0.5, AVERAGES, None, CLOCK)
    speaking.close()
    assert (tmp_path / METRICS).read_text().splitlines() == [
        STEP % share,
        EPOCH % ', "skipped_in_epoch": 7, "acc1": 70.0, "acc5": 96.0, "val_loss": 1.0',
        EPOCH % "",
    ]
    assert capsys.readouterr().out == SAID


def test_a_measured_value_without_a_field_is_refused(tmp_path: Path) -> None:
    speaking = log(tmp_path)
    with pytest.raises(ValueError, match="surprise is measured, but has no LogField"):
        speaking.step(0, 0, AVERAGES, CLOCK, surprise=1.0)
    speaking.close()


def test_a_new_field_is_one_line_and_appears_in_every_output_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = LogField(
        "grad_norm",
        lambda s: s.measured.get("grad_norm"),
        {"step": 99, "epoch": 99, "table": 99, "report": 99},
        "norm",
        "{:.1f}".format,
    )
    monkeypatch.setattr(log_fields, "FIELDS", [norm, *log_fields.FIELDS])
    speaking = log(tmp_path)
    speaking.step(1, 3, AVERAGES, CLOCK, grad_norm=1.25)
    speaking.epoch(1, 0.5, AVERAGES, None, CLOCK, grad_norm=1.5)
    speaking.close()
    step, epoch = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert (list(step)[-1], step["grad_norm"], epoch["grad_norm"]) == ("grad_norm", 1.25, 1.5)
    head, cells = capsys.readouterr().out.splitlines()[-2:]
    assert head.endswith("seconds       norm") and cells.endswith("  2.0        1.5")
    assert report(measured={"grad_norm": 2.0}).figures()["grad_norm"] == 2.0


def report(**changes: Any) -> Report:
    return Report(
        **{
            "name": "t", "evaluation": EVALUATION, "best": 71.0, "training": AVERAGES, "epochs": 2, "steps": 8,
            "skipped_steps": 0, "skipped_samples": [], "img_per_s": 123.456, "img_per_s_leaves_out": "10 steps",
            "data_wait_share": 0.01, "seconds": 12.34, "device": "cpu", "ranks": 1, "peak_memory_bytes": None,
            "versions": {"torch": "2"}, "recipe": {"run": {"seed": 1}}, **changes,
        }
    )  # fmt: skip


def test_a_report_is_byte_for_byte_that_of_version_0_1(tmp_path: Path) -> None:
    in_full = Score(400, {"acc1": 75.0, "acc5": 95.0}, {"top1": 300, "top5": 380})
    report(evaluation=replace(EVALUATION, full_batches=in_full)).write(tmp_path / "report.json")
    assert json.dumps(json.loads((tmp_path / "report.json").read_text())) == (
        '{"name": "t", "acc1": 70.0, "acc5": 96.0, "val_loss": 1.0, "val_samples": 500, "full_batches": {"acc1": 75.0, '
        '"acc5": 95.0, "samples": 400, "top1": 300, "top5": 380}, "train_acc1": 12.5, "train_loss": 2.5, "best_acc1": 71.0, '
        '"epochs": 2, "steps": 8, "skipped_steps": 0, "skipped_samples": [], "img_per_s": 123.456, "img_per_s_leaves_out": '
        '"10 steps", "data_wait_share": 0.01, "seconds": 12.34, "device": "cpu", "ranks": 1, "peak_memory_bytes": null, '
        '"versions": {"torch": "2"}, "recipe": {"run": {"seed": 1}}}'
    )


def test_values_that_were_not_measured_are_null_in_a_report() -> None:
    figures = report(evaluation=None, training=None).figures()
    absent = ("acc1", "acc5", "val_loss", "val_samples", "full_batches", "train_acc1", "train_loss")
    assert list(figures)[1:8] == list(absent) and all(figures[name] is None for name in absent)
