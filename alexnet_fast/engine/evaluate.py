"""An exact evaluation: every sample counted once, over all ranks, or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..distributed.world import World
from ..loader.sampler import DistributedBatchSampler
from .tasks import Classification, Task


@dataclass(frozen=True)
class Score:
    """What a task counted over some samples.

    metrics: a value for each name.  counted: the counts that eval.json has, by their names there.
    """

    samples: int
    metrics: Mapping[str, float]
    counted: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, task: Task, samples: int, counts: list[int]) -> Score:
        """From the sum of the task's counts."""
        return cls(samples, task.summary(counts, samples), task.counted(counts))


@dataclass(frozen=True)
class Evaluation(Score):
    """What an evaluation counted over the whole set, and the mean loss.

    full_batches: what it counted in full batches alone, the way of loops that drop the last partial one.
    averaged: the same of the moving average of the weights (optim.ema), where there is one.
    """

    loss: float = 0.0
    full_batches: Score | None = None
    averaged: Evaluation | None = None


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    num_samples: int,
    world: World,
    device: torch.device,
    *,
    task: Task | None = None,
    batch_size: int = 1,
    full_batches_of: int = 0,
) -> Evaluation:
    """Count `forward`'s outputs over `batches` of (images, targets), this rank's share of `num_samples` in all.

    forward: images to float32 outputs (B, C) on `device`, the model already in evaluation mode.
    task: what is counted; None = classification.
    batch_size: the rank's, by which the samples were dealt out.
    full_batches_of: count also what lies in the set's full batches of so many samples, if there is one; 0 = do not.
    Counts are integers, summed over the ranks.  Raises RuntimeError unless they add up to `num_samples`.
    """
    task = task or Classification()
    share = DistributedBatchSampler(num_samples, batch_size, world.rank, world.world_size, drop_last=False)
    in_full = num_samples - num_samples % full_batches_of if full_batches_of else 0
    # Samples and the task's counts: of all, and of those in full batches.
    counts = torch.zeros(2, 1 + task.num_counts, dtype=torch.int64, device=device)
    loss = torch.zeros((), device=device)
    for step, (images, targets) in enumerate(batches):
        outputs = forward(images)
        whole = in_full - share.positions(step)[0] if in_full else 0
        for row, count in enumerate((len(targets), min(len(targets), whole))):
            if count > 0:
                counts[row, 0].add_(count)
                counts[row, 1:].add_(task.counts(outputs[:count], targets[:count]))
        loss += task.loss_sum(outputs, targets)
    (samples, *of_all), (samples_in_full, *of_full) = world.all_reduce_sum(counts).tolist()
    if samples != num_samples or samples == 0:
        raise RuntimeError(
            f"the evaluation counted {samples} samples of {num_samples}: its figures would be wrong"
        )
    everything = Score.of(task, samples, of_all)
    return Evaluation(
        samples,
        everything.metrics,
        everything.counted,
        world.all_reduce_sum(loss).item() / samples,
        Score.of(task, samples_in_full, of_full) if in_full else None,
    )
