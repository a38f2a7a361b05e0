"""Make a small labelled ImageNet-style folder of synthetic JPEGs that look like photos, to train on without a download.

    alexnet-fast sample --out data/quickstart-images

writes train/<class>/*.JPEG and val/<class>/*.JPEG (``synthetic.shapes``).  In a checkout ``tools/make_sample.py`` is the same command.

The same arguments write the same bytes (for one version of numpy and Pillow).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .common.cli import Parser, file_path
from .common.command_name import typed
from .common.cpus import allowed_cores
from .errors import UserError, escaped, exit_code
from .synthetic.shapes import SHAPES, Sample, write_sample

OUT = "data/quickstart-images"  # packed into data/quickstart, it is the set of the recipe quickstart


def make_sample(out: Path, classes: int, counts: dict[str, int], seed: int) -> int:
    """Write the complete set into the new folder `out`, counts[split] images a class; returns how many images.

    Until all are written the folder has another name, so one that exists is complete.  Raises UserError where `out` exists
    or a number is out of range.
    """
    if not 2 <= classes <= len(SHAPES):
        raise UserError(f"--classes is {classes}, but there are 2 to {len(SHAPES)}: {', '.join(SHAPES)}")
    for split, count in counts.items():
        if count < 1:
            raise UserError(f"--{split} is {count}, but every class needs at least one image")
    if seed < 0:
        raise UserError(f"--seed is {seed}, but it must not be negative")
    if out.exists():
        raise UserError(f"{out} exists already; delete it, or give another folder with --out")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    samples = [
        Sample(seed, split, shape, number)
        for split, count in counts.items()
        for shape in list(SHAPES)[:classes]
        for number in range(count)
    ]
    for folder in {part / sample.split / sample.shape for sample in samples}:
        folder.mkdir(parents=True)
    with ProcessPoolExecutor(allowed_cores()) as pool:
        for _ in pool.map(write_sample, samples, [part] * len(samples), chunksize=32):
            pass
    part.rename(out)
    return len(samples)


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(
        prog=prog,
        description="Make an ImageNet-style folder of synthetic JPEGs whose classes are shapes, not colours.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add(
        "--out",
        type=file_path,
        default=Path(OUT),
        metavar="DIR",
        help="folder to make; it must not exist yet",
    )
    add("--classes", type=int, default=len(SHAPES), metavar="N", help="how many of the shapes")
    add("--train", type=int, default=200, metavar="N", help="training images a class")
    add("--val", type=int, default=50, metavar="N", help="held-out images a class")
    add("--seed", type=int, default=0, metavar="S", help="another seed makes other images")
    return made


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """The command line.

    Args:
        prog: the command's name in its help.

    Raises:
        UserError: see ``make_sample``.
    """
    options = parser(prog or typed("sample")).parse(argv)
    out = options.out
    count = make_sample(out, options.classes, {"train": options.train, "val": options.val}, options.seed)
    print(escaped(f"{out}: {count:,} images of {options.classes} classes"))
    packed = (
        out.with_name(out.name.removesuffix("-images")) if out.name.endswith("-images") else f"{out}-beton"
    )
    print(escaped(f"to pack it: {typed('pack')} --data {out} --out {packed}"))


def command(prog: str | None = None) -> int:
    """The entry point: ``main`` with this process's arguments; returns the exit code."""
    return exit_code(lambda: main(prog=prog))


if __name__ == "__main__":
    sys.exit(command())
