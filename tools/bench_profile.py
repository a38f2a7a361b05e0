#!/usr/bin/env python3
"""How accurate the profile is: predicted against measured end to end for several recipes, and what its marks cost.

The cost of the marks is the speed of training with them over the speed without, in alternating blocks of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

from alexnet_fast.torch_import import prefer_passive_openmp

prefer_passive_openmp()

from rich.console import Console
from rich.table import Table

from alexnet_fast.build import init_distributed, train_loader, train_state
from alexnet_fast.common.cli import file_path
from alexnet_fast.devices.device_timer import STEP, DeviceTimer
from alexnet_fast.errors import exit_code
from alexnet_fast.loader.device_prefetcher import DevicePrefetcher
from alexnet_fast.profile.decoding import forever
from alexnet_fast.profile.profiler import profile
from alexnet_fast.profile.recorder import Recorder
from alexnet_fast.profile.stats import Stat, stored
from alexnet_fast.profile.stepping import prepare
from alexnet_fast.recipe import Recipe
from alexnet_fast.recipe_toml import validate

TRIED: list[dict[str, Any]] = [
    {"size": 224, "global_batch_size": 64},
    {"size": 224, "global_batch_size": 64, "threads": 1},
    {"size": 128, "global_batch_size": 64},
    {"size": 64, "global_batch_size": 64},
    {"size": 64, "global_batch_size": 256, "threads": 1},
]
MARKED = TRIED[3]
STEPS_MARKED = 500


def recipe_of(options: argparse.Namespace, folder: str, **data: Any) -> Recipe:
    return validate(
        {
            "run": {"name": "profiled", "out": folder, "device": options.device},
            "data": {"train": str(options.beton), **data},
        }
    )


def marks_cost(recipe: Recipe, rounds: int, block_s: float) -> tuple[Stat, Stat, Stat]:
    """Steps a second and CPU seconds a step, each with marks over without, one value a round; and `marking_us`.

    On a shared machine the second is more reliable: other programs disturb the first.
    """
    with ExitStack() as stack:
        world, device = init_distributed(recipe, stack)
        loader = stack.enter_context(train_loader(recipe, world, device))
        state = train_state(recipe, world, device)
        feed = DevicePrefetcher(device, state.precision.dtype, normalizes=False)
        marks = DeviceTimer(device)
        prepare(state)
        recorder = Recorder(loader, feed, state, marks)
        batches = stack.enter_context(closing(feed(recorder.of_waits(forever(loader)))))

        def block(steps: int) -> tuple[float, float]:
            started = time.perf_counter(), time.process_time()
            for images, labels in islice(batches, steps):
                state.train_step(images, labels)
            device.synchronize()
            return time.perf_counter() - started[0], time.process_time() - started[1]

        block(5)
        steps = max(2, int(block_s * 5 / block(5)[0]))
        speed, cpu = [], []
        for number in range(rounds):
            took = {}
            for marked in (True, False) if number % 2 else (False, True):
                if marked:
                    recorder.start(0)
                else:
                    recorder.stop()
                took[marked] = block(steps)
            recorder.spans(0)
            speed.append(took[False][0] / took[True][0])
            cpu.append(took[True][1] / took[False][1])
        recorder.stop()
        parts = len(state.parts) + (0 if device.is_host else 1)
        return Stat.of(speed), Stat.of(cpu), marking_us(recorder, marks, parts)


def marking_us(recorder: Recorder, marks: DeviceTimer, parts: int) -> Stat:
    """What marking one step costs the host, in microseconds: its parts, its copy, and the decoding of a batch of 256."""
    rounds = []
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(STEPS_MARKED):
            for _ in range(parts):
                with marks.span(STEP, "part"):
                    pass
            for _ in range(2 * 8):  # eight threads' part of a batch, and each one's wait for it
                recorder.watch("decode-0", "decode", time.perf_counter(), time.perf_counter(), (0, 0))
        rounds.append((time.perf_counter() - started) * 1e6 / STEPS_MARKED)
        recorder.spans(0)
    return Stat.of(rounds[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("beton", type=file_path, help="a training set")
    parser.add_argument("--device", default="auto", help="as run.device")
    parser.add_argument("--seconds", type=float, default=30, metavar="S", help="of each profile")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="blocks with marks and without")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="profiles of each recipe")
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    console, rows = Console(), []
    table = Table("recipe", "binds", "predicted img/s", "measured", "of predicted", "seconds")
    with tempfile.TemporaryDirectory() as folder:
        for data in TRIED * options.repeats:
            found = profile(recipe_of(options, folder, **data), options.seconds)
            verdict = found.verdict
            row = {
                "data": data,
                "binding": verdict.binding,
                "predicted_img_per_s": verdict.predicted_img_per_s,
                "measured_img_per_s": found.stages.whole.img_per_s.median,
                "share": verdict.share_of_ceiling,
                "seconds": found.seconds,
            }
            rows.append(row)
            table.add_row(
                f"{data['size']} px, batch {data['global_batch_size']}, {data.get('threads', 'all')} threads",
                verdict.binding,
                f"{verdict.predicted_img_per_s:,.0f}",
                f"{found.stages.whole.img_per_s.median:,.0f}",
                f"{100 * verdict.share_of_ceiling:.1f} %",
                f"{found.seconds:.0f}",
            )
        console.print(table)
        speed, cpu, marking = marks_cost(recipe_of(options, folder, **MARKED), options.rounds, 2.0)
    for name, figure in (("speed", speed), ("CPU seconds a step", cpu)):
        console.print(
            f"{name} with marks over without, {MARKED['size']} px, batch {MARKED['global_batch_size']}: "
            f"{figure.median:.4f} ({figure.min:.4f} to {figure.max:.4f}, n = {figure.n})"
        )
    console.print(
        f"marking a step takes {marking.median:.0f} us ({marking.min:.0f} to {marking.max:.0f}, n = {marking.n})"
    )
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "recipes": rows,
                    "marks": {"speed": stored(speed), "cpu": stored(cpu), "marking_us": stored(marking)},
                },
                indent=1,
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
