"""A rank's place, from its environment."""

from __future__ import annotations

import socket

import pytest
import torch

import command_line
from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed import world as ranks
from alexnet_fast.distributed.world import World
from alexnet_fast.errors import UserError

CPU = resolve("cpu")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of rank 5 of 8, local rank 1 of 4, that a launcher sets."""
    for name, value in zip(ranks.ENVIRONMENT, ("5", "1", "8", "4", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)


def test_a_process_that_no_launcher_started_is_a_world_of_one_without_collectives() -> None:
    world = ranks.from_environment(1)
    assert world == World() and world.is_rank0 and world.gather_object("me") == ["me"]
    world.assert_same({"samples": 1})
    with ranks.process_group(world, CPU, "nccl"):
        pass


def test_a_rank_takes_its_place_from_the_launchers_environment_whatever_the_recipe_asks(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ranks, "bind_rank", lambda local_rank, local_world_size: 10 * local_rank + local_world_size
    )
    assert ranks.from_environment(2) == World(5, 1, 8, 4, threads=14)


def test_several_ranks_that_nobody_started_are_refused() -> None:
    with pytest.raises(UserError, match="asks for 8 ranks, but this process was started as one"):
        ranks.from_environment(8)


def test_a_backend_that_the_device_cannot_use_is_refused() -> None:
    world = World(rank=0, world_size=2)
    with (
        pytest.raises(
            UserError, match=r"distributed.backend = 'nccl' does not work with cpu: give auto or gloo"
        ),
        ranks.process_group(world, CPU, "nccl"),
    ):
        pass


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert World(world_size=4).batch_size(12) == 3
    with pytest.raises(UserError, match="data.global_batch_size = 10 does not divide over 4 ranks"):
        World(world_size=4).batch_size(10)


def test_a_torch_whose_collectives_lack_bfloat16_is_an_error_that_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Debian's torch takes gloo from a package of its own, which does not know bfloat16."""

    def refuses(*_: object, **__: object) -> None:
        raise RuntimeError("Invalid scalar type")

    monkeypatch.setattr(ranks, "DistributedDataParallel", refuses)
    monkeypatch.setattr(ranks.dist, "get_backend", lambda: "gloo")
    with pytest.raises(UserError, match=r"gloo of this torch cannot send bfloat16 .*precision.level = O1"):
        ranks.wrap_ddp(torch.nn.Linear(2, 2, dtype=torch.bfloat16), World(0, 0, 2, 2), "half")


JOINS = """
import torch.distributed as dist
from alexnet_fast.devices.registry import resolve
from alexnet_fast.distributed import world as ranks

with ranks.process_group(ranks.from_environment(2), resolve("cpu")):
    dist.barrier()  # rank 0 has the store: it must not end before the other has joined
    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    print(dist.get_rank(), type(store).__name__, store.libuvBackend)
"""


def test_ranks_that_another_program_started_need_no_libuv() -> None:
    """Debian's torch is built without it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        command_line.start("-c", JOINS, env={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"
    ]
    done = [command_line.finish(each) for each in started]
    assert [each.code for each in done] == [0, 0], done
    assert [each.stdout.split() for each in done] == [[str(rank), "TCPStore", "False"] for rank in (0, 1)]
