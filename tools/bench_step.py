"""How fast a network's training step is at each precision, on data already on the device, compared with a plain loop.

    python tools/bench_step.py [--model alexnet] [--device auto] [--size 224] [--batch-size 64] [--rounds 7]
                               [--variants VARIANT ...] [--before CHECKOUT] [--json FILE]

Each variant has its own process, so that none inherits another's memory or settings, and only one runs at a
time: a round times `steps` steps of each variant in turn, another one first in each round.
Prints medians over the rounds, their spread, and the ratio to the first variant.

    plain O0      a loop without this package: float32, NCHW, torch's own allocator, SGD and settings
    O0 nchw       this engine at float32, NCHW
    O0, O1, O2    this engine at its levels, in the device's own memory format, on normalized images
    before O2     that of another checkout (--before), such as one of the last version
    O2 eager      this engine from bytes on, all fast paths off
    O2 graph, O2 compile, O2 space_to_depth, O2 fused_optimizer, O2 auto
                  one path on, or those that are by default; a path that is off where this runs is left out, with the reason
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.models import spec_of
from alexnet_fast.torch_import import prefer_passive_openmp

ROOT = Path(__file__).resolve().parents[1]
LEVELS = ("plain O0", "O0 nchw", "O0", "O1", "O2")
PATHS = ("eager", "graph", "compile", "space_to_depth", "fused_optimizer", "auto")
BEFORE = ("before O0", "before O1", "before O2")
VARIANTS = (*LEVELS, *BEFORE, *(f"O2 {path}" for path in PATHS))


def step_of(
    variant: str, network: str, device_name: str, size: int, batch_size: int
) -> tuple[Callable[[], None], Callable[[], None], str]:
    """One training step of a variant, a wait for the device, and the device's name.

    Raises LookupError, with the reason, for a fast path that is off here.
    """
    if variant != "plain O0":
        prefer_passive_openmp()
    import torch
    from torch.nn import functional

    from alexnet_fast.devices.registry import resolve
    from alexnet_fast.engine.fast_paths import NAMES, Choices, use
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
        model = spec_of(network).build(1000, dropout=0.5).to(device.torch_device)
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
        spec_of(network).build(1000, dropout=0.5),
        fused_or_foreach(sgd, device),
        level=variant[:2],  # type: ignore[arg-type]
        device=device,
    )
    state = TrainState(precision, Meter(device.torch_device, task=Classification(label_smoothing=0.1)))
    path = variant[3:]
    if path in PATHS:
        images = torch.randint(0, 256, images.shape, dtype=torch.uint8).to(device.torch_device)
        on = "auto" if path == "auto" else True
        asked = {name: on for name in NAMES if path in (name, "auto")}
        paths = use(state, Choices(**asked), batch_size, size, 1000)  # type: ignore[arg-type]
        if path in NAMES and path not in paths.on:
            raise LookupError(paths.notes[0])
    else:
        images = images.to(device.torch_device, precision.dtype, memory_format=device.memory_format)
    return partial(state.train_step, images, labels), device.synchronize, f"{device.kind} ({device.name})"


SERVER = """
import sys, time
import bench_step
variant, network, device, size, batch_size, steps = sys.argv[1:]
try:
    step, synchronize, name = bench_step.step_of(variant, network, device, int(size), int(batch_size))
except LookupError as why:
    print(f"off: {why}", flush=True)
    sys.exit()
for _ in range(3):
    step()
synchronize()
print(name, flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    for _ in range(int(steps)):
        step()
    synchronize()
    print((time.perf_counter() - started) / int(steps), flush=True)
"""


class Server:
    """A variant's process: warms up, then times `steps` steps each time it is asked."""

    def __init__(
        self,
        variant: str,
        network: str,
        device: str,
        size: int,
        batch_size: int,
        steps: int,
        before: Path | None,
    ) -> None:
        is_before = variant in BEFORE
        root = before if is_before and before is not None else ROOT
        root = root.resolve()
        arguments = (variant.removeprefix("before "), network, device, size, batch_size, steps)
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *map(str, arguments)],
            cwd=root,  # which python -c puts before PYTHONPATH
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tools'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.name = self._line()  # one warms up at a time

    def step_s(self) -> float:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError(f"a variant's process ended with exit code {self._process.wait()}: see above")
        return line.strip()


def measure(
    variants: list[str],
    network: str,
    device: str,
    size: int,
    batch_size: int,
    rounds: int,
    steps: int,
    before: Path | None = None,
) -> tuple[str, dict[str, list[float]]]:
    """The device's name and, per variant that runs here, img/s of each round."""
    servers: dict[str, Server] = {}
    for variant in variants:
        server = Server(variant, network, device, size, batch_size, steps, before)
        if server.name.startswith("off: "):
            print(f"{variant}: {server.name.removeprefix('off: ')}")
            server.close()
        else:
            servers[variant] = server
    speeds: dict[str, list[float]] = {variant: [] for variant in servers}
    order = list(servers)
    for round_ in range(rounds):
        for place in range(len(order)):
            variant = order[(round_ + place) % len(order)]
            speeds[variant].append(batch_size / servers[variant].step_s())
    for server in servers.values():
        server.close()
    return next(iter(servers.values())).name, speeds


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time a network's training step at each precision.")
    parser.add_argument(
        "--model", default="alexnet", metavar="NAME", help="the network, as model.name (default %(default)s)"
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
        default=list(LEVELS),
        metavar="VARIANT",
        help=", ".join(VARIANTS),
    )
    parser.add_argument(
        "--before", type=Path, metavar="CHECKOUT", help='another checkout of this project, for "before ..."'
    )
    parser.add_argument("--json", type=file_path, help="also write every round's figures here")
    given = parser.parse_args(argv)

    from alexnet_fast.common.cpus import allowed_cores
    from alexnet_fast.devices.registry import resolve
    from alexnet_fast.run.report import versions

    resolve(given.device)
    if given.before is None and (without := [each for each in given.variants if each in BEFORE]):
        raise UserError(f"{without[0]} is another checkout's: give its folder as --before")
    name, speeds = measure(
        given.variants,
        given.model,
        given.device,
        given.size,
        given.batch_size,
        given.rounds,
        given.steps,
        given.before,
    )
    machine = {"device": name, "cores": allowed_cores(), "load": os.getloadavg()[0], **versions()}
    print(
        f"{spec_of(given.model).title}, {given.size} px, batch {given.batch_size}, {name}, {machine['cores']} cores, "
        f"torch {machine['torch']}"
    )
    print(f"{given.rounds} interleaved rounds of {given.steps} steps; load average {machine['load']:.1f}")
    first = statistics.median(next(iter(speeds.values())))
    print(f"{'variant':18}  {'img/s':>8}  {'min':>8}  {'max':>8}  {'ratio':>6}")
    for variant, values in speeds.items():
        median = statistics.median(values)
        print(f"{variant:18}  {median:8.1f}  {min(values):8.1f}  {max(values):8.1f}  {median / first:6.2f}")
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
