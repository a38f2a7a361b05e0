#!/usr/bin/env python3
"""Time what each augmentation adds to an image, next to torchvision v2's transform of the same kind on the same images.

    taskset -c 1 python tools/bench_augment.py FILE.beton --json augment.json

Three figures for each operation, all in microseconds an image and with p = 1:

- **ours**: one call for a chunk of images, as a decoding thread makes it, with the drawing of who gets what; the images were just written.
- **torchvision**: the transform called with one image after the other, uint8 tensors on the CPU, torch on one thread.
- **in the loader**: the CPU time of epochs of a Loader on one thread with the operation, less that without one.

All are CPU time, and take turns, round after round, so that a machine that slows down does so for all; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from alexnet_fast import Loader
from alexnet_fast.augment.augmentation import Augmentation
from alexnet_fast.augment.augmenter import Augmenter
from alexnet_fast.augment.operations import of_recipes
from alexnet_fast.common.cli import add_field_flags, file_path
from alexnet_fast.common.untrusted import printable
from alexnet_fast.decode.kernel import SAMPLE_DTYPE
from alexnet_fast.errors import UserError, exit_code

CHUNK = 8
NONE = "none"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("beton", type=file_path, help="file with the images")
    add_field_flags(parser)
    parser.add_argument("--size", type=int, default=224, metavar="PX", help="side of the crops")
    parser.add_argument("--images", type=int, default=200, metavar="N", help="images, of the first epoch")
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="timed rounds")
    parser.add_argument("--only", metavar="A,B", help="operations, of " + ", ".join(of_recipes()))
    parser.add_argument("--json", type=file_path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args(argv)
    for name, least in (("size", 1), ("images", CHUNK), ("rounds", 1)):
        if getattr(options, name) < least:
            parser.error(f"argument --{name}: expected at least {least}")
    return options


class Contestant:
    """One operation, ours and torchvision's, and the seconds an image of each round."""

    def __init__(self, name: str, made: Augmentation, transforms: Any) -> None:
        self.name, self.made = name, made
        self.augmenter = Augmenter([made], seed=0)
        reference = made.reference()
        self.theirs: Callable[[torch.Tensor], torch.Tensor] | None = None
        if reference is not None and transforms is not None:
            arguments = dict(reference[1])
            if reference[0] == "RandomGrayscale":
                arguments["p"] = 1.0
            self.theirs = getattr(transforms, reference[0])(**arguments)
        self.ours_s: list[float] = []
        self.theirs_s: list[float] = []
        self.loader_s: list[float] = []

    def time_ours(self, images: np.ndarray, epoch: int) -> None:
        samples = np.zeros(len(images), SAMPLE_DTYPE)
        samples["index"] = np.arange(len(images))
        statuses, spent = np.zeros(len(images), np.uint8), 0.0
        out = np.empty_like(images[:CHUNK])
        for begin in range(0, len(images) - CHUNK + 1, CHUNK):
            chunk = slice(begin, begin + CHUNK)
            out[:] = images[chunk]
            started = time.thread_time()
            self.augmenter.apply(samples[chunk], epoch, out, statuses[chunk], np.arange(CHUNK))
            spent += time.thread_time() - started
        self.ours_s.append(spent / (len(images) // CHUNK * CHUNK))

    def time_theirs(self, images: list[torch.Tensor]) -> None:
        if self.theirs is None:
            return
        started = time.thread_time()
        for image in images:
            self.theirs(image)
        self.theirs_s.append((time.thread_time() - started) / len(images))

    def figures(self, none: Contestant) -> dict[str, Any]:
        ours = 1e6 * median(self.ours_s)
        theirs = 1e6 * median(self.theirs_s) if self.theirs_s else None
        # Each round's difference, since the machine's speed drifts from round to round.
        added = [1e6 * (with_it - without) for with_it, without in zip(self.loader_s, none.loader_s)]
        return {
            "name": self.name,
            "ours_us": ours,
            "torchvision_us": theirs,
            "ratio": None if theirs is None else theirs / ours,
            "loader_us": median(added),
            "ours_us_rounds": [1e6 * each for each in self.ours_s],
            "torchvision_us_rounds": [1e6 * each for each in self.theirs_s],
            "loader_us_rounds": added,
        }


class Nothing(Augmentation):
    """Stands for a loader without augmentations."""

    def apply(self, images: np.ndarray, chosen: np.ndarray, keys: np.ndarray) -> None:
        """Changes nothing."""


def loader_s(path: Path, options: argparse.Namespace, made: list[Augmentation], epoch: int) -> float:
    """CPU seconds an image of one epoch on one thread."""
    with Loader(
        path,
        options.images,
        train=True,
        size=options.size,
        threads=1,
        drop_last=False,
        augmentations=made,
        indices=range(options.images),
        batches_ahead=1,
        image_field=options.image_field,
        label_field=options.label_field,
    ) as loader:
        loader.set_epoch(epoch)
        next(iter(loader))  # the kernels are loaded
        started, count = time.process_time(), 0
        for batch in loader:
            count += len(batch.labels)
        return (time.process_time() - started) / count


def torchvision_transforms() -> Any:
    """torchvision.transforms.v2, or None where torchvision is not installed."""
    try:
        from bench.peers.torchvision import torchvision

        return __import__(f"{torchvision.__name__}.transforms.v2", fromlist=["v2"])
    except ImportError:
        return None


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    console = Console()
    torch.set_num_threads(1)
    transforms = torchvision_transforms()
    known = of_recipes()
    names = list(known) if options.only is None else options.only.split(",")
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"--only {printable(wrong[0])}: expected some of {', '.join(known)}")
    contestants = [Contestant(name, known[name](p=1.0), transforms) for name in names]
    none = Contestant(NONE, Nothing(), None)
    with Loader(
        options.beton,
        options.images,
        train=True,
        size=options.size,
        drop_last=False,
        shuffle=False,
        image_field=options.image_field,
        label_field=options.label_field,
    ) as loader:
        if loader.num_samples < options.images:
            raise UserError(
                f"{options.beton} has {loader.num_samples} images, expected at least {options.images}: give --images"
            )
        images = next(iter(loader)).images.numpy().copy()
    tensors = [torch.from_numpy(image) for image in images[:: max(1, len(images) // 16)]]
    with console.status("measuring") as status:
        for number in range(options.rounds + 1):
            status.update(f"round {number} of {options.rounds}")
            for each in contestants:
                each.time_ours(images, number)
                each.time_theirs(tensors)
            for each in (none, *contestants):
                made = [] if each is none else [each.made]
                each.loader_s.append(loader_s(options.beton, options, made, number))
            if number == 0:  # compiling, caches
                for each in (none, *contestants):
                    each.ours_s, each.theirs_s, each.loader_s = [], [], []
    figures = [each.figures(none) for each in contestants]
    show(figures, 1e6 * median(none.loader_s), options, console)
    if options.json:
        report = {
            "size_px": options.size,
            "images": options.images,
            "rounds": options.rounds,
            "loader_without_us": 1e6 * median(none.loader_s),
            "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
            "operations": figures,
        }
        options.json.write_text(json.dumps(report, indent=1))


def show(
    figures: list[dict[str, Any]], without_us: float, options: argparse.Namespace, console: Console
) -> None:
    table = Table(title=f"microseconds an image, one thread, crops of {options.size} px, every image changed")
    for column in ("operation", "ours", "torchvision", "ratio", "in the loader"):
        table.add_column(column, justify="left" if column == "operation" else "right", no_wrap=True)
    for row in figures:
        theirs, ratio = row["torchvision_us"], row["ratio"]
        table.add_row(
            row["name"],
            f"{row['ours_us']:.1f}",
            "-" if theirs is None else f"{theirs:,.0f}",
            "-" if ratio is None else f"{ratio:.1f}",
            f"{row['loader_us']:+.1f}",
        )
    console.print(table)
    console.print(f"a loader without augmentations takes {without_us:.1f} us an image (CPU time, one thread)")
    console.print(f"medians of {options.rounds} rounds")


if __name__ == "__main__":
    sys.exit(exit_code(main))
