"""Losses and metrics of each task, against torch and numpy; counts that batches do not change; steps written in place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from alexnet_fast.beton.target_fields import TARGETS
from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed.world import World
from alexnet_fast.engine.evaluate import evaluate
from alexnet_fast.engine.meter import Meter
from alexnet_fast.engine.precision import Precision
from alexnet_fast.engine.sgd import fused_or_foreach
from alexnet_fast.engine.tasks import (
    TASKS,
    Classification,
    MultiLabel,
    Regression,
    Task,
    row_means,
    target_of,
)
from alexnet_fast.engine.train_state import TrainState
from alexnet_fast.recipe import Model

CPU = resolve("cpu")


class OfVectors(Regression):
    """A regression of vectors of five numbers."""


def drawn(task: Task, count: int = 503) -> tuple[Tensor, Tensor]:
    """Outputs and targets, the same each time."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(task, MultiLabel):
        there = torch.rand(count, 5, generator=generator) < 0.3
        return torch.randn(count, 5, generator=generator), there.float()
    if isinstance(task, OfVectors):
        return torch.randn(count, 5, generator=generator), torch.randn(count, 5, generator=generator)
    if isinstance(task, Classification):
        return torch.randn(count, 9, generator=generator), torch.randint(0, 9, (count,), generator=generator)
    return torch.randn(count, 1, generator=generator), torch.randn(count, generator=generator) * 100


@pytest.fixture(params=[*TASKS, "vectors"])
def task(request: pytest.FixtureRequest) -> Task:
    return OfVectors() if request.param == "vectors" else TASKS[request.param](0.1)


def test_the_losses_are_torchs() -> None:
    task, (logits, labels) = Classification(label_smoothing=0.1), drawn(Classification())
    assert torch.equal(
        task.loss(logits, labels), functional.cross_entropy(logits, labels, label_smoothing=0.1)
    )
    assert torch.equal(
        task.loss_sum(logits, labels), functional.cross_entropy(logits, labels, reduction="sum")
    )
    outputs, targets = drawn(Regression())
    assert torch.equal(Regression().loss(outputs, targets), functional.mse_loss(outputs[:, 0], targets))
    assert Regression().loss_sum(outputs, targets) == pytest.approx(
        503 * functional.mse_loss(outputs[:, 0], targets).item()
    )


def test_soft_labels_of_one_class_count_and_cost_what_the_class_does() -> None:
    task, (logits, labels) = Classification(label_smoothing=0.1), drawn(Classification())
    soft = functional.one_hot(labels, 9).float()
    assert task.loss(logits, soft).item() == pytest.approx(task.loss(logits, labels).item(), rel=1e-6)
    assert torch.equal(task.counts(logits, soft), task.counts(logits, labels))


def test_the_loss_of_mixed_labels_is_the_mean_of_both_by_their_shares() -> None:
    task, (logits, labels) = Classification(label_smoothing=0.1), drawn(Classification())
    one_hot, others = functional.one_hot(labels, 9).float(), labels.roll(1)
    mixed = 0.7 * one_hot + 0.3 * one_hot.roll(1, 0)
    both = 0.7 * task.loss(logits, labels) + 0.3 * task.loss(logits, others)
    assert task.loss(logits, mixed).item() == pytest.approx(both.item(), rel=1e-5)
    assert torch.equal(task.counts(logits, mixed), task.counts(logits, labels)), "of the larger share"


def test_errors_are_numpys() -> None:
    outputs, targets = drawn(Regression())
    found = Regression().summary(Regression().counts(outputs, targets).tolist(), 503)
    error = (outputs[:, 0] - targets).numpy()  # float32, as in the loss
    assert found == {
        "mse": pytest.approx(np.square(error.astype(float)).mean(), rel=1e-6),
        "mae": np.abs(error.astype(float)).mean(),
    }


def test_the_losses_of_vectors_and_of_several_labels_are_torchs_means_over_all_numbers() -> None:
    outputs, targets = drawn(OfVectors())
    assert torch.equal(Regression().loss(outputs, targets), functional.mse_loss(outputs, targets))
    total = Regression().loss_sum(outputs, targets).item()
    assert total / 503 == pytest.approx(functional.mse_loss(outputs, targets).item(), rel=1e-5)
    outputs, targets = drawn(MultiLabel())
    expected = functional.binary_cross_entropy_with_logits(outputs, targets)
    assert torch.equal(MultiLabel().loss(outputs, targets), expected)
    assert MultiLabel().loss_sum(outputs, targets).item() / 503 == pytest.approx(expected.item(), rel=1e-5)


def test_errors_of_vectors_are_numpys_over_all_numbers() -> None:
    outputs, targets = drawn(OfVectors())
    found = Regression().summary(Regression().counts(outputs, targets).tolist(), 503)
    error = (outputs - targets).numpy().astype(float)
    assert found["mse"] == pytest.approx(np.square(error).mean(), rel=1e-6)
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)


@pytest.mark.parametrize("columns", [1, 2, 3, 40, 1000])
def test_the_mean_of_a_row_does_not_depend_on_the_other_rows(columns: int) -> None:
    numbers = torch.rand(67, columns, generator=torch.Generator().manual_seed(0))
    means = row_means(numbers)
    assert means.tolist() == pytest.approx(numbers.double().mean(1).tolist(), rel=1e-6)
    assert torch.equal(means, torch.cat([row_means(row) for row in numbers.split(1)]))


def test_f1_and_accuracy_are_those_of_their_formulas() -> None:
    outputs, targets = drawn(MultiLabel())
    found = MultiLabel().summary(MultiLabel().counts(outputs, targets).tolist(), 503)
    predicted, there = outputs.numpy() > 0, targets.numpy() > 0.5
    precision, recall = (predicted & there).sum() / predicted.sum(), (predicted & there).sum() / there.sum()
    assert found["f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert found["label_acc"] == pytest.approx(100 * (predicted == there).mean())


@pytest.mark.parametrize(
    ("outputs", "targets", "f1", "accuracy"),
    [
        ([[9.0, -9.0]], [[1.0, 0.0]], 100, 100),
        ([[-9.0, -9.0]], [[0.0, 0.0]], 0, 100),
        ([[float("nan"), float("inf")]], [[1.0, 0.0]], 0, 0),
        ([[9.0, -9.0]], [[0.7, 0.3]], 100, 100),
    ],
)
def test_the_edges_of_f1(
    outputs: list[list[float]], targets: list[list[float]], f1: float, accuracy: float
) -> None:
    task = MultiLabel()
    counts = task.counts(torch.tensor(outputs), torch.tensor(targets)).tolist()
    assert task.summary(counts, 1) == {"f1": f1, "label_acc": accuracy} and sum(counts) == 2


def test_counts_are_integers_that_no_batch_size_changes(task: Task) -> None:
    outputs, targets = drawn(task)
    whole = task.counts(outputs, targets)
    assert whole.dtype is torch.int64 and whole.shape == (task.num_counts,)
    for size in (1, 64):
        parts = zip(outputs.split(size), targets.split(size), strict=True)
        assert torch.equal(torch.stack([task.counts(*part) for part in parts]).sum(0), whole)


def test_a_meter_and_an_evaluation_agree_on_a_tasks_metrics(task: Task) -> None:
    outputs, targets = drawn(task)
    batches = list(zip(outputs.split(100), targets.split(100), strict=True))
    meter = Meter(CPU.torch_device, task=task)
    for batch in batches:
        meter.add(task.loss(*batch), *batch)
    found = evaluate(
        lambda x: x, batches, 503, World(), CPU.torch_device, task=task, batch_size=100, full_batches_of=100
    )
    assert meter.read().metrics == found.metrics
    assert list(found.metrics) == [metric.name for metric in task.metrics]
    assert found.full_batches is not None and found.full_batches.samples == 500
    assert found.full_batches.metrics == task.summary(task.counts(outputs[:500], targets[:500]).tolist(), 500)
    assert found.loss == pytest.approx(task.loss_sum(outputs, targets).item() / 503, rel=1e-5)


def test_a_saved_meter_resumes_where_it_was(task: Task) -> None:
    outputs, targets = drawn(task)
    one, other = (Meter(CPU.torch_device, task=task) for _ in range(2))
    one.add(task.loss(outputs, targets), outputs, targets)
    other.load_state_dict(one.state_dict())
    assert other.read().metrics == one.read().metrics and other.read().samples == 503


def test_the_first_metric_decides_and_knows_its_direction() -> None:
    accuracy, error = Classification.metrics[0], Regression.metrics[0]
    assert accuracy.is_better(0.0, None) and error.is_better(float("inf"), None)
    assert accuracy.is_better(2.0, 1.0) and not accuracy.is_better(1.0, 1.0)
    assert error.is_better(1.0, 2.0) and not error.is_better(2.0, 2.0)
    assert error.is_better(1.0, float("inf")) and not error.is_better(float("inf"), 1.0)


@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_a_regression_step_is_torchs_and_written_in_place(level: str) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 1))

    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9)
    precision = Precision(net(), fused_or_foreach(sgd, CPU), level=level, device=CPU)  # type: ignore[arg-type]
    state = TrainState(precision, Meter(CPU.torch_device, task=Regression()))
    images, targets = (
        torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1)),
        torch.arange(8.0) / 8,
    )

    def places() -> Iterator[int]:
        yield from (tensor.data_ptr() for tensor in vars(state.meter).values() if isinstance(tensor, Tensor))

    before = list(places())
    for _ in range(3):
        state.train_step(images.to(precision.dtype), targets)
    assert list(places()) == before and len(before) >= 4
    if level == "O0":
        model = net().to(memory_format=torch.channels_last)
        optimizer = sgd(model.parameters(), fused=True)
        for _ in range(3):
            loss = functional.mse_loss(model(images)[:, 0], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert state.meter.read().last_loss == loss.item()
        mine = precision.state_dict()
        assert all(torch.equal(mine[key], tensor) for key, tensor in model.state_dict().items())


def test_every_task_has_a_target_and_a_name_in_the_recipe() -> None:
    assert set(TARGETS) == set(TASKS) == set(get_args(Model.model_fields["task"].annotation))
    assert all(
        TASKS[name](0.0).name == name and target_of(TASKS[name](0.0)) is TARGETS[name] for name in TASKS
    )
