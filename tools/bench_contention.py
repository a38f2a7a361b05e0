"""What a loader's threads cost a main thread that is busy queueing work, compared with a neighbour that never takes the interpreter's lock.

    python tools/bench_contention.py --data DIR [--threads 1,2,16,32] [--rounds 10] [--step-ms 18] [--json FILE]

A step makes so many tiny torch calls that it takes --step-ms, as queueing kernels for an accelerator does, and takes one batch of small images;
the decoder has time to spare, so that a step should cost what it costs alone. What it costs more is what threads beside it cost.

    alone        no threads, no batch
    lock-free    compiled threads that burn as much CPU time as our Loader did in the round before, and never take the interpreter's lock:
                 what the cores and caches cost, which no loader can avoid
    ours         alexnet_fast.Loader
    ffcv         FFCV's Loader on the same file
    dataloader   torch's DataLoader with Pillow in worker processes, on the same images

Each has its own process, and only one runs at a time: in a round all take turns, another one first in each. The first round, which
compiles, is not counted. --flat-out makes steps shorter than a batch: then all wait for the decoder, and a step is what a batch takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alexnet_fast.beton.reader import Beton
from alexnet_fast.common.cli import file_path
from alexnet_fast.common.cpus import allowed_cores
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.torch_import import prefer_passive_openmp
from bench.inputs import Inputs, choose_photos
from bench.report import machine
from bench.runner import TOOLS, child_environment

PEERS = ("alone", "lock-free", "ours", "ffcv", "dataloader")
FIGURES = (
    "step_ms",
    "beyond_alone_ms",
    "beyond_lock_free_ms",
    "next_ms",
    "switches",
    "main_switches",
    "cores",
)
LATE = 0.1  # of a step: a main thread that waits longer for batches has outrun the decoder
FLAT_OUT_MS = 0.5

Rounds = dict[tuple[str, int], list[dict[str, float]]]
"""Of each (peer, threads): the figures of each round; "alone" has 0 threads."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_contention.py",
        description="What a loader's threads cost a main thread that is busy queueing work.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=file_path, metavar="DIR", help="folder with train/<class>/*, packed at 64 px"
    )
    source.add_argument("--beton", type=file_path, metavar="FILE", help="a packed set of small images")
    add(
        "--work",
        type=file_path,
        default=Path("runs/bench/inputs"),
        metavar="DIR",
        help="where the file that --data becomes is kept between runs",
    )
    add("--peers", type=_names, default=",".join(PEERS), metavar="A,B", help="who takes part")
    add("--threads", type=_numbers, default="1,2,16,32", metavar="T,T", help="threads of each loader")
    add("--size", type=_positive, default=64, metavar="PX", help="side of the crops")
    add("--batch", type=_positive, default=128, metavar="N", help="images a batch")
    add("--step-ms", type=_milliseconds, default=18.0, metavar="MS", help="how long a step takes alone")
    add("--flat-out", action="store_true", help=f"steps of {FLAT_OUT_MS} ms, shorter than a batch takes")
    add("--steps", type=_positive, default=150, metavar="N", help="steps of a measurement")
    add("--rounds", type=_positive, default=10, metavar="N", help="counted rounds")
    add("--json", type=file_path, metavar="FILE", help="also write every round's figures here")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected at least 1")
    return int(text)


_positive.__name__ = "whole number"  # argparse names the type in its message


def _numbers(text: str) -> list[int]:
    return list(dict.fromkeys(_positive(part) for part in text.split(",")))


_numbers.__name__ = "list of whole numbers"


def _milliseconds(text: str) -> float:
    if not 0.01 <= float(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected 0.01 to 10000")
    return float(text)


_milliseconds.__name__ = "number"


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(PEERS)}")
    missing = [name for name in ("alone", "ours") if name not in names]
    if missing:
        raise argparse.ArgumentTypeError(f"{missing[0]!r} must take part: the others are compared with it")
    return [name for name in PEERS if name in names]


class Process:
    """The process of one peer."""

    def __init__(self, peer: str, task: dict[str, Any], threads: int) -> None:
        self.peer = peer
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (``close`` closes it)
        # FFCV's pool, which is numba's, is made once, as large as it will ever be.
        pool = threads if peer == "ffcv" else 1
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.contention", json.dumps({"peer": peer, **task})],
            cwd=TOOLS,
            env=child_environment(1) | {"NUMBA_NUM_THREADS": str(pool)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def absent(self) -> str | None:
        """Wait until it is ready. -> why its peer is not installed, or None"""
        return self._reply().get("absent")

    def ask(self, **what: float) -> dict[str, float]:
        """Let it do something, and wait for the answer.

        Raises:
            UserError: it failed, with its last line.
        """
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(what) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        return self._reply()

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        with self._child as child, self._log:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()

    def _reply(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise self._failed()
        return dict(json.loads(line))

    def _failed(self) -> UserError:
        self._child.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["it printed nothing"]
        return UserError(f"{self.peer} failed: {lines[-1]} (exit code {self._child.returncode})")


def measure(
    processes: dict[str, Process], options: argparse.Namespace, calls: int, progress: Progress
) -> Rounds:
    """The figures of all rounds; the first one, which is not counted, is left out."""
    step_ms = FLAT_OUT_MS if options.flat_out else options.step_ms
    turns = [("alone", 0)] + [
        (peer, threads) for threads in options.threads for peer in processes if peer != "alone"
    ]
    found: Rounds = {turn: [] for turn in turns}
    burned = {threads: {"burn_ms": 0.0, "step_ms": step_ms} for threads in options.threads}
    task = progress.add_task("", total=len(turns) * (options.rounds + 1))
    for number in range(options.rounds + 1):
        shift = number % len(turns)
        for peer, threads in turns[shift:] + turns[:shift]:
            label = f"round {number} of {options.rounds}" if number else "warm-up"
            progress.update(task, description=f"{label}: {peer}" + f", {threads} threads" * bool(threads))
            figures = processes[peer].ask(calls=calls, threads=threads, **burned.get(threads, {}))
            if peer == "ours":
                burned[threads] = {
                    "burn_ms": figures["neighbour_cpu_ms"],
                    "step_ms": figures["step_ms"],
                }
            if number:
                found[peer, threads].append(figures)
            progress.advance(task)
    for (peer, threads), rounds in found.items():
        for number, figures in enumerate(rounds):
            figures["beyond_alone_ms"] = figures["step_ms"] - found["alone", 0][number]["step_ms"]
            if (beside := found.get(("lock-free", threads))) and peer != "lock-free":
                figures["beyond_lock_free_ms"] = figures["step_ms"] - beside[number]["step_ms"]
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def results_of(found: Rounds) -> list[dict[str, Any]]:
    """Median and spread over the rounds of every peer's figures, ready for JSON."""
    return [
        {
            "peer": peer,
            "threads": threads,
            **{name: spread([each[name] for each in rounds]) for name in FIGURES if name in rounds[0]},
            "neighbour_cpu_ms": spread([each["neighbour_cpu_ms"] for each in rounds]),
            "rounds": rounds,
        }
        for (peer, threads), rounds in found.items()
    ]


def show(report: dict[str, Any], console: Console) -> None:
    """The table on the terminal, and what makes its figures doubtful."""
    settings, place = report["settings"], report["machine"]
    console.print(
        f"{place['processor']}, {place['cores']} cores, load {place['load_1min']:.1f}, {place['date']}; "
        f"{settings['rounds']} interleaved rounds of {settings['steps']} steps; medians (min to max)"
    )
    spare = "steps shorter than a batch" if settings["flat_out"] else "a decoder with time to spare"
    table = Table(
        title=f"one step of {settings['calls']:,} tiny calls and a batch of {settings['batch']} at {settings['size']} px: {spare}",
        caption="next: in taking the batch; switches: voluntary context switches a batch, of all threads of the process (without worker "
        "processes); of main: of the main thread alone; cores: CPU time of the process and its workers over wall time",
    )
    table.add_column("neighbour")
    for heading in (
        "threads",
        "ms a step",
        "to alone",
        "to lock-free",
        "next, ms",
        "switches",
        "of main",
        "cores",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    threads = None
    for row in sorted(report["results"], key=lambda row: row["threads"]):
        if threads not in (None, row["threads"]):
            table.add_section()
        threads = row["threads"]
        beyond = row.get("beyond_lock_free_ms") if threads else None
        table.add_row(
            row["peer"],
            str(threads or ""),
            _figure(row["step_ms"], ".2f", ".1f"),
            _figure(row["beyond_alone_ms"], "+.2f", "+.1f") if threads else "",
            _figure(beyond, "+.2f", "+.1f") if beyond else "",
            f"{row['next_ms']['median']:.2f}",
            _figure(row["switches"], ".0f", ".0f"),
            f"{row['main_switches']['median']:.1f}",
            f"{row['cores']['median']:.2f}",
        )
    console.print(table)
    for name, reason in report["absent"].items():
        console.print(f"[yellow]absent: {name}[/] ({reason})")
    late = [
        f"{row['peer']} ({row['threads']})"
        for row in report["results"]
        if row["next_ms"]["median"] > LATE * settings["step_ms"]
    ]
    if late and not settings["flat_out"]:
        console.print(
            f"[yellow]more than {100 * LATE:.0f} % of a step waits for the batch[/], so that decoding and not contention is measured: "
            f"{', '.join(late)}; give a longer --step-ms, or fewer images by --batch"
        )


def _figure(figure: dict[str, float], median: str, ends: str) -> str:
    """Median (minimum to maximum), each formatted so."""
    return f"{figure['median']:{median}} ({figure['min']:{ends}} to {figure['max']:{ends}})"


def beton_of(options: argparse.Namespace, console: Console) -> Path:
    """The file to load, which is packed if there is none yet.

    Raises:
        UserError: it is no file, or has fewer images than a batch.
    """
    if options.beton is None:
        photos = choose_photos(options.data, None, options.batch)
        with console.status("packing"):
            return Inputs(photos, options.work, 64, 90, 2, sys.executable, allowed_cores()).get("tiles")
    path: Path = options.beton.resolve()
    with Beton(path) as beton:
        if beton.num_samples < options.batch:
            raise UserError(
                f"{path} has {beton.num_samples} images, fewer than one batch; lower --batch to that"
            )
    return path


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    console = Console(stderr=True)
    prefer_passive_openmp()  # for the peers' processes
    started, path = machine(), beton_of(options, console)
    task = {
        "beton": str(path),
        "size_px": options.size,
        "batch_size": options.batch,
        "steps": options.steps,
    }
    absent: dict[str, str] = {}
    processes: dict[str, Process] = {}
    with ExitStack() as stack:
        with console.status("starting"):
            for peer in options.peers:
                process = Process(peer, task, max(options.threads))
                stack.callback(process.close)
                if reason := process.absent():
                    absent[peer] = reason
                else:
                    processes[peer] = process
            wanted_ms = FLAT_OUT_MS if options.flat_out else options.step_ms
            calls = int(processes["alone"].ask(calibrate_ms=wanted_ms)["calls"])
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            refresh_per_second=1,  # drawing uses a core that is being measured
            disable=not console.is_terminal,
        ) as progress:
            found = measure(processes, options, calls, progress)
    settings = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
    }
    del settings["json"]
    report = {
        "machine": {**started, "load_1min_at_end": os.getloadavg()[0]},
        "settings": {**settings, "beton": str(path), "step_ms": wanted_ms, "calls": calls},
        "absent": absent,
        "results": results_of(found),
    }
    show(report, Console(width=None if sys.stdout.isatty() else 150))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
