"""All logged values: the name of each, where it is written, and how the table of epochs prints it.

A new one is a line of FIELDS, and a name in what measures it (such as `Precision.figures`).  The lines that ModelZoo's
scripts read are fixed, and are in log.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..engine.evaluate import Accuracy
from ..engine.meter import Averages, Interval

Output = Literal["step", "epoch", "table", "report"]
"""A record of metrics.jsonl and TensorBoard (step, epoch), a row on the console (table), report.json (report)."""


@dataclass(frozen=True)
class Logged:
    """The values that are known when a line is logged.

    averages, accuracy: None where no step was trained, or nothing was evaluated.
    speed: since the last log line at a step, of the epoch at its end.
    ceiling_img_per_s: the maximum speed that a profile predicts; None without a profile.
    measured: other values, by the names of their fields.
    """

    averages: Averages | None
    accuracy: Accuracy | None
    measured: Mapping[str, float]
    epoch: int = 0
    epochs: int = 0
    speed: Interval = field(default_factory=Interval)
    ceiling_img_per_s: float | None = None


@dataclass(frozen=True)
class LogField:
    """One logged value.

    name: in metrics.jsonl, TensorBoard and report.json.
    value: returns it; None where there is none: a record omits it, a report has null, a row an empty cell.
    on: where it is written, and its position there; positions keep the order of version 0.1.
    column, text: its column's heading in the table, and how it is formatted there.
    """

    name: str
    value: Callable[[Logged], Any]
    on: Mapping[Output, int]
    column: str = ""
    text: Callable[[Any], str] = str


def full_batches(accuracy: Accuracy) -> dict[str, float] | None:
    """The counts over full batches, for a JSON file; None where they were not requested."""
    full = accuracy.full_batches
    return None if full is None else {"acc1": full.acc1, "acc5": full.acc5, **asdict(full)}


def _measured(name: str) -> Callable[[Logged], Any]:
    return lambda s: s.measured.get(name)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


_two, _four = "{:.2f}".format, "{:.4f}".format

FIELDS = [
    LogField("epoch", lambda s: s.epoch, {"step": 0, "epoch": 0}),
    LogField("epochs", lambda s: f"{s.epoch + 1}/{s.epochs}", {"table": 0}, "epoch"),
    LogField("loss", lambda s: s.averages and s.averages.last_loss, {"step": 1}),
    LogField("lr", _measured("lr"), {"step": 7, "epoch": 1, "table": 1}, "lr", "{:.5f}".format),
    LogField(
        "epoch_loss",
        lambda s: s.averages and s.averages.loss,
        {"step": 2, "epoch": 2, "table": 2},
        "loss",
        _four,
    ),
    LogField("train_loss", lambda s: s.averages and s.averages.loss, {"report": 6}),
    LogField(
        "train_acc1",
        lambda s: s.averages and s.averages.acc1,
        {"step": 3, "epoch": 3, "table": 3, "report": 5},
        "train@1",
        _two,
    ),
    LogField("train_acc5", lambda s: s.averages and s.averages.acc5, {"step": 4, "epoch": 4}),
    LogField(
        "acc1", lambda s: s.accuracy and s.accuracy.acc1, {"epoch": 9, "table": 4, "report": 0}, "Acc@1", _two
    ),
    LogField(
        "acc5",
        lambda s: s.accuracy and s.accuracy.acc5,
        {"epoch": 10, "table": 5, "report": 1},
        "Acc@5",
        _two,
    ),
    LogField("val_loss", lambda s: s.accuracy and s.accuracy.loss, {"epoch": 11, "report": 2}),
    LogField("val_samples", lambda s: s.accuracy and s.accuracy.samples, {"report": 3}),
    LogField("full_batches", lambda s: s.accuracy and full_batches(s.accuracy), {"report": 4}),
    LogField(
        "img_per_s",
        lambda s: s.speed.img_per_s,
        {"step": 5, "epoch": 5, "table": 6},
        "img/s",
        "{:.1f}".format,
    ),
    LogField(
        "ceiling_share",
        lambda s: None if s.ceiling_img_per_s is None else s.speed.img_per_s / s.ceiling_img_per_s,
        {"step": 10},
    ),
    LogField(
        "data_wait_share",
        lambda s: s.speed.data_wait_share,
        {"step": 6, "epoch": 6, "table": 7},
        "data wait",
        _percent,
    ),
    LogField("seconds", lambda s: s.speed.seconds, {"epoch": 7, "table": 8}, "seconds", "{:.1f}".format),
    LogField("loss_scale", _measured("loss_scale"), {"step": 8}),
    LogField("skipped_steps", _measured("skipped_steps"), {"step": 9}),
    LogField("skipped_in_epoch", _measured("skipped_in_epoch"), {"epoch": 8}),
]
"""All fields; within an Output they are sorted by position, then in this order."""


def fields_on(output: Output) -> list[LogField]:
    """The fields that are written there, in order."""
    return sorted((each for each in FIELDS if output in each.on), key=lambda each: each.on[output])


def record(output: Output, logged: Logged) -> dict[str, Any]:
    """The values for an output, by name, None included; raises ValueError for a measured value without a LogField."""
    if unknown := logged.measured.keys() - {each.name for each in FIELDS}:
        raise ValueError(
            f"{', '.join(sorted(unknown))} is measured, but has no LogField in run/log_fields.py"
        )
    return {each.name: each.value(logged) for each in fields_on(output)}


def row(logged: Logged) -> list[str]:
    """The cells of the table's row of an epoch, empty where there is no value."""
    values = [(each, each.value(logged)) for each in fields_on("table")]
    return ["" if value is None else each.text(value) for each, value in values]
