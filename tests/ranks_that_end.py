"""Ways in which ranks end in the tests; called_as_ranks.py starts each rank as its own process.

Thirty processes import this module, so it imports only what a rank needs: numba, recipes and training would cost each
half a second.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed import world as ranks
from alexnet_fast.distributed.stop_signals import StopSignals
from alexnet_fast.errors import StoppedBySignal, UserError

CPU = resolve("cpu")


@contextmanager
def world_of(size: int) -> Any:
    """This rank's World, in a process group; one thread, since the ranks share few cores."""
    world = ranks.from_environment(size)
    torch.set_num_threads(1)
    with ranks.process_group(world, CPU, timeout_s=60):
        yield world


def raises_on(rank: int) -> None:
    with world_of(2) as world:
        if world.rank == rank:
            raise LookupError("the cat sat on the cable")
        world.all_reduce_sum(torch.ones(1))


def user_error_on(rank: int) -> None:
    with world_of(2) as world:
        if world.rank == rank:
            raise UserError("there is no room: make some")
        world.all_reduce_sum(torch.ones(1))


def leaves_with_3_on(rank: int) -> None:
    with world_of(2) as world:
        if world.rank == rank:
            os._exit(3)
        world.all_reduce_sum(torch.ones(1))


def hangs_on(rank: int) -> None:
    with world_of(2) as world:
        world.all_reduce_sum(torch.ones(1))
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=2))  # not for joining, which may take a while
        if world.rank == rank:
            gone_fishing()
        world.all_reduce_sum(torch.ones(1))


def gone_fishing() -> None:
    time.sleep(600)


def waits(folder: Path) -> None:
    """Write this rank's process id, and wait to be killed."""
    with world_of(2) as world:
        world.all_reduce_sum(torch.ones(1))
        (folder / f"{world.rank}.waiting").write_text(str(os.getpid()))
        if world.rank == 1:
            time.sleep(600)
        world.all_reduce_sum(torch.ones(1))


def ends_behind_its_killed_launcher(folder: Path) -> None:
    """Notice the launcher's end too late to stop for it, as after the last step."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    rank = os.environ["RANK"]
    (folder / f"{rank}.waiting").write_text(str(os.getpid()))
    while len(list(folder.glob("*.waiting"))) < 2:
        time.sleep(0.01)
    if rank == "0":
        time.sleep(0.5)
        os.kill(os.getppid(), signal.SIGKILL)
    while not told:
        time.sleep(0.01)
    time.sleep(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def is_done_at_sigterm(folder: Path) -> None:
    """As a rank that has finished its last step."""
    await_sigterm(folder)


def cannot_save_at_sigterm(folder: Path) -> None:
    await_sigterm(folder)
    raise UserError("there is no room: make some")


def await_sigterm(folder: Path) -> None:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    (folder / f"{os.environ['RANK']}.waiting").write_text(str(os.getpid()))
    while not told:
        time.sleep(0.01)


def saves_when_it_may(folder: Path) -> None:
    """As a rank whose save lasts until the file `may_save` exists."""
    with world_of(2) as world, StopSignals(world) as stopping:
        world.all_reduce_sum(torch.ones(1))
        (folder / f"{world.rank}.waiting").write_text(str(os.getpid()))
        while not (number := stopping.agreed()):
            time.sleep(0.01)
        (folder / f"{world.rank}.saving").touch()
        while not (folder / "may_save").exists():
            time.sleep(0.01)
        (folder / f"{world.rank}.saved").touch()
        world.all_reduce_sum(torch.zeros(1))
        raise StoppedBySignal(number, "in order")


def kills_itself_on(rank: int) -> None:
    with world_of(2) as world:
        if world.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        world.all_reduce_sum(torch.ones(1))
