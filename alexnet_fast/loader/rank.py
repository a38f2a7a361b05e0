"""This process's share of every epoch: as it was given, or torch.distributed's at the moment when it is asked for.

Scripts open their Loader before they start the process group, and a launcher may start it for them: a rank that was looked up
when the Loader was opened would be 0 of 1 on every process, and each would silently read the whole set.
"""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

import torch.distributed as dist

from ..common.arguments import whole
from ..errors import UserError

logger = logging.getLogger("alexnet_fast")


class Share(NamedTuple):
    """Rank ``rank`` of ``world_size``."""

    rank: int
    world_size: int


WHOLE = Share(0, 1)


def share_of(rank: int | None, world_size: int | None) -> tuple[int | None, int | None]:
    """The two options, checked; UserError where they are out of range, or one is given without the other."""
    if world_size is not None:
        world_size = whole("world_size", world_size, "at least 1", lambda n: n >= 1)
    if rank is not None:
        ranks = (
            "at least 0" if world_size is None else f"0 to {world_size - 1}, since world_size is {world_size}"
        )
        rank = whole("rank", rank, ranks, lambda n: n >= 0 and (world_size is None or n < world_size))
    if (rank is None) != (world_size is None):
        given, missing = ("rank", "world_size") if world_size is None else ("world_size", "rank")
        raise UserError(
            f"{given} = {rank if world_size is None else world_size} is given without {missing}: "
            "give both, or neither for torch.distributed's"
        )
    return rank, world_size


def current_share() -> Share:
    """torch.distributed's, or all where there is no process group."""
    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    return WHOLE


class Shares:
    """Finds a loader's share, and logs once what is not plain from its arguments.

    Args:
        rank, world_size: as given, both or neither.
    """

    def __init__(self, rank: int | None, world_size: int | None) -> None:
        self._given = None if rank is None or world_size is None else Share(rank, world_size)
        self._said = ""

    def find(self) -> Share:
        """The share of an epoch that starts now."""
        return self._given or current_share()

    def tell(self, path: object) -> None:
        """Log which share of the file at ``path`` an iteration reads: once, and a warning if other processes read the same."""
        found, group = self.find(), current_share()
        if self._given is None and found.world_size > 1:
            self._say(
                logging.INFO,
                f"this process reads share {found.rank} of {found.world_size} of {path}: torch.distributed's",
            )
        elif found.world_size == 1 and group.world_size > 1:
            self._say(
                logging.WARNING,
                f"each of the {group.world_size} processes of this group reads all of {path}, since rank = 0 and world_size = 1 "
                "were given; leave both out for a share each",
            )
        elif self._given is None and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
            self._say(
                logging.WARNING,
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but torch.distributed has no process group, so this process reads "
                f"all of {path}: start the group before the first iteration, or give rank and world_size",
            )

    def _say(self, level: int, what: str) -> None:
        if what != self._said:
            self._said = what
            logger.log(level, what)
