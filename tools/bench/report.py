"""Figures -> the JSON report and the tables on the terminal."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.runner import ROOT, Entry
from bench.statistics import measured, ratios

# More CPU time than this between rounds, as a share of a round's and in seconds, has disturbed the others.
RESTLESS, RESTLESS_S = 0.03, 0.02
IDLE = 0.85  # if cores are less busy than this, another program used them, or they waited for it


def machine() -> dict[str, Any]:
    """Where and when."""
    models = [
        line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    memory_kib = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": 1024 * memory_kib,
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": os.getloadavg()[0],
        "commit": _commit(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _commit() -> str | None:
    """What was measured: the commit, with "+" where the tree differs from it; None outside a git tree."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_report(
    entries: Sequence[Entry],
    settings: Mapping[str, Any],
    absent: Mapping[str, str],
    started: Mapping[str, Any],
) -> dict[str, Any]:
    """All results of the run, ready for JSON."""
    return {
        "machine": {**started, "load_1min_at_end": os.getloadavg()[0]},
        "settings": dict(settings),
        "absent": dict(absent),
        "results": [measured(entry) for entry in entries],
        "ratios": ratios(entries),
    }


def write_json(report: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=1) + "\n")


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """The tables, and warnings about figures that are doubtful."""
    for side_px in report["settings"]["sides"]:
        results = [r for r in report["results"] if r["side_px"] == side_px]
        if results:
            console.print(speed_table(results, side_px, report["settings"]))
    if report["ratios"]:
        console.print(ratio_table(report["ratios"]))
    for name, reason in report["absent"].items():
        console.print(f"[yellow]absent: {name}[/] ({reason})")
    for r in report["results"]:
        round_s = r["cpu_ms_per_image"]["median"] * r["rounds"][0]["images"] / 1e3
        if r["rest_cpu_s"] > max(RESTLESS * round_s, RESTLESS_S):
            console.print(
                f"[yellow]{r['name']} ({r['threads']}) used {r['rest_cpu_s']:.2f} s of CPU between its rounds: others were disturbed[/]"
            )
    idle = [f"{r['name']} ({r['threads']})" for r in report["results"] if r["busy"]["median"] < IDLE]
    if idle:
        console.print(
            f"[yellow]cores less than {100 * IDLE:.0f} % busy[/], so that something else ran there or they waited: {', '.join(idle)}"
        )


def speed_table(results: Sequence[Mapping[str, Any]], side_px: int, settings: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"{settings['images']:,} images, longest side {side_px} px, JPEG quality {settings['quality']} -> random-resized crop 224 px + flip",
        caption=f"img/s: median of {settings['rounds']} interleaved rounds of {settings['epochs']} epochs (min - max); "
        "memory: heap and shared memory of the process and its children, without mapped files",
    )
    table.add_column("pipeline")
    table.add_column("input")
    for heading in ("cores", "img/s", "min - max", "CPU ms / image", "cores busy", "peak memory"):
        table.add_column(heading, justify="right")
    threads = None
    for r in sorted(results, key=lambda r: int(r["threads"])):
        if threads not in (None, r["threads"]):
            table.add_section()
        threads = r["threads"]
        speed = r["img_per_s"]
        table.add_row(
            r["label"],
            r["input"],
            str(threads),
            f"{speed['median']:,.0f}",
            f"{speed['min']:,.0f} - {speed['max']:,.0f}",
            f"{r['cpu_ms_per_image']['median']:.3f}",
            f"{100 * r['busy']['median']:.0f} %",
            f"{r['peak_memory_bytes'] / 1e6:,.0f} MB",
        )
    return table


def ratio_table(found: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title="ratios of speed",
        caption="of the medians (min - max within a round); by CPU time: of the CPU time an image, which other programs disturb less",
    )
    table.add_column("what")
    for heading in ("longest side", "cores", "ratio", "min - max", "by CPU time"):
        table.add_column(heading, justify="right")
    for r in found:
        spread = f"{r['min']:.2f} - {r['max']:.2f}"
        table.add_row(
            r["what"],
            f"{r['side_px']} px",
            str(r["threads"]),
            f"{r['ratio']:.2f}",
            spread,
            f"{r['by_cpu_time']:.2f}",
        )
    return table
