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
from ..engine.evaluate import Accuracy
from ..engine.meter import Averages
from .log_fields import Logged, record

REPORT, EVALUATION = "report.json", "eval.json"


@dataclass(frozen=True)
class Report:
    """The results of a run.

    accuracy: of the last evaluation, None where there was none.  training: the last epoch's averages, None
    where no step remained to train.  img_per_s and data_wait_share: as `ThroughputMeter` counts them.  seconds: from
    start to end.  measured: as of the last step, by the names of LogFields; those on "report" are written.
    """

    name: str
    accuracy: Accuracy | None
    best_acc1: float | None
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

    def figures(self) -> dict[str, Any]:
        """The content of report.json; accuracies in percent."""
        values = asdict(self)
        del values["accuracy"], values["training"], values["measured"]
        figures = record("report", Logged(self.training, self.accuracy, self.measured))
        return {"name": values.pop("name"), **figures, **values}

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(self.figures(), indent=2) + "\n")


def read_report(path: Path) -> dict[str, Any] | None:
    """The figures of a report.json; None where it is missing or invalid."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        closing_lines(figures)
        return figures
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def closing_lines(figures: Mapping[str, Any]) -> list[str]:
    """The lines that scripts around the reference read, from a report's figures."""
    accuracy = "not evaluated" if figures["acc1"] is None else f"{figures['acc1']:.3f}"
    return [
        f"Final Performance images/sec : {figures['img_per_s']:.2f}",
        f"Final Train Accuracy : {accuracy}",
        f"E2E Training Duration sec : {figures['seconds']:.1f}",
    ]


def accuracy_lines(accuracy: Accuracy) -> list[str]:
    """The exact accuracy in the reference's format, and below it, where requested, the accuracy over full batches only."""
    lines, full = [f"[AVG-ACC] * Acc@1 {accuracy.acc1:.3f} Acc@5 {accuracy.acc5:.3f}"], accuracy.full_batches
    if full is not None:  # without "* Acc@1", by which scripts find the line above
        lines.append(
            f"over full batches only ({full.samples:,} of {accuracy.samples:,} samples): "
            f"Acc@1 {full.acc1:.3f} Acc@5 {full.acc5:.3f}"
        )
    return lines


def versions() -> dict[str, str]:
    """Versions of the packages on which the figures depend."""
    found = {"alexnet_fast": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in ("numpy", "numba", *(facts.package for facts in FACTS.values() if facts.package)):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
