"""Counting: exact, independent of batches, and honest about what is not a guess."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alexnet_fast.distributed.world import World
from alexnet_fast.engine.evaluate import Evaluation, evaluate
from alexnet_fast.engine.tasks import count_top_k, label_ranks

CPU = torch.device("cpu")


def drawn(count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits and labels, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, classes, generator=generator),
        torch.randint(0, classes, (count,), generator=generator),
    )


def batches(images: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(size), labels.split(size), strict=True))


def count(logits: Tensor, labels: Tensor, size: int, expected: int | None = None) -> Evaluation:
    """Evaluate a model whose images are their own logits."""
    return evaluate(lambda x: x, batches(logits, labels, size), expected or len(labels), World(), CPU)


def test_it_agrees_with_topk_where_no_logits_are_equal() -> None:
    logits, labels = drawn(503, 20)
    five = logits.topk(5).indices == labels[:, None]
    found = count(logits, labels, 64)
    assert found.counted == {"top1": int(five[:, 0].sum()), "top5": int(five.any(1).sum())}
    assert found.metrics["acc1"] == 100 * found.counted["top1"] / 503
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 100, 503])
def test_no_batch_size_changes_the_counts_even_with_equal_logits(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 3, (503, 9), generator=generator).float()
    labels = torch.randint(0, 9, (503,), generator=generator)
    assert count(logits, labels, size).counted == count(logits, labels, 503).counted


def test_equal_logits_are_ranked_by_class() -> None:
    assert label_ranks(torch.zeros(3, 3), torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_no_guess(bad: float) -> None:
    logits = torch.zeros(2, 6)
    logits[0, 0] = bad
    assert [int(n) for n in count_top_k(logits, torch.tensor([0, 0]))] == [1, 1]


def test_with_three_classes_the_label_is_always_among_five() -> None:
    found = count(*drawn(10, 3), 4)
    assert found.counted["top5"] == 10 and found.metrics["acc5"] == 100


@pytest.mark.parametrize("expected", [9, 11])
def test_a_count_other_than_the_sets_is_an_error(expected: int) -> None:
    with pytest.raises(RuntimeError, match=f"10 samples of {expected}"):
        count(*drawn(10, 3), 4, expected)


def test_an_empty_evaluation_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="0 samples of 0"):
        evaluate(lambda x: x, [], 0, World(), CPU)
