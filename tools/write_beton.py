"""Pack an ImageNet folder into .beton files: DIR/train/<class>/* and DIR/val/<class>/* -> train.beton and val.beton."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
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
from alexnet_fast.errors import UserError, exit_code
from alexnet_fast.packing import SHUFFLE_SEED, SPLITS
from alexnet_fast.pipeline.cores import allowed_cores

SHAPING = ("max_resolution", "min_side", "quality")  # what makes other pixels of an image


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
    # Left out of the result where not given, so that what was asked for can be told from Encoding's defaults.
    add(
        "--max-resolution",
        type=_at_least(0),
        default=argparse.SUPPRESS,
        metavar="PX",
        help="longest side; larger images are shrunk; 0 = any; not with --mode lossless "
        f"(default: {Encoding.max_resolution})",
    )
    add(
        "--min-side",
        type=_at_least(0),
        default=argparse.SUPPRESS,
        metavar="PX",
        help=f"shortest side to shrink to; 0 = any; not with --mode lossless (default: {Encoding.min_side})",
    )
    add(
        "--quality",
        type=_at_least(1, 100),
        default=argparse.SUPPRESS,
        metavar="Q",
        help=f"JPEG quality, 1 to 100; not with --mode lossless (default: {Encoding.quality})",
    )
    add(
        "--restart-mcus",
        type=_at_least(0),
        default=Encoding.restart_mcus,
        metavar="N",
        help="MCUs between restart markers, as near as a photo's width allows; 0 = none. An MCU is 16 px wide; "
        "with --mode lossless as wide as the source's, 8 px at 4:4:4",
    )
    add(
        "--optimize",
        action="store_true",
        help="Huffman tables made for each image: 3.6%% fewer bytes, a third more packing time",
    )
    add(
        "--mode",
        choices=("reencode", "raw", "lossless"),
        default="reencode",
        help="JPEG with restart markers made anew; raw RGB pixels; or the source JPEG's own coefficients, no pixel changed, "
        "with restart markers added (needs libjpeg-turbo's jpegtran)",
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
        default=SHUFFLE_SEED,
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


def encoding_asked_for(options: argparse.Namespace) -> Encoding:
    """How the images are to be stored.

    Raises:
        UserError: an option that --mode lossless leaves no room for.
    """
    shaping = {name: value for name, value in vars(options).items() if name in SHAPING}
    if options.mode == "lossless":
        if shaping:
            given = " and ".join(f"--{name.replace('_', '-')}" for name in shaping)
            raise UserError(
                f"--mode lossless keeps every JPEG's own size and quality; pack without {given}, or with --mode reencode"
            )
        shaping = {"max_resolution": 0}
    return Encoding(
        mode=options.mode, restart_mcus=options.restart_mcus, optimize=options.optimize, **shaping
    )


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
    encoding = encoding_asked_for(options)
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
        print(summary(packed, len(split.classes), encoding))


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


def summary(packed: Packed, classes: int, encoding: Encoding) -> str:
    """The closing lines: what was written, how fast, what was converted from what."""
    lines = [
        f"{packed.path}: {packed.samples:,} images of {classes} classes, {packed.file_bytes / 1e6:,.1f} MB "
        f"({packed.payload_bytes / packed.samples / 1e3:,.1f} kB an image), {packed.samples / packed.seconds:,.0f} img/s in {packed.seconds:.1f} s"
    ]
    what = (
        f"re-encoded at quality {encoding.quality}, for want of coefficients to keep"
        if encoding.mode == "lossless"
        else "converted to RGB JPEG"
    )
    lines += [
        f"  {what}: {count} from {kind}" for kind, count in Counter(packed.converted.values()).most_common()
    ]
    if packed.skipped:
        lines.append(f"  skipped as unreadable: {len(packed.skipped)}, listed in {packed.path}.json")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(exit_code(main))
