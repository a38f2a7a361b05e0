"""What a trained model says of images: a CSV with a line for each.

    python -m alexnet_fast.predict runs/tiny IMAGES > predictions.csv

Images are cropped, resized and normalized as an evaluation does it, and the outputs are the evaluation's.  Columns: the image's path,
its label where a beton holds one, then the most likely classes with their probabilities; of a model that has learned numbers, its
outputs.  A file that is no readable image is named on stderr and has empty columns; the exit code is then 1.
"""

from __future__ import annotations

import csv
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .common.cli import Defaults, Parser, add_set_flag, file_or_url, file_path
from .common.files import replacing
from .common.progress import progress_bar
from .common.urls import url_of
from .errors import UserError, exit_code
from .torch_import import import_torch, prefer_passive_openmp

PROG = "python -m alexnet_fast.predict"
SOME_UNREADABLE = 1


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command line; returns 0, or 1 if some images could not be read.

    Raises:
        UserError: see ``errors.exit_code``, which turns it into a sentence and a code.
    """
    arguments = parse(argv, prog)
    prefer_passive_openmp()
    import_torch()
    from .loader.options import LoaderOptions
    from .prediction.inputs import BetonImages, FileImages
    from .prediction.table import columns, rows
    from .prediction.trained import load_trained

    model = load_trained(arguments.model, arguments.recipe, arguments.set, arguments.device, arguments.ema)
    options = LoaderOptions(
        train=False,
        size=model.size,
        center_ratio=model.recipe.eval.center_ratio,
        interpolation=model.recipe.data.interpolation,
    )
    kind = BetonImages if is_beton(arguments.images) else FileImages
    images, top = kind(arguments.images, arguments.batch, options), min(arguments.top, model.num_outputs)
    unreadable = 0
    with written(arguments.out) as file, progress_bar("predict", len(images)) as progress:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns(model, images, top))
        for done, (image, line) in enumerate(rows(model, images, top), 1):
            table.writerow(line)
            unreadable += not image.is_read
            progress(done)
    if unreadable:
        print(f"{unreadable:,} of {len(images):,} images cannot be read", file=sys.stderr)
    return SOME_UNREADABLE if unreadable else 0


def is_beton(images: Path | str) -> bool:
    """Whether a path or a URL is that of a beton."""
    return url_of(images) is not None or Path(images).suffix in (".beton", ".json")


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(prog=prog, description=__doc__.split("\n\n")[0], formatter_class=Defaults)
    add = made.add_argument
    add("model", type=file_path, metavar="CHECKPOINT", help="a checkpoint, or a run's folder: its best")
    add(
        "images",
        type=file_or_url,
        metavar="IMAGES",
        help="a folder, with all that is below it, an image, a .beton or its URL, or a pattern or an index (.json) of several",
    )
    add("--out", type=file_path, metavar="FILE", help="write the CSV there, not to stdout")
    add("--top", type=int, default=1, metavar="K", help="how many classes of each image")
    add("--batch", type=int, default=64, metavar="N", help="images a batch")
    add("--device", default="auto", help="auto, cpu, cuda or npu")
    add("--ema", action="store_true", help="with the average of the weights (optim.ema)")
    add("--recipe", type=file_path, metavar="FILE", help="for a checkpoint that holds weights alone")
    add_set_flag(made, "override a key of the recipe, such as eval.size")
    return made


def parse(argv: Sequence[str] | None, prog: str = PROG) -> Namespace:
    reader = parser(prog)
    arguments = reader.parse(argv)
    for flag in ("top", "batch"):
        if getattr(arguments, flag) < 1:
            reader.error(
                f"argument --{flag}: {getattr(arguments, flag)} is out of range, expected at least 1"
            )
    return arguments


@contextmanager
def written(path: Path | None) -> Iterator[TextIO]:
    """The file that the table goes to, which appears when it is complete; without a path stdout."""
    if path is None:
        yield sys.stdout
        return
    try:
        with replacing(path) as partial, open(partial, "w", newline="") as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another --out") from error


def command(prog: str = PROG) -> int:
    """The entry point: ``main`` with this process's arguments; returns the exit code."""
    return exit_code(lambda: main(prog=prog))


if __name__ == "__main__":
    sys.exit(command())
