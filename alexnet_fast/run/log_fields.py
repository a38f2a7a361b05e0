"""All logged values: the name of each, where it is written, and how the table of epochs prints it.

A new one is a line of FIELDS, and a name in what measures it (such as `Precision.figures`).  Metrics are the task's
(`metric_fields`).  The lines that ModelZoo's scripts read are fixed, and are in log.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..engine.evaluate import Evaluation, Score
from ..engine.meter import Averages, Interval
from ..engine.tasks import Classification, Metric, Task

Output = Literal["step", "epoch", "table", "report"]
"""A record of metrics.jsonl and TensorBoard (step, epoch), a row on the console (table), report.json (report)."""


@dataclass(frozen=True)
class Logged:
    """The values that are known when a line is logged.

    averages, evaluation: None if no step was trained, or nothing was evaluated.
    speed: since the last log line at a step, of the epoch at its end.
    ceiling_img_per_s: the maximum speed that a profile predicts; None without a profile.
    measured: other values, by the names of their fields.
    task: whose metrics they hold.
    """

    averages: Averages | None
    evaluation: Evaluation | None
    measured: Mapping[str, float]
    epoch: int = 0
    epochs: int = 0
    speed: Interval = field(default_factory=Interval)
    ceiling_img_per_s: float | None = None
    task: Task = field(default_factory=Classification)


@dataclass(frozen=True)
class LogField:
    """One logged value.

    name: in metrics.jsonl, TensorBoard and report.json.
    value: returns it; None where there is none: a record omits it, a report has null, a row an empty cell.
    on: where it is written, and its position there; positions keep the order of version 0.1.
    optional: a report too omits it where there is none.
    column, text: its column's heading in the table, and how it is formatted there.
    """

    name: str
    value: Callable[[Logged], Any]
    on: Mapping[Output, int]
    column: str = ""
    text: Callable[[Any], str] = str
    optional: bool = False


def score(counted: Score) -> dict[str, float]:
    """The metrics and counts, for a JSON file."""
    return {**counted.metrics, "samples": counted.samples, **counted.counted}


def full_batches(evaluation: Evaluation) -> dict[str, float] | None:
    """The counts over full batches, for a JSON file; None where they were not requested."""
    return None if evaluation.full_batches is None else score(evaluation.full_batches)


def _measured(name: str) -> Callable[[Logged], Any]:
    return lambda s: s.measured.get(name)


def _averaged(logged: Logged) -> Any:
    """The evaluation of the moving average of the weights; None without one."""
    return logged.evaluation and logged.evaluation.averaged


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


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
        "{:.4f}".format,
    ),
    LogField("train_loss", lambda s: s.averages and s.averages.loss, {"report": 6}),
    LogField("val_loss", lambda s: s.evaluation and s.evaluation.loss, {"epoch": 11, "report": 2}),
    LogField(
        "ema_val_loss",
        lambda s: _averaged(s) and _averaged(s).loss,
        {"epoch": 11, "report": 2},
        optional=True,
    ),
    LogField("val_samples", lambda s: s.evaluation and s.evaluation.samples, {"report": 3}),
    LogField("full_batches", lambda s: s.evaluation and full_batches(s.evaluation), {"report": 4}),
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
"""All fields but the task's metrics; within an Output they are sorted by position, then in this order."""


def metric_fields(task: Task) -> list[LogField]:
    """The task's metrics of training and evaluation, in their order; of training, the table and the report have only the first."""
    fields = []
    for metric in task.metrics:
        places: dict[Output, int] = {"step": 3, "epoch": 3}
        if metric is task.metrics[0]:
            places |= {"table": 3, "report": 5}
        name, trained, evaluated = metric.name, _trained(metric), _evaluated(metric)
        fields += [
            LogField(f"train_{name}", trained, places, metric.train_column, metric.in_table),
            LogField(name, evaluated, {"epoch": 9, "table": 4, "report": 0}, metric.title, metric.in_table),
            LogField(f"ema_{name}", _of_average(metric), {"epoch": 10, "report": 1}, optional=True),
        ]
    return fields


def _trained(metric: Metric) -> Callable[[Logged], Any]:
    return lambda s: s.averages and s.averages.metrics[metric.name]


def _evaluated(metric: Metric) -> Callable[[Logged], Any]:
    return lambda s: s.evaluation and s.evaluation.metrics[metric.name]


def _of_average(metric: Metric) -> Callable[[Logged], Any]:
    return lambda s: _averaged(s) and _averaged(s).metrics[metric.name]


def fields_on(output: Output, task: Task) -> list[LogField]:
    """The fields that are written there, in order."""
    fields = [*FIELDS, *metric_fields(task)]
    return sorted((each for each in fields if output in each.on), key=lambda each: each.on[output])


def record(output: Output, logged: Logged) -> dict[str, Any]:
    """The values for an output, by name, None included; raises ValueError for a measured value without a LogField."""
    if unknown := logged.measured.keys() - {each.name for each in FIELDS}:
        raise ValueError(
            f"{', '.join(sorted(unknown))} is measured, but has no LogField in run/log_fields.py"
        )
    values = ((each, each.value(logged)) for each in fields_on(output, logged.task))
    return {each.name: value for each, value in values if not (each.optional and value is None)}


def row(logged: Logged) -> list[str]:
    """The cells of the table's row of an epoch, empty where there is no value."""
    values = [(each, each.value(logged)) for each in fields_on("table", logged.task)]
    return ["" if value is None else each.text(value) for each, value in values]
