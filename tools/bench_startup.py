"""How long a start takes until the loader's first batch, and until training's first step, compared with `import torch`.

    python tools/bench_startup.py --beton train.beton [--batch 256] [--threads 2] [--rounds 7] [--cold 1] [--ranks 4] [--json FILE]

Each start is a new process. The first one of each kind of ours is not counted: it fills the page cache and compiles the
kernels. Then all kinds take turns, another one first in each round. "beyond torch" is a start's time less that of
`import torch` in the same round, both until the stage is over; the exit of the process is not included.

--cold N adds N starts that find nothing compiled, --ranks N adds N such starts at the same moment that share one folder.

On a busy machine wall time is longer; CPU time shows what a start itself costs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from alexnet_fast.common.cli import file_path
from alexnet_fast.errors import UserError, exit_code
from bench.report import machine
from bench.runner import ROOT, TOOLS

TORCH, COLD = "import torch", "to the first batch, nothing compiled"

Start = list[tuple[str, float, float]]
"""(stage, seconds since the process was started, CPU seconds) at the end of each stage."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_startup.py",
        description="Time from the start of a process to the first batch and to the first training step.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--beton",
        type=file_path,
        required=True,
        metavar="FILE",
        help="a packed set, such as one of 500 px images",
    )
    add("--batch", type=_positive, default=256, metavar="N", help="images of the first batch")
    add("--train-batch", type=_positive, default=32, metavar="N", help="images of the first training step")
    add("--threads", type=_positive, default=2, metavar="N", help="decoding threads")
    add("--no-train", action="store_true", help="skip the starts of a training")
    add("--rounds", type=_positive, default=7, metavar="N", help="counted starts of each kind")
    add("--cold", type=int, default=0, metavar="N", help="starts that have to compile the kernels")
    add(
        "--ranks",
        type=int,
        default=0,
        metavar="N",
        help="processes that start at once and share one compilation",
    )
    add("--json", type=file_path, metavar="FILE", help="also write every start's figures here")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected at least 1")
    return int(text)


class Process:
    """One start."""

    def __init__(self, arguments: Sequence[object], kernels: str | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_python_path())}
        if kernels is not None:
            environment["NUMBA_CACHE_DIR"] = kernels
        self.asked = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.start", *map(str, arguments)],
            cwd=TOOLS,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> Start:
        """Wait for it.

        Raises:
            UserError: it failed, with its last line.
        """
        out, err = self.process.communicate()
        if self.process.returncode:
            raise UserError(f"a start failed: {(err.strip().splitlines() or ['it printed nothing'])[-1]}")
        stages = json.loads(out.splitlines()[-1])
        return [(stage, at - self.asked, cpu_s) for stage, at, cpu_s in stages]


def _python_path() -> list[str]:
    return [str(ROOT), str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])]


def measure(kinds: dict[str, Sequence[object]], rounds: int) -> dict[str, list[Start]]:
    """Each kind's counted starts."""
    for name, arguments in kinds.items():
        if name != TORCH:  # the others import it too
            Process(arguments).end()
    names = list(kinds)
    found: dict[str, list[Start]] = {name: [] for name in names}
    for round_ in range(rounds):
        for place in range(len(names)):
            name = names[(round_ + place) % len(names)]
            found[name].append(Process(kinds[name]).end())
    return found


def median_stages(starts: list[Start]) -> list[dict[str, Any]]:
    """Each stage's own median seconds, wall and CPU."""
    stages = []
    for place, (stage, _, _) in enumerate(starts[0]):
        before = [start[place - 1] if place else ("", 0.0, 0.0) for start in starts]
        wall_s = [start[place][1] - last[1] for start, last in zip(starts, before, strict=True)]
        cpu_s = [start[place][2] - last[2] for start, last in zip(starts, before, strict=True)]
        stages.append(
            {"stage": stage, "wall_s": statistics.median(wall_s), "cpu_s": statistics.median(cpu_s)}
        )
    return stages


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(starts: list[Start], torch: list[Start] | None = None) -> dict[str, Any]:
    """Of one kind of start."""
    figures: dict[str, Any] = {
        "wall_s": spread([start[-1][1] for start in starts]),
        "cpu_s": spread([start[-1][2] for start in starts]),
        "stages": median_stages(starts),
    }
    if torch is not None:
        pairs = list(zip(starts, torch, strict=True))
        figures["beyond_torch_s"] = spread([start[-1][1] - alone[-1][1] for start, alone in pairs])
        figures["beyond_torch_cpu_s"] = spread([start[-1][2] - alone[-1][2] for start, alone in pairs])
    return figures


def cold_start(arguments: Sequence[object], processes: int) -> list[Start]:
    """N starts at once with an empty folder for compiled kernels."""
    with tempfile.TemporaryDirectory() as folder:
        return [process.end() for process in [Process(arguments, folder) for _ in range(processes)]]


def show(report: dict[str, Any], console: Console) -> None:
    """The table on the terminal."""
    settings, place = report["settings"], report["machine"]
    console.print(
        f"{place['processor']}, {place['cores']} cores, load {place['load_1min']:.1f}, {place['date']}; "
        f"{settings['rounds']} interleaved starts of each kind; medians, seconds"
    )
    for name, figures in report["starts"].items():
        table = Table(title=name, title_justify="left")
        for column in ("stage", "wall s", "CPU s"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage in figures["stages"]:
            table.add_row(stage["stage"], f"{stage['wall_s']:.3f}", f"{stage['cpu_s']:.3f}")
        table.add_row("all", f"{figures['wall_s']['median']:.3f}", f"{figures['cpu_s']['median']:.3f}")
        if beyond := figures.get("beyond_torch_s"):
            cpu_s = figures["beyond_torch_cpu_s"]["median"]
            table.add_row("beyond torch", f"{beyond['median']:.3f}", f"{cpu_s:.3f}")
            table.add_row("  min, max", f"{beyond['min']:.3f}, {beyond['max']:.3f}", "")
        console.print(table)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    path = options.beton.resolve()
    if not path.is_file():
        raise UserError(f"{path} is no file; pack a set with tools/write_beton.py")
    with tempfile.TemporaryDirectory() as folder:
        loader = ("loader", path, options.batch, options.threads)
        kinds: dict[str, Sequence[object]] = {
            TORCH: ("torch",),
            f"to the first batch of {options.batch}": loader,
        }
        if not options.no_train:
            train = ("train", path, options.train_batch, options.threads, folder)
            kinds[f"to the first step of {options.train_batch}"] = train
        found = measure(kinds, options.rounds)
    starts = {name: summary(each, found[TORCH] if name != TORCH else None) for name, each in found.items()}
    if options.cold:
        found[COLD] = [start for _ in range(options.cold) for start in cold_start(loader, 1)]
        starts[COLD] = summary(found[COLD])
    if options.ranks:
        at_once = f"{options.ranks} processes at once, nothing compiled"
        found[at_once] = cold_start(loader, options.ranks)
        starts[at_once] = summary(found[at_once])
    settings = {name: str(value) if name == "beton" else value for name, value in vars(options).items()}
    del settings["json"]
    report = {"machine": machine(), "settings": settings, "starts": starts, "every_start": found}
    show(report, Console(width=None if sys.stdout.isatty() else 120))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
