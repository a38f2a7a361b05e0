"""A file that is not in memory, a file of ImageNet's size, and a long run: what they cost.

    python tools/bench_storage.py --data DIR [--threads 2] [--out runs/bench-storage]

**Cold page cache.** The images are packed and their payloads repeated up to ``--gigabytes``, each copy with its own
bytes in the file, so that there is something to read ahead. Rounds with the file dropped from the page cache and with
the file in it, with read-ahead and without, take turns. A round is the first ``--batches`` batches of a shuffled epoch by a new
loader, from before its first batch to its last. The first round, which compiles, is not counted. Dropping is verified, and the speed of
the disk is measured too: the figures mean nothing without it.

**The block order** (``--block-rounds``). The same file, read whole: by read(2), and by the
Loader's read stage, without decoding, in the file's order, with ``order="block"`` and shuffled; and how many classes a batch has with
each order, computed for a set like ImageNet. To measure under a real memory limit, run it in one, as by ``systemd-run --scope -p
MemoryMax=2G``; without one, what windows held that are done with is dropped from the page cache.

**Opening.** A file with real metadata of ``--samples`` samples and a hole for its pages is opened in a fresh process, once with the
allocation table in the samples' order (our packer's) and once out of order (FFCV's).

**A long run.** The private memory of the process after each of ``--epochs`` epochs of the images.

Writes storage.json to ``--out`` and prints the same as tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from alexnet_fast.common.cli import file_path
from alexnet_fast.common.cpus import allowed_cores
from alexnet_fast.errors import UserError, exit_code
from bench import block_reads, cold_cache, open_cost
from bench.inputs import Inputs, choose_photos
from bench.large_files import IMAGENET, write_repeated, write_sparse
from bench.memory_growth import after_each_epoch
from bench.report import machine, write_json

STILL_CACHED = 0.02  # with more of the file than this in memory a round is not cold


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench_storage.py",
        description="The loader on a file that is not in memory, the cost of opening a large one, and memory over a long run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=file_path, required=True, metavar="DIR", help="folder with train/<class>/*")
    add(
        "--out",
        type=file_path,
        default=Path("runs/bench-storage"),
        metavar="DIR",
        help="where storage.json is written",
    )
    add(
        "--work",
        type=file_path,
        metavar="DIR",
        help="where files are made, on the disk to measure; None = OUT/inputs",
    )
    add(
        "--images", type=_at_least(1), metavar="N", help="images to pack, cut to complete batches; None = all"
    )
    add("--gigabytes", type=_size, default=2.0, metavar="GB", help="size of the file of repeated images")
    add("--threads", type=_at_least(1), default=allowed_cores(), metavar="T", help="decoding threads")
    add("--rounds", type=_at_least(0), default=5, metavar="N", help="timed rounds; 0 = leave this part out")
    add("--batches", type=_at_least(1), default=20, metavar="N", help="batches a round")
    add("--batch", type=_at_least(1), default=250, metavar="N", help="images a batch")
    add("--read-ahead-mib", type=_sizes, default="64", metavar="M,M", help="windows of read-ahead to compare")
    add(
        "--block-rounds",
        type=_at_least(0),
        default=0,
        metavar="N",
        help="rounds of the block order; 0 = skip",
    )
    add("--window-pages", type=_at_least(1), default=32, metavar="N", help="of the block order")
    add(
        "--samples",
        type=_at_least(0),
        default=IMAGENET,
        metavar="N",
        help="samples of the large file; 0 = skip",
    )
    add("--epochs", type=_at_least(0), default=50, metavar="N", help="epochs of the long run; 0 = skip")
    return parser.parse_args(argv)


def _at_least(low: int) -> Any:
    def number(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"{text} is out of range, expected at least {low}")
        return int(text)

    number.__name__ = "whole number"  # argparse names the type in its message
    return number


def _size(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} is out of range, expected more than 0")
    return float(text)


_size.__name__ = "number"


def _sizes(text: str) -> list[float]:
    return [_size(part) for part in text.split(",")]


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    console, out = Console(stderr=True), options.out.resolve()
    work = options.work or out / "inputs"
    try:
        for folder in (out, work):
            folder.mkdir(parents=True, exist_ok=True)
        report = measure(options, work, console)
        write_json(report, out / "storage.json")
    except OSError as error:
        raise UserError(f"cannot write below {out} and {work}: {error.strerror or error}") from error
    print_report(report, Console())


def measure(options: argparse.Namespace, work: Path, console: Console) -> dict[str, Any]:
    """The parts that were asked for, ready for JSON."""
    names = ["threads", "rounds", "batches", "batch", "gigabytes", "samples", "epochs"]
    names += ["block_rounds", "window_pages"]
    report: dict[str, Any] = {
        "machine": machine(),
        "settings": {name: getattr(options, name) for name in names},
    }
    if options.samples:
        with console.status(f"opening files of {options.samples:,} samples"):
            report["opening"] = _opening(work, options.samples)
    if options.rounds or options.epochs or options.block_rounds:
        with console.status("packing"):
            photos = choose_photos(options.data, options.images, options.batch)
            packed = Inputs(photos, work, 500, 90, 4, sys.executable, allowed_cores()).get("tiles")
    if options.rounds:
        with console.status("reading the file from the disk and from memory"):
            report["cold"] = _cold(options, packed, work)
    if options.block_rounds:
        with console.status("reading the file in the block order"):
            report["block"] = _block(options, packed, work)
    if options.epochs:
        with console.status(f"{options.epochs} epochs"):
            report["growth"] = {
                "own_bytes": after_each_epoch(packed, options.epochs, options.batch, options.threads)
            }
    return report


def _opening(work: Path, samples: int) -> dict[str, Any]:
    found = {}
    for order, shuffled in (("ours", False), ("FFCV's", True)):
        path = work / "sparse.beton"
        try:
            found[order] = open_cost.measure(write_sparse(path, samples, shuffled_table=shuffled))
        finally:
            path.unlink(missing_ok=True)
    return found


@contextmanager
def _repeated(options: argparse.Namespace, packed: Path, work: Path) -> Iterator[Path]:
    path = work / "repeated.beton"
    try:
        yield write_repeated(packed, path, max(1, round(options.gigabytes * 1e9 / packed.stat().st_size)))
    finally:
        path.unlink(missing_ok=True)


def _block(options: argparse.Namespace, packed: Path, work: Path) -> dict[str, Any]:
    with _repeated(options, packed, work) as path:
        return {
            "file_bytes": path.stat().st_size,
            "mixtures": block_reads.mixtures(),
            "results": block_reads.run_rounds(
                path, options.block_rounds, options.batch, options.window_pages
            ),
        }


def _cold(options: argparse.Namespace, packed: Path, work: Path) -> dict[str, Any]:
    variants = cold_cache.variants([int(mib * 2**20) for mib in options.read_ahead_mib])
    with _repeated(options, packed, work) as path:
        return {
            "file_bytes": path.stat().st_size,
            "disk": cold_cache.disk(path),
            "results": cold_cache.run_rounds(
                path, variants, options.rounds, options.batches, options.batch, options.threads
            ),
        }


def print_report(report: dict[str, Any], console: Console) -> None:
    """The tables, and warnings about figures that are doubtful."""
    if "opening" in report:
        console.print(opening_table(report["opening"], report["settings"]["samples"]))
    if "cold" in report:
        console.print(cold_table(report["cold"], report["settings"]))
        warn_if_not_cold([r for r in report["cold"]["results"] if r["cold"]], console)
    if "block" in report:
        console.print(block_table(report["block"], report["settings"]))
        console.print(mixture_table(report["block"]["mixtures"]))
        warn_if_not_cold(report["block"]["results"], console)
    if "growth" in report:
        own = report["growth"]["own_bytes"]
        marks = sorted({1, min(5, len(own)), len(own)})
        console.print(
            "own memory after epoch "
            + ", ".join(f"{epoch}: {own[epoch - 1] / 1e6:.1f} MB" for epoch in marks)
        )


def warn_if_not_cold(results: list[dict[str, Any]], console: Console) -> None:
    left = max(r["cached_before"]["max"] for r in results)
    if left > STILL_CACHED:
        console.print(
            f"[yellow]not cold:[/] up to {100 * left:.0f} % of the file stayed in the page cache when it was dropped "
            "(tmpfs, or a file of another user); name a folder on a disk with --work"
        )


def block_table(found: dict[str, Any], settings: dict[str, Any]) -> Table:
    table = Table(
        title=f"reading all of a file of {found['file_bytes'] / 1e9:.1f} GB, windows of {settings['window_pages']} pages",
        caption=f"median of {settings['block_rounds']} interleaved rounds (min - max), each with the file dropped from the page cache; "
        "to file order: of the same round, median",
    )
    table.add_column("order")
    for heading in ("MB/s", "min - max", "to file order", "CPU s / GB", "read / byte", "must be in memory"):
        table.add_column(heading, justify="right")
    for r in found["results"]:
        speed = r["mb_per_s"]
        table.add_row(
            r["name"],
            f"{speed['median']:,.0f}",
            f"{speed['min']:,.0f} - {speed['max']:,.0f}",
            f"{r['to_file_order']['median']:.2f}",
            f"{r['cpu_s_per_gb']['median']:.2f}",
            f"{r['read_per_byte']['median']:.3f}",
            f"{r['needed_bytes']['max'] / 1e6:,.0f} MB" if r["name"].startswith("block") else "",
        )
    return table


def mixture_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="classes in a batch of 256, a set like ImageNet (one epoch, computed)")
    table.add_column("file packed")
    table.add_column("order")
    for heading in ("classes, mean", "min - max", "most of one class"):
        table.add_column(heading, justify="right")
    for row in found:
        classes = row["classes"]
        spread = f"{classes['min']} - {classes['max']}"
        table.add_row(
            row["packed"], row["order"], f"{classes['mean']:.1f}", spread, f"{row['most_of_one']:.1f}"
        )
    return table


def opening_table(found: dict[str, Any], samples: int) -> Table:
    table = Table(
        title=f"opening a file of {samples:,} samples, pages sparse",
        caption="memory: the peak while opening, with the pages of the file, and the private memory that stays after it",
    )
    table.add_column("allocation table in order")
    table.add_column("opened by")
    for heading in ("seconds", "peak memory", "stays", "an epoch's order"):
        table.add_column(heading, justify="right")
    for order, opened in found.items():
        for what, cost in opened.items():
            table.add_row(
                order,
                what,
                f"{cost['seconds']:.2f}",
                f"{cost['peak_bytes'] / 1e6:.0f} MB",
                f"{cost['own_bytes'] / 1e6:.0f} MB",
                f"{cost['order_s']:.2f} s" if "order_s" in cost else "",
            )
    return table


def cold_table(found: dict[str, Any], settings: dict[str, Any]) -> Table:
    disk, results = found["disk"], found["results"]
    ahead = disk["kernel_read_ahead_bytes"]
    table = Table(
        title=f"{settings['batches']} batches of {settings['batch']} from a file of {found['file_bytes'] / 1e9:.1f} GB, {settings['threads']} threads",
        caption=f"median of {settings['rounds']} interleaved rounds (min - max). The disk: {disk['sequential_mb_per_s']:,.0f} MB/s in sequence, "
        f"{disk['random_mb_per_s_1']:,.0f} MB/s by one sample at a time, {disk['random_mb_per_s_16']:,.0f} by 16"
        + (f"; the kernel reads {ahead >> 10:,} KiB around a touched page" if ahead else ""),
    )
    table.add_column("page cache, loader")
    for heading in ("img/s", "min - max", "to off", "CPU ms / image", "kB read / image"):
        table.add_column(heading, justify="right")
    for r in results:
        off = next(o for o in results if o["cold"] == r["cold"] and o["read_ahead_bytes"] == 0)
        speed = r["img_per_s"]
        table.add_row(
            r["name"],
            f"{speed['median']:,.0f}",
            f"{speed['min']:,.0f} - {speed['max']:,.0f}",
            f"{speed['median'] / off['img_per_s']['median']:.2f}",
            f"{r['cpu_ms_per_image']['median']:.3f}",
            f"{r['read_kb_per_image']['median']:.1f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(exit_code(main))
