"""The results of a run: report.json, and the closing lines that scripts read."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..common.files import write_text
from ..devices.facts import FACTS
from ..engine.evaluate import Evaluation, Score
from ..engine.meter import Averages
from ..engine.tasks import Classification, Task
from .log_fields import Logged, record

REPORT, EVALUATION = "report.json", "eval.json"


@dataclass(frozen=True)
class Report:
    """The results of a run.

    evaluation: the last one, None if there was none.  best: of the task's first metric.  training: the last epoch's averages, None
    where no step remained to train.  img_per_s and data_wait_share: as `ThroughputMeter` counts them.  seconds: from
    start to end.  measured: as of the last step, by the names of LogFields; those on "report" are written.
    """

    name: str
    evaluation: Evaluation | None
    best: float | None
    training: Averages | None
    epochs: int
    steps: int
    skipped_steps: int
    skipped_samples: list[dict[str, Any]]
    img_per_s: float
    img_per_s_leaves_out: str
    data_wait_share: float
    seconds: float
    device: str
    ranks: int
    peak_memory_bytes: int | None
    versions: dict[str, str]
    recipe: dict[str, Any]
    measured: Mapping[str, float] = field(default_factory=dict)
    task: Task = field(default_factory=Classification)

    def figures(self) -> dict[str, Any]:
        """The content of report.json; accuracies in percent."""
        values = asdict(self)
        del values["evaluation"], values["training"], values["measured"], values["task"]
        logged = Logged(self.training, self.evaluation, self.measured, task=self.task)
        best = {f"best_{self.task.metrics[0].name}": values.pop("best")}
        return {"name": values.pop("name"), **record("report", logged), **best, **values}

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(self.figures(), indent=2) + "\n")


def read_report(path: Path, task: Task) -> dict[str, Any] | None:
    """The figures of a report.json; None where it is missing or invalid."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        closing_lines(figures, task)
        return figures
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def closing_lines(figures: Mapping[str, Any], task: Task) -> list[str]:
    """The lines that scripts around the reference read, from a report's figures."""
    first = task.metrics[0]
    value = figures[first.name]
    return [
        f"Final Performance images/sec : {figures['img_per_s']:.2f}",
        f"Final Train {task.headline} : {'not evaluated' if value is None else first.in_total(value)}",
        f"E2E Training Duration sec : {figures['seconds']:.1f}",
    ]


def evaluation_lines(evaluation: Evaluation, task: Task) -> list[str]:
    """The exact accuracy in the reference's format, and below it, where requested, that over full batches only."""

    def metrics(score: Score) -> str:
        return " ".join(
            f"{metric.title} {metric.in_total(score.metrics[metric.name])}" for metric in task.metrics
        )

    lines, full = [f"{task.tag} * {metrics(evaluation)}"], evaluation.full_batches
    if full is not None:  # without "* Acc@1", by which scripts find the line above
        lines.append(
            f"over full batches only ({full.samples:,} of {evaluation.samples:,} samples): {metrics(full)}"
        )
    if evaluation.averaged is not None:
        lines.append(f"with the average of the weights (optim.ema): {metrics(evaluation.averaged)}")
    return lines


def versions() -> dict[str, str]:
    """Versions of the packages on which the figures depend."""
    found = {"alexnet_fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "numba", *(facts.package for facts in FACTS.values() if facts.package)):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
