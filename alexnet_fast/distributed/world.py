"""The processes that train together: the place of this one, and their collectives.

A rank reads its place from the environment variables that its launcher sets: ours (launcher.py) or torchrun.  Tensors on the
device are reduced by the device's backend, everything else by gloo on the host.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ..common.command_name import typed
from ..common.cpus import bind_rank
from ..devices.device import Device
from ..errors import UserError

RANKS_FOLDER = "ALEXNET_FAST_RANKS"  # the folder that our launcher's ranks share, in their environment alone
ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process's place among those that train together.

    rank: 0 .. world_size - 1 over all hosts; only rank 0 writes and prints.
    local_rank: 0 .. local_world_size - 1 on this host; the index of the rank's device.
    threads: how many threads the rank may keep busy; None = all that the process may use.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    threads: int | None = None

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum of every rank's `values` (same shape and dtype on each), on every rank."""
        if self.world_size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def add_up(self, values: torch.Tensor) -> None:
        """Replace `values` by the element-wise sum of every rank's, in place: part of a captured step."""
        dist.all_reduce(values)

    def copy_rank0s(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by rank 0's, in place, in one collective for each of their dtypes: part of a captured step."""
        with torch.no_grad():
            for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
                some = [tensor for tensor in tensors if tensor.dtype is dtype]
                flat = torch.cat([tensor.reshape(-1) for tensor in some])
                dist.broadcast(flat, 0)
                news = flat.split([tensor.numel() for tensor in some])
                torch._foreach_copy_(some, [new.view_as(old) for new, old in zip(news, some, strict=True)])

    def all_reduce_max(self, value: float) -> float:
        """The largest of every rank's `value`, on every rank."""
        if self.world_size == 1:
            return value
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def gather_object(self, value: Any) -> list[Any] | None:
        """On rank 0, every rank's `value` in rank order; None on the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_rank0 else None
        dist.gather_object(value, values)
        return values

    def assert_same(self, values: dict[str, Any]) -> None:
        """Check that all ranks have equal `values`; otherwise every rank raises the same UserError, naming one rank and its value."""
        if self.world_size == 1:
            return
        everyones: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyones, (socket.gethostname(), values))
        host, expected = everyones[0]
        for rank, (other_host, others) in enumerate(everyones):
            for name, value in others.items():
                if value != expected[name]:
                    raise UserError(
                        f"the ranks start differently: rank {rank} on {other_host} has {name} {value}, rank 0 on "
                        f"{host} has {expected[name]}; give every host the same files and the same command"
                    )

    def batch_size(self, global_batch_size: int, key: str = "data.global_batch_size") -> int:
        """This rank's share of a batch; raises UserError if the batch is not divisible by the number of ranks."""
        if global_batch_size % self.world_size:
            raise UserError(
                f"{key} = {global_batch_size} does not divide over {self.world_size} ranks: "
                f"give a multiple of {self.world_size}"
            )
        return global_batch_size // self.world_size


def is_joined() -> bool:
    """Whether our launcher or torchrun started this process as a rank, of several or of one."""
    return RANKS_FOLDER in os.environ or is_torchruns()


def is_torchruns() -> bool:
    """Whether torchrun started this process as a rank, not our launcher."""
    return RANKS_FOLDER not in os.environ and all(name in os.environ for name in ENVIRONMENT)


def from_environment(world_size: int) -> World:
    """This process's place, from the environment; a world of one if it was not started as a rank.

    Binds one of several local ranks to its share of the cores.

    world_size: how many ranks the recipe asks for.  Raises UserError if that is several and no launcher started this process;
    with a launcher, the launcher's number counts.
    """
    if not is_joined():
        if world_size > 1:
            raise UserError(
                f"the recipe asks for {world_size} ranks, but this process was started as one: start it by "
                f"{typed('train')} or by torchrun, or set distributed.nproc = 1"
            )
        return World()
    rank, local_rank, world_size, local_world_size = (int(os.environ[name]) for name in ENVIRONMENT[:4])
    threads = bind_rank(local_rank, local_world_size) if local_world_size > 1 else None
    return World(rank, local_rank, world_size, local_world_size, threads)


@contextmanager
def process_group(
    world: World, device: Device, backend: str = "auto", timeout_s: float = 600
) -> Iterator[None]:
    """The process group of `world` while the body runs; does nothing for a world of one.

    backend: "auto" is the device's own.  timeout_s: how long a rank waits for the others in one collective, in seconds.
    Raises UserError for a backend that the device cannot use.
    """
    if world.world_size == 1:
        yield
        return
    name = device.collective_backend if backend == "auto" else backend
    if name not in device.facts.backends:
        raise UserError(
            f"distributed.backend = {name!r} does not work with {device.kind}: give auto or {device.collective_backend}"
        )
    both = name if name == "gloo" else f"cpu:gloo,{device.kind}:{name}"
    timeout = timedelta(seconds=timeout_s)
    store = _store(world, timeout)
    dist.init_process_group(
        both,
        # Without libuv, as our own stores: it is for thousands of ranks, and some builds of torch (Debian's) lack it.
        "env://?use_libuv=0" if store is None else None,
        rank=world.rank,
        world_size=world.world_size,
        timeout=timeout,
        store=store,
    )
    yield
    dist.destroy_process_group()  # not after an error: it would wait for ranks that may be gone


def _store(world: World, timeout: timedelta) -> Store | None:
    """Where our launcher's ranks rendezvous: a file in their folder, or for several hosts the store of host 0's launcher; None: torchrun's."""
    folder = os.environ.get(RANKS_FOLDER)
    if folder is None:
        return None
    if world.world_size > world.local_world_size:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(
            address, port, is_master=False, timeout=timeout, wait_for_workers=False, use_libuv=False
        )
    store = FileStore(os.path.join(folder, "store"), world.world_size)
    store.set_timeout(timeout)
    return store


def seed_per_rank(world: World) -> None:
    """Seed torch's generator differently on each of several ranks; a single rank's generator is not changed.

    Before this call the generators of all ranks have the same state, after drawing the initial weights, so all ranks draw
    the same list of seeds.
    """
    if world.world_size > 1:
        torch.manual_seed(int(torch.randint(2**62, (world.world_size,))[world.rank]))


def wrap_ddp(model: nn.Module, world: World, reduce: Literal["half", "float32"]) -> nn.Module:
    """Wrap the model in DDP, which averages gradients over the ranks, bucket by bucket, during the backward pass.

    reduce: "half" averages gradients in their own precision; "float32" sums halves in float32, at twice the traffic.
    The wrapped model keeps its parameters and its state-dict keys.  A world of one returns the model itself.

    Raises UserError where the collectives of this torch do not know the parameters' dtype.
    """
    if world.world_size == 1:
        return model
    try:
        # It copies rank 0's buffers before a forward pass, where Precision has made them the same behind the last step: for nothing,
        # but the setting against it has another name in each torch, and the old one warns.
        parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    except RuntimeError as error:
        if "Invalid scalar type" not in str(error):
            raise
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        raise UserError(
            f"{dist.get_backend()} of this torch cannot send {dtype} between ranks, as in Debian's build of torch: set "
            "precision.level = O1 or O0, or install PyTorch's own build"
        ) from error
    if reduce == "float32":
        # A lambda has no annotations.  DDP checks those of its hooks and needs classes, but ours are strings
        # (from __future__ import annotations).
        parallel.register_comm_hook(world.world_size, lambda size, bucket: average_in_float32(size, bucket))
    return parallel


def average_in_float32(world_size: int, bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """DDP hook: casts a bucket (torch.distributed.GradBucket) of gradients to float32, averages it over the ranks, and casts back in place."""
    gradients = bucket.buffer()
    total = gradients.to(torch.float32, copy=True).div_(world_size)
    work = dist.all_reduce(total, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: gradients.copy_(done.value()[0]))
