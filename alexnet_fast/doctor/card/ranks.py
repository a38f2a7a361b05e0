"""One rank of the collectives' check: ``python -m alexnet_fast.doctor.card.ranks FOLDER RANK RANKS DEVICE`` prints an answer in JSON.

FOLDER holds recipe.json, and is where the ranks meet.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from ...devices.device import Device
from ...devices.registry import resolve
from ...distributed.world import World
from ...recipe import Recipe

MARK = "alexnet_fast.doctor.card: "
BYTES = 64 << 20
ROUNDS = 3
STEPS = 3
TOLERANCE = 1e-3
"""Relative, of a sum in half precision of numbers that it holds exactly."""


def main(folder: str, rank: int, ranks: int, name: str) -> None:
    device = resolve(name)
    device.use()
    own = device.collective_backend
    backend = own if device.is_host else f"cpu:gloo,{device.kind}:{own}"
    store = FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group(backend, rank=rank, world_size=ranks, store=store, timeout=timedelta(seconds=100))
    answer = sums(device, rank, ranks) | {"fingerprint": "", "bytes": BYTES}
    if ranks > 1:
        recipe = Recipe.model_validate_json((Path(folder) / "recipe.json").read_text(encoding="utf-8"))
        answer["fingerprint"] = trained(recipe, device, World(rank, rank, ranks, ranks))
    print(f"\n{MARK}{json.dumps(answer)}", flush=True)
    dist.destroy_process_group()


def sums(device: Device, rank: int, ranks: int) -> dict[str, Any]:
    """What is wrong with sums, a broadcast and a gathering; the largest relative error; and how fast sums are."""
    faults, error = list[str](), 0.0
    total = ranks * (ranks + 1) / 2
    for dtype in (torch.float32, device.half_dtype):
        numbers = torch.arange(1024, device=device.torch_device).to(dtype)
        value = numbers / 1024 * (rank + 1)
        dist.all_reduce(value)
        expected = numbers.cpu().double() / 1024 * total
        off = float((value.cpu().double() - expected).abs().max() / expected.max())
        error = max(error, off)
        if not off <= TOLERANCE * (1 if dtype is not torch.bfloat16 else 8):
            faults.append(f"a sum in {str(dtype).removeprefix('torch.')} is {off:.1e} off")
    value = torch.full((8,), float(rank + 1), device=device.torch_device)
    dist.broadcast(value, 0)
    if value.tolist() != [1.0] * 8:
        faults.append("a broadcast does not bring rank 0's numbers")
    parts = [torch.zeros(8, device=device.torch_device) for _ in range(ranks)]
    dist.all_gather(parts, torch.full((8,), float(rank), device=device.torch_device))
    if [part[0].item() for part in parts] != list(map(float, range(ranks))):
        faults.append("gathered parts are not in the order of ranks")
    large = torch.zeros(BYTES // 4, device=device.torch_device)
    took_s = []
    for _ in range(ROUNDS + 1):
        device.synchronize()
        began_s = time.perf_counter()
        dist.all_reduce(large)
        device.synchronize()
        took_s.append(time.perf_counter() - began_s)
    return {"faults": faults, "error": error, "bytes_per_s": BYTES / min(took_s[1:])}


def trained(recipe: Recipe, device: Device, world: World) -> str:
    """A checksum of the weights after a few steps on other images on each rank."""
    from ...loader.device_prefetcher import DevicePrefetcher
    from ...profile import stepping
    from .bench import FEW, Bench

    bench = Bench(recipe, device, print)
    bench.world = world
    state = bench.state()
    feed = DevicePrefetcher(device, state.precision.dtype)
    torch.manual_seed(world.rank)
    state.lr = 1e-3
    for number in range(STEPS):
        stepping.step_on(bench.batch(FEW, number * world.world_size + world.rank), state, feed)()
    return state.precision.fingerprint()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
