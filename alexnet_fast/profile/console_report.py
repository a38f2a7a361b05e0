"""The profile on the console: a table of ceilings, and the verdict below it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..common.text import plural
from .evidence import percent
from .prediction import Stages
from .result import Profile
from .stats import Stat


def show(profile: Profile, console: Console) -> None:
    """Print the ceiling of each stage, the speed of all together, and why."""
    stages, verdict = profile.stages, profile.verdict
    table = Table(
        title=f"{profile.machine['device']}, {plural(stages.ranks, 'rank')}, {plural(stages.cores, 'core')}"
    )
    table.add_column("stage")
    table.add_column("img/s", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, rate in verdict.ceilings_img_per_s.items():
        binds = name == verdict.binding or (name == "step" and verdict.binding == "all-reduce")
        table.add_row(name, f"{rate:,.0f}", details(profile)[name], style="bold" if binds else None)
    table.add_section()
    table.add_row("predicted", f"{verdict.predicted_img_per_s:,.0f}", verdict.model)
    whole = stages.whole
    table.add_row(
        "end to end",
        f"{whole.img_per_s.median:,.0f}",
        f"{spread(whole.img_per_s)}, {times(stages)}",
    )
    console.print(table)
    console.print(verdict.text, markup=False)


def details(profile: Profile) -> dict[str, str]:
    """For each stage, the figures behind its ceiling."""
    stages = profile.stages
    read, decode, step, copy = stages.read, stages.decode, stages.step, stages.copy
    disk = "not measured"
    if (rate := read.disk_bytes_per_s) is not None:
        disk = f"{rate.median / 1e6:,.0f} MB/s ({rate.min / 1e6:,.0f} to {rate.max / 1e6:,.0f})"
    threads = ", ".join(f"{point.threads}: {point.img_per_s.median:,.0f}" for point in decode.scaling)
    split = decode.split
    stages_us = (
        f"render {split.render_us.median:,.0f} us"
        if split.cut_us is None or split.decode_us is None
        else f"cut {split.cut_us.median:,.0f}, decode {split.decode_us.median:,.0f}, render {split.render_us.median:,.0f} us"
    )
    summing = (
        "" if step.all_reduce_ms is None else f", summing gradients {step.all_reduce_ms.median:,.1f} of them"
    )
    found = {
        "read": f"cached {read.cached_bytes_per_s.median / 1e9:,.1f} GB/s, disk {disk}, "
        f"{100 * stages.whole.resident_share:.0f} % in the page cache",
        "decode": f"by threads a rank {threads}; one sample on one thread: {stages_us}",
        "step": f"{step.step_ms.median:,.1f} ms: normalize {step.normalise_ms.median:,.1f}, forward {step.forward_ms.median:,.1f}, "
        f"backward {step.backward_ms.median:,.1f}, optimizer {step.optimizer_ms.median:,.1f}{summing}",
    }
    if copy is not None:
        found["copy"] = (
            f"page-locked {copy.pinned_bytes_per_s.median / 1e9:,.2f} GB/s, otherwise {copy.pageable_bytes_per_s.median / 1e9:,.2f}"
        )
    if (queue := stages.queue) is not None:
        computed = (
            "a step waits for the device"
            if queue.device_ms is None
            else f"the device computes one in {queue.device_ms.median:,.2f}"
        )
        found["queue"] = (
            f"a step takes the host {queue.alone_ms.median:,.2f} ms alone, {queue.beside_ms.median:,.2f} next to the decoding threads; "
            f"{computed}"
        )
    return found


def times(stages: Stages) -> str:
    """What the host, the device and the decoding threads did end to end."""
    whole = stages.whole
    said = f"waits for data {percent(whole.data_wait_share)} of the time"
    if not stages.shares_cores:
        said += (
            f" and for the device {percent(whole.device_wait_share)}, device idle {percent(whole.idle_share)}"
        )
    return f"{said}, decoding threads busy {percent(whole.decode_busy_share)}"


def spread(figure: Stat) -> str:
    """The minimum and the maximum."""
    return f"{figure.min:,.0f} to {figure.max:,.0f} in {figure.n} windows"
