"""report.json and the closing lines."""

from __future__ import annotations

import json
from pathlib import Path

from alexnet_fast.engine.evaluate import Evaluation
from alexnet_fast.engine.meter import Averages
from alexnet_fast.engine.tasks import Classification
from alexnet_fast.run.report import Report, closing_lines, versions

AVERAGES = Averages(last_loss=2.25, loss=2.5, metrics={"acc1": 12.5, "acc5": 50.0})
EVALUATION = Evaluation(500, {"acc1": 70.0, "acc5": 96.0}, {"top1": 350, "top5": 480}, loss=1.0)


def test_a_report_is_a_flat_json_object_and_the_closing_lines_have_their_names(tmp_path: Path) -> None:
    report = Report(
        name="t", evaluation=EVALUATION, best=71.0, training=AVERAGES, epochs=2, steps=8, skipped_steps=0, skipped_samples=[],
        img_per_s=123.456, img_per_s_leaves_out="10 steps", data_wait_share=0.01, seconds=12.34, device="cpu",
        ranks=1, peak_memory_bytes=None, versions=versions(), recipe={"run": {"seed": 1}},
    )  # fmt: skip
    report.write(tmp_path / "report.json")
    values = json.loads((tmp_path / "report.json").read_text())
    assert (values["acc1"], values["acc5"], values["val_samples"], values["train_loss"]) == (
        70.0,
        96.0,
        500,
        2.5,
    )
    assert values["recipe"] == {"run": {"seed": 1}} and values["versions"]["torch"]
    assert closing_lines(report.figures(), Classification()) == [
        "Final Performance images/sec : 123.46",
        "Final Train Accuracy : 70.000",
        "E2E Training Duration sec : 12.3",
    ]
