"""``python -m alexnet_fast.doctor --card [RECIPE] [--set section.key=value ...] [--seconds N] [--json FILE] [--picture FILE]``.

Exit codes: 0 no fault (there may be warnings), 1 a fault, 2 a mistake in the command or the recipe, 130 stopped by Ctrl-C, with the
table, the JSON and the picture of what was measured until then.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...common.cli import Parser, add_set_flag, file_path, path_text
from ...common.console import Console
from ...common.sizes import size_text
from ...common.text import plural
from ...errors import UserError, exit_code
from ...torch_import import import_torch, prefer_passive_openmp
from .row import Row

FORMAT = 1
SECONDS, LEAST_S, MOST_S = 180.0, 5.0, 3600.0
FIXED_S = 60.0  # for what has a fixed time: images, models, processes
STOPPED = 130
BATCH_OF_A_CPU = 16


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return exit_code(lambda: run(parse(argv)))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m alexnet_fast.doctor --card",
        description="Check and measure this machine's accelerator at work, or its CPU: what was expected, what was seen, and a verdict. "
        "It needs no data.",
    )
    add = parser.add_argument
    add("--card", action="store_true", help=argparse.SUPPRESS)
    add(
        "recipe",
        nargs="?",
        type=path_text,
        metavar="RECIPE",
        help="the recipe to train by (its data is not read)",
    )
    add_set_flag(parser)
    add(
        "--seconds",
        type=seconds,
        default=SECONDS,
        metavar="N",
        help=f"about how long to measure ({SECONDS:.0f})",
    )
    add(
        "--json",
        type=file_path,
        metavar="FILE",
        help="write all figures there; the picture is written next to it",
    )
    add("--picture", type=file_path, metavar="FILE", help="write the picture, an SVG, there")
    return parser.parse(argv)


def run(arguments: argparse.Namespace) -> int:
    """Check, and report what was found, also if Ctrl-C stops it."""
    prefer_passive_openmp()
    import_torch()
    from ...common.progress import ClockProgress
    from ...devices.device_timer import DeviceTimer
    from ...devices.registry import resolve
    from ...recipe_toml import load, validate
    from . import picture, report
    from .bench import Bench, with_values
    from .checks import rows

    if arguments.set and not arguments.recipe:
        raise UserError(
            f"--set {arguments.set[0]} overrides a recipe's key: name a recipe, as recipes/1p.toml"
        )
    targets = [path for path in (arguments.json, picture_path(arguments)) if path]
    for path in targets:
        check_writable(path)
    recipe = load(arguments.recipe, arguments.set) if arguments.recipe else validate({})
    device = resolve(recipe.run.device)
    device.use()
    DeviceTimer(device)  # raises for a device that cannot be timed
    if device.is_host and not arguments.recipe:
        recipe = with_values(recipe, "data", global_batch_size=BATCH_OF_A_CPU)

    console, began_s, found, stopped = (
        Console(highlight=False, soft_wrap=True),
        time.perf_counter(),
        list[Row](),
        False,
    )
    with ExitStack() as stack:
        progress = stack.enter_context(ClockProgress("starting", arguments.seconds + FIXED_S, console))
        bench = Bench(recipe, device, progress.say)
        try:
            for row in rows(bench, arguments.seconds):
                found.append(row)
        except KeyboardInterrupt:
            stopped = True
    result = document(bench, found, time.perf_counter() - began_s, stopped)
    report.show(result["title"], found, stopped, console)
    if arguments.json:
        write(arguments.json, json.dumps(result, indent=2) + "\n")
    if path := picture_path(arguments):
        write(path, picture.svg(result["title"], found))
    for path in targets:
        console.print(f"wrote {path}")
    if stopped:
        return STOPPED
    return 1 if any(row.status == "fault" for row in found) else 0


def document(bench: Any, found: Sequence[Row], took_s: float, stopped: bool) -> dict[str, Any]:
    """What the JSON holds: a figure's name ends with its unit."""
    from ...run.ceiling import machine_of
    from ...run.report import versions

    machine = machine_of(bench.device, bench.world)
    return {
        "format": FORMAT,
        "title": f"{machine['device']}, {plural(machine['cores'], 'core')}, batch {bench.batch_size}, {size_text(bench.recipe.data.largest_size)}, "
        f"{bench.recipe.precision.level}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": took_s,
        "stopped": stopped,
        "machine": machine,
        "versions": versions(),
        "recipe": bench.recipe.model_dump(mode="json"),
        "rows": [row.document() for row in found],
    }


def picture_path(arguments: argparse.Namespace) -> Path | None:
    given: Path | None = arguments.picture
    return given if given or not arguments.json else arguments.json.with_suffix(".svg")


def check_writable(path: Path) -> None:
    """Raise UserError for a file that cannot be written, before minutes of measuring."""
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder; give another file")


def write(path: Path, text: str) -> None:
    from ...common.files import write_text

    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another file") from error


def seconds(text: str) -> float:
    if not LEAST_S <= (value := float(text)) <= MOST_S:
        raise argparse.ArgumentTypeError(f"{text} is not from {LEAST_S:.0f} to {MOST_S:,.0f} seconds")
    return value
