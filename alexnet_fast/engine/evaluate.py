"""Exact top-1 and top-5: every sample counted once, over all ranks, or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..distributed.world import World
from ..loader.sampler import DistributedBatchSampler


@dataclass(frozen=True)
class TopKCounts:
    """Samples, those right at the first guess, and those right among five."""

    samples: int
    top1: int
    top5: int

    @property
    def acc1(self) -> float:
        """Top-1 accuracy in percent."""
        return 100.0 * self.top1 / self.samples

    @property
    def acc5(self) -> float:
        """Top-5 accuracy in percent."""
        return 100.0 * self.top5 / self.samples


@dataclass(frozen=True)
class Accuracy(TopKCounts):
    """What an evaluation counted over the whole set, and the mean loss.

    full_batches: what it counted in full batches alone, the way of loops that drop the last partial one.
    """

    loss: float
    full_batches: TopKCounts | None = None


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


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    num_samples: int,
    world: World,
    device: torch.device,
    *,
    batch_size: int = 1,
    full_batches_of: int = 0,
) -> Accuracy:
    """Count `forward`'s hits over `batches` of (images, labels), this rank's share of `num_samples` in all.

    forward: images to float32 logits (B, C) on `device`, the model already in evaluation mode.
    batch_size: the rank's, by which the samples were dealt out.
    full_batches_of: count also what lies in the set's full batches of so many samples, if there is one; 0 = do not.
    Counts are integers, summed over the ranks.  Raises RuntimeError unless they add up to `num_samples`.
    """
    share = DistributedBatchSampler(num_samples, batch_size, world.rank, world.world_size, drop_last=False)
    in_full = num_samples - num_samples % full_batches_of if full_batches_of else 0
    counts = torch.zeros(6, dtype=torch.int64, device=device)  # samples, top1, top5; those in full batches
    loss = torch.zeros((), device=device)
    for step, (images, labels) in enumerate(batches):
        logits = forward(images)
        whole = in_full - share.positions(step)[0] if in_full else 0
        for at, count in ((0, len(labels)), (3, min(len(labels), whole))):
            if count > 0:
                top1, top5 = count_top_k(logits[:count], labels[:count])
                counts[at : at + 3] += torch.stack([torch.full_like(top1, count), top1, top5])
        loss += functional.cross_entropy(logits, labels, reduction="sum")
    samples, right1, right5, *in_full_batches = world.all_reduce_sum(counts).tolist()
    if samples != num_samples or samples == 0:
        raise RuntimeError(
            f"the evaluation counted {samples} samples of {num_samples}: its figures would be wrong"
        )
    full_batches = TopKCounts(*in_full_batches) if in_full else None
    return Accuracy(samples, right1, right5, world.all_reduce_sum(loss).item() / samples, full_batches)
