"""The processes that train together: who this one is, and sums over all of them.

Today there is one, so every sum is its own.  The interface is what gloo, nccl and hccl fill.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import UserError


@dataclass(frozen=True)
class World:
    """This process among those that train together.

    rank: 0 .. world_size - 1 over all hosts; only rank 0 writes and prints.
    local_rank: 0 .. (ranks on this host) - 1; the index of the rank's device.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum of every rank's `values` (same shape and dtype on each), on every rank."""
        return values

    def batch_size(self, global_batch_size: int, key: str = "data.global_batch_size") -> int:
        """This rank's share of a batch; raises UserError where it does not divide."""
        if global_batch_size % self.world_size:
            raise UserError(
                f"{key} = {global_batch_size} does not divide over {self.world_size} ranks: "
                f"give a multiple of {self.world_size}"
            )
        return global_batch_size // self.world_size


def join(nproc: int) -> World:
    """The world of this run; raises UserError for more ranks than can be joined."""
    if nproc > 1:
        raise UserError(
            f"distributed.nproc = {nproc}, but this version trains on one device: give distributed.nproc "
            "= 1 (and data.global_batch_size and optim.lr to match), as recipes/1p.toml does"
        )
    return World()
