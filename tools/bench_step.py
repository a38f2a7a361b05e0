"""How fast a network's training step is at each precision, on data already on the device, compared with a plain loop.

    python tools/bench_step.py [--model alexnet] [--device auto] [--size 224] [--batch-size 64] [--rounds 7]
                               [--json FILE]

Each variant has its own process, so that none inherits another's memory or settings, and only one runs at a
time: a round times `steps` steps of each variant in turn, another one first in each round.
Prints medians over the rounds, their spread, and the ratio to the plain loop.

    plain O0      a loop without this package: float32, NCHW, torch's own allocator, SGD and settings
    O0 nchw       this engine at float32, NCHW
    O0, O1, O2    this engine at its levels, in the device's own memory format
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import exit_code
from alexnet_fast.models import MODELS
from alexnet_fast.torch_import import prefer_passive_openmp

VARIANTS = ("plain O0", "O0 nchw", "O0", "O1", "O2")


def step_of(
    variant: str, network: str, device_name: str, size: int, batch_size: int
) -> tuple[Callable[[], None], Callable[[], None], str]:
    """One training step of a variant, a wait for the device, and the device's name."""
    if variant != "plain O0":
        prefer_passive_openmp()
    import torch
    from torch.nn import functional

    from alexnet_fast.devices.registry import resolve
    from alexnet_fast.engine.meter import Meter
    from alexnet_fast.engine.precision import Precision
    from alexnet_fast.engine.sgd import fused_or_foreach
    from alexnet_fast.engine.tasks import Classification
    from alexnet_fast.engine.train_state import TrainState

    device = resolve(device_name)
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, size, size)
    labels = torch.randint(0, 1000, (batch_size,)).to(device.torch_device)

    if variant == "plain O0":
        model = MODELS[network].build(1000, dropout=0.5).to(device.torch_device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        images = images.to(device.torch_device)

        def plain_step() -> None:
            loss = functional.cross_entropy(model(images), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return plain_step, device.synchronize, f"{device.kind} ({device.name})"

    if variant.endswith("nchw"):
        device = dataclasses.replace(device, memory_format=torch.contiguous_format)  # type: ignore[type-var]
    device.use()
    sgd = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
    precision = Precision(
        MODELS[network].build(1000, dropout=0.5),
        fused_or_foreach(sgd, device),
        level=variant[:2],  # type: ignore[arg-type]
        device=device,
    )
    images = images.to(device.torch_device, precision.dtype, memory_format=device.memory_format)

    state = TrainState(precision, Meter(device.torch_device, task=Classification(label_smoothing=0.1)))
    return partial(state.train_step, images, labels), device.synchronize, f"{device.kind} ({device.name})"


def serve(
    variant: str, network: str, device: str, size: int, batch_size: int, steps: int, pipe: Connection
) -> None:
    """Warm up, then time `steps` steps, in seconds a step, each time the parent asks."""
    step, synchronize, name = step_of(variant, network, device, size, batch_size)
    for _ in range(3):
        step()
    synchronize()
    pipe.send(name)
    while pipe.recv():
        started = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize()
        pipe.send((time.perf_counter() - started) / steps)


def measure(
    variants: list[str], network: str, device: str, size: int, batch_size: int, rounds: int, steps: int
) -> tuple[str, dict[str, list[float]]]:
    """The device's name and, per variant, img/s of each round."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    name = ""
    for variant in variants:
        pipes[variant], theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(variant, network, device, size, batch_size, steps, theirs), daemon=True
        )
        process.start()
        theirs.close()
        processes.append(process)
        name = pipes[variant].recv()  # one warms up at a time
    speeds: dict[str, list[float]] = {variant: [] for variant in variants}
    for round_ in range(rounds):
        for place in range(len(variants)):
            variant = variants[(round_ + place) % len(variants)]
            pipes[variant].send(True)
            speeds[variant].append(batch_size / pipes[variant].recv())
    for variant, process in zip(variants, processes, strict=True):
        pipes[variant].send(False)
        process.join()
    return name, speeds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time a network's training step at each precision.")
    parser.add_argument(
        "--model", choices=tuple(MODELS), default="alexnet", help="the network (default %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or npu (default %(default)s)")
    parser.add_argument(
        "--size", type=int, default=224, help="side of the images in pixels (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps a round (default %(default)s)")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="VARIANT",
        help=", ".join(VARIANTS),
    )
    parser.add_argument("--json", type=file_path, help="also write every round's figures here")
    given = parser.parse_args(argv)

    from alexnet_fast.common.cpus import allowed_cores
    from alexnet_fast.devices.registry import resolve
    from alexnet_fast.run.report import versions

    resolve(given.device)
    name, speeds = measure(
        given.variants, given.model, given.device, given.size, given.batch_size, given.rounds, given.steps
    )
    machine = {"device": name, "cores": allowed_cores(), "load": os.getloadavg()[0], **versions()}
    print(
        f"{MODELS[given.model].title}, {given.size} px, batch {given.batch_size}, {name}, {machine['cores']} cores, "
        f"torch {machine['torch']}"
    )
    print(f"{given.rounds} interleaved rounds of {given.steps} steps; load average {machine['load']:.1f}")
    first = statistics.median(speeds[given.variants[0]])
    print(f"{'variant':10}  {'img/s':>8}  {'min':>8}  {'max':>8}  {'ratio':>6}")
    for variant, values in speeds.items():
        median = statistics.median(values)
        print(f"{variant:10}  {median:8.1f}  {min(values):8.1f}  {max(values):8.1f}  {median / first:6.2f}")
    if given.json:
        result = {
            "machine": machine,
            "model": given.model,
            "size": given.size,
            "batch_size": given.batch_size,
            "img_per_s": speeds,
        }
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
