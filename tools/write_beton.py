"""Pack an ImageNet folder into .beton files: DIR/train/<class>/* and DIR/val/<class>/* -> train.beton and val.beton."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from alexnet_fast.beton.encode import Encoding
from alexnet_fast.beton.writer import FolderError, Packed, Split, scan_folder, write_beton
from alexnet_fast.errors import exit_code
from alexnet_fast.pipeline.cores import allowed_cores

SPLITS = ("train", "val")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="write_beton.py",
        description="Pack an image folder into FFCV .beton files whose JPEGs carry restart markers, so that "
        "a loader can decode only the tiles that a crop touches.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder with train/<class>/* and val/<class>/* (either or both)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where train.beton and val.beton go")
    add(
        "--split",
        metavar="NAME",
        help="pack DIR/NAME/<class>/* alone (without it: every one of train and val that exists)",
    )
    add(
        "--max-resolution",
        type=_at_least(0),
        default=500,
        metavar="PX",
        help="longest side; larger images are shrunk; 0 = any",
    )
    add("--min-side", type=_at_least(0), default=0, metavar="PX", help="shortest side to shrink to; 0 = any")
    add("--quality", type=_at_least(1, 100), default=90, metavar="Q", help="JPEG quality, 1 to 100")
    add(
        "--restart-mcus",
        type=_at_least(0),
        default=4,
        metavar="N",
        help="MCUs (16 px) between restart markers; 0 = none",
    )
    add(
        "--optimize",
        action="store_true",
        help="Huffman tables made for each image: 4.5%% fewer bytes, a third more packing time",
    )
    add(
        "--mode",
        choices=("reencode", "raw"),
        default="reencode",
        help="JPEG with restart markers, or raw RGB pixels",
    )
    add(
        "--workers",
        type=_at_least(1),
        default=allowed_cores(),
        metavar="N",
        help="processes that decode and encode",
    )
    add(
        "--shuffle-seed",
        type=_seed,
        default=0,
        metavar="S",
        help="order of the samples in the file, so that neighbours are of mixed classes; 'none' = by class",
    )
    add("--limit", type=_at_least(1), metavar="N", help="the first N images (after shuffling) of each split")
    add(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="an unreadable image ends the packing, or is skipped and listed in the json",
    )
    return parser.parse_args(argv)


def _at_least(low: int, high: int = 1 << 31) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is out of range, expected {low} to {high}")
        return value

    number.__name__ = "whole number"  # argparse names the type in its message
    return number


def _seed(text: str) -> int | None:
    return None if text == "none" else int(text)


_seed.__name__ = "whole number or 'none'"


def splits_to_pack(data: Path, only: str | None) -> dict[str, Split]:
    """The splits below ``data``; all share the labels of the training split where there is one.

    Raises:
        FolderError: ``data`` or the split asked for does not exist, or neither train nor val does.
    """
    if not data.is_dir():
        raise FolderError(
            f"{data} is not a folder; expected an image folder with train/<class>/* and val/<class>/*"
        )
    names = [only] if only else [name for name in SPLITS if (data / name).is_dir()]
    if not names:
        raise FolderError(
            f"{data} has neither train/ nor val/; name the folder of classes with --split NAME, or give its parent as --data"
        )
    train = data / SPLITS[0]
    classes = scan_folder(train).classes if train.is_dir() else None
    return {name: scan_folder(data / name, classes) for name in names}


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    encoding = Encoding(
        mode=options.mode,
        max_resolution=options.max_resolution,
        min_side=options.min_side,
        quality=options.quality,
        restart_mcus=options.restart_mcus,
        optimize=options.optimize,
    )
    console = Console(stderr=True)
    for name, split in splits_to_pack(options.data, options.split).items():
        if options.shuffle_seed is not None:
            split = split.shuffled(options.shuffle_seed)
        if options.limit:
            split = split.limited(options.limit)
        with progress_bar(console, name, len(split.paths)) as progress:
            packed = write_beton(
                split,
                options.out / f"{name}.beton",
                encoding,
                workers=options.workers,
                on_error=options.on_error,
                settings={"split": name, "shuffle_seed": options.shuffle_seed, "limit": options.limit},
                progress=progress,
            )
        print(summary(packed, len(split.classes)))


@contextmanager
def progress_bar(console: Console, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with img/s and time left; the context's value takes the number of images done."""
    columns = (
        TextColumn(f"packing {name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, rate="")

        def progress(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, rate=f"{speed:,.0f} img/s" if speed else "")

        yield progress


def summary(packed: Packed, classes: int) -> str:
    """The closing lines: what was written, how fast, what was converted from what."""
    lines = [
        f"{packed.path}: {packed.samples:,} images of {classes} classes, {packed.file_bytes / 1e6:,.1f} MB "
        f"({packed.payload_bytes / packed.samples / 1e3:,.1f} kB an image), {packed.samples / packed.seconds:,.0f} img/s in {packed.seconds:.1f} s"
    ]
    lines += [
        f"  converted to RGB JPEG: {count} from {kind}" for kind, count in packed.converted.most_common()
    ]
    if packed.skipped:
        lines.append(f"  skipped as unreadable: {len(packed.skipped)}, listed in {packed.path}.json")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_code(main))
