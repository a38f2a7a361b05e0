"""What is learned from a target: the loss, what is counted, and the metrics computed from it.

What a target is, in the file and in a batch, is in beton/target_fields.py, which does not import torch.  A new task is an entry of
TARGETS there, one of TASKS here, and its name in recipe.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..beton.target_fields import TARGETS, Target
from ..common.text import plural
from . import exact_sum

Format = Callable[[float], str]


@dataclass(frozen=True)
class Metric:
    """One figure of merit, and how it is written.

    name: in metrics.jsonl, TensorBoard, report.json and eval.json.  title: on the console.
    in_line, in_total, in_table: how log lines of steps, lines of evaluations and the table of epochs print it.
    train_column: its heading in the table, for the training samples.
    """

    name: str
    title: str
    in_line: Format
    in_total: Format
    in_table: Format
    train_column: str
    higher_is_better: bool

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far, None before the first."""
        return best is None or (value > best if self.higher_is_better else value < best)


class Task(Protocol):
    """What a model is trained for.

    metrics: the first decides which checkpoint is the best.
    tag, headline: what lines of evaluations start with, and what the closing line calls the first metric.
    num_counts: how many integers `counts` returns.
    """

    metrics: ClassVar[Sequence[Metric]]
    tag: ClassVar[str]
    headline: ClassVar[str]
    num_counts: ClassVar[int]

    @property
    def name(self) -> str:
        """In the recipe."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a training step, a scalar: float32 outputs (B, C), targets (B,), or float32 (B, C), vectors or of a mixed batch."""

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of an evaluation's losses of each sample, a scalar."""

    def counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the metrics are computed from: int64 (num_counts,) on the device, to be summed over batches and ranks.

        Integers, so that a sum is the same in any order.  Waits for nothing; part of a captured step.
        """

    def summary(self, counts: Sequence[int], samples: int) -> dict[str, float]:
        """The metrics of `samples` samples, from the sum of their counts: a value for each name."""

    def counted(self, counts: Sequence[int]) -> dict[str, int]:
        """The counts that eval.json has, by their names there."""

    def describe(self, num_outputs: int) -> str:
        """A model's outputs in words: 10 classes."""


def target_of(task: Task) -> Target:
    """What a task asks of a file's targets."""
    return TARGETS[task.name]


_percent: dict[str, Format] = {
    "in_line": "{:6.2f}".format,
    "in_total": "{:.3f}".format,
    "in_table": "{:.2f}".format,
}
_error: dict[str, Format] = {
    "in_line": "{:.4e}".format,
    "in_total": "{:.6g}".format,
    "in_table": "{:.3e}".format,
}


@dataclass(frozen=True)
class Classification:
    """One class of num_outputs: cross entropy; accuracy at the first guess and among five, in percent.

    label_smoothing: share of the target spread evenly over all classes, in training.
    """

    label_smoothing: float = 0.0

    name: ClassVar[str] = "classification"
    metrics: ClassVar[Sequence[Metric]] = (
        Metric("acc1", "Acc@1", train_column="train@1", higher_is_better=True, **_percent),
        Metric("acc5", "Acc@5", train_column="train@5", higher_is_better=True, **_percent),
    )
    tag: ClassVar[str] = "[AVG-ACC]"
    headline: ClassVar[str] = "Accuracy"
    num_counts: ClassVar[int] = 2  # correct at the first guess, correct among five

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 2:  # of a mixed batch: the class that has most of it
            targets = targets.argmax(1)
        return torch.stack(count_top_k(outputs, targets))

    def summary(self, counts: Sequence[int], samples: int) -> dict[str, float]:
        return {
            metric.name: 100 * right / max(1, samples)
            for metric, right in zip(self.metrics, counts, strict=True)
        }

    def counted(self, counts: Sequence[int]) -> dict[str, int]:
        return dict(zip(("top1", "top5"), counts, strict=True))

    def describe(self, num_outputs: int) -> str:
        return f"{num_outputs} classes"


@dataclass(frozen=True)
class Regression:
    """One number, the model's one output, or a vector of one for each output: the mean squared error, and the mean absolute error, in
    the target's unit.  Of vectors both are means over the vector's numbers too.

    Each sample's error is float32, as in the loss; their sums are exact.
    """

    name: ClassVar[str] = "regression"
    metrics: ClassVar[Sequence[Metric]] = (
        Metric("mse", "MSE", train_column="train MSE", higher_is_better=False, **_error),
        Metric("mae", "MAE", train_column="train MAE", higher_is_better=False, **_error),
    )
    tag: ClassVar[str] = "[AVG-ERR]"
    headline: ClassVar[str] = "MSE"
    num_counts: ClassVar[int] = 2 * exact_sum.SLOTS

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(_as_targets(outputs, targets), targets)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        total = functional.mse_loss(_as_targets(outputs, targets), targets, reduction="sum")
        return total if targets.ndim == 1 else total / targets.shape[1]

    def counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        error = (_as_targets(outputs, targets) - targets).abs()
        squared = error.square()
        if targets.ndim == 2:
            squared, error = row_means(squared), row_means(error)
        return torch.cat([exact_sum.slots(squared), exact_sum.slots(error)])

    def summary(self, counts: Sequence[int], samples: int) -> dict[str, float]:
        squared, absolute = counts[: exact_sum.SLOTS], counts[exact_sum.SLOTS :]
        return {"mse": exact_sum.mean(squared, samples), "mae": exact_sum.mean(absolute, samples)}

    def counted(self, counts: Sequence[int]) -> dict[str, int]:
        return {}

    def describe(self, num_outputs: int) -> str:
        return plural(num_outputs, "output")


def _as_targets(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs (B, C) in the shape of the targets, (B,) or (B, C)."""
    return outputs[:, 0] if targets.ndim == 1 else outputs


def row_means(numbers: Tensor) -> Tensor:
    """The mean of each row, (B,) of (B, K), the same to the bit for any B.

    Halves are added to each other: a sum over a dimension may have another order in a batch of another size.
    """
    columns = numbers.shape[1]
    total = functional.pad(numbers, (0, (1 << (columns - 1).bit_length()) - columns))
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    return total[:, 0] / columns


@dataclass(frozen=True)
class MultiLabel:
    """Several labels for each image, each there or not: binary cross entropy of each output; F1 and accuracy, in percent.

    A label is predicted where its output is above 0, a probability above 0.5; it is there where its target is at least 0.5.
    Over the labels of all samples together (micro-averaged, as scikit-learn's ``f1_score(average="micro")``), with TP, FP, FN and TN
    the numbers of true and false positives and negatives:
    F1 = 2 TP / (2 TP + FP + FN), 0 where there is neither a label nor a prediction; accuracy = (TP + TN) / (TP + FP + FN + TN), which
    is one less the Hamming loss.  An output that is not finite is wrong.

    No mean average precision: it needs the scores of all samples in one place, and these counts are exact over any ranks.
    """

    name: ClassVar[str] = "multilabel"
    metrics: ClassVar[Sequence[Metric]] = (
        Metric("f1", "F1", train_column="train F1", higher_is_better=True, **_percent),
        Metric("label_acc", "LabelAcc", train_column="train acc", higher_is_better=True, **_percent),
    )
    tag: ClassVar[str] = "[AVG-F1]"
    headline: ClassVar[str] = "F1"
    num_counts: ClassVar[int] = 4  # TP, FP, FN, TN

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def loss_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        total = functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")
        return total / targets.shape[1]

    def counts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        there = targets >= 0.5
        right = ((outputs > 0) == there) & outputs.isfinite()
        cases = (there & right, ~there & ~right, there & ~right, ~there & right)
        return torch.stack([case.sum() for case in cases])

    def summary(self, counts: Sequence[int], samples: int) -> dict[str, float]:
        found, wrong, missed, rejected = counts
        of_f1 = 2 * found + wrong + missed
        return {
            "f1": 100 * 2 * found / max(1, of_f1),
            "label_acc": 100 * (found + rejected) / max(1, sum(counts)),
        }

    def counted(self, counts: Sequence[int]) -> dict[str, int]:
        names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
        return dict(zip(names, counts, strict=True))

    def describe(self, num_outputs: int) -> str:
        return plural(num_outputs, "label")


TASKS: Mapping[str, Callable[[float], Task]] = {
    "classification": Classification,
    "regression": lambda label_smoothing: Regression(),
    "multilabel": lambda label_smoothing: MultiLabel(),
}
"""By model.task, called with optim.label_smoothing."""


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Place of each label in the ranking of its logits, 0 = first guess: int64 (B,) of (B, C) and (B,).

    Equal logits are ranked by class index, so that the count is the same on every device and for every
    batch size (topk promises no order).  A row that is not finite ranks its label last: nothing was guessed.
    """
    own = logits.gather(1, labels[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return torch.where(logits.isfinite().all(1), ahead.sum(1), logits.shape[1])


def count_top_k(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many labels are the first guess and how many are among five: two int64 scalars, left on the device.

    With fewer than five classes "among five" still needs a finite guess.
    """
    places = label_ranks(logits, labels)
    return (places < 1).sum(), (places < min(5, logits.shape[1])).sum()
