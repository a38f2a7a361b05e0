"""The content of a beton file: settings, sizes, dimensions, class balance, tiles; and pictures of its samples and their crops.
--compare shows what two files have in common."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .beton.several import open_beton
from .common.cli import Defaults, Parser, add_field_flags, file_or_url, file_path
from .common.progress import progress_bar
from .errors import UserError, escaped, escaped_lines, exit_code
from .inspection.survey import survey, text

if TYPE_CHECKING:
    from PIL import Image

    from .beton.reader import Beton
    from .recipe import Recipe

PROG = "python -m alexnet_fast.inspect_beton"


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(prog=prog, description=__doc__, formatter_class=Defaults)
    made.add_argument(
        "file",
        nargs="?",
        type=file_or_url,
        help="a .beton file, ours or FFCV's, or its URL; or a pattern or an index of several; none with --compare",
    )
    made.add_argument(
        "--compare",
        nargs=2,
        type=file_or_url,
        metavar=("A", "B"),
        help="compare two files, such as those to train and to evaluate on: classes, sizes, and the samples of B that A has too, with "
        "the same bytes, re-encoded or resized; with --out a picture of them, duplicates.png",
    )
    made.add_argument(
        "--distance",
        type=int,
        default=argparse.SUPPRESS,
        metavar="BITS",
        help="with --compare: bits of 64 in which the perceptual hashes of one picture may differ, 0 to 12 (default: 6)",
    )
    made.add_argument(
        "--out",
        type=file_path,
        metavar="DIR",
        help="folder for samples.png, crops.png, dimensions.png (and augmented.png); without it none is drawn",
    )
    made.add_argument("--seed", type=int, default=0, help="of the crops, as a recipe's")
    made.add_argument("--epoch", type=int, default=0, help="of the crops")
    made.add_argument(
        "--augmented",
        action="store_true",
        help="draw augmented.png too: the crops after each operation of a recipe's [augment]",
    )
    made.add_argument(
        "--recipe",
        type=file_path,
        metavar="RECIPE",
        help="the recipe whose operations --augmented shows, one after the other; without it, every operation by itself",
    )
    add_field_flags(made)
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def main(argv: list[str] | None = None, prog: str = PROG) -> None:
    """The command line.

    Args:
        prog: the command's name in its help.

    Raises:
        UserError: see ``errors.exit_code``, which turns it into a sentence and a code.
    """
    reader = parser(prog)
    options = reader.parse(argv)
    for name in ("seed", "epoch"):
        if not 0 <= getattr(options, name) < 1 << 63:
            reader.error(
                f"argument --{name}: {getattr(options, name)} is out of range, expected 0 to 2^63 - 1"
            )
    if options.augmented and not options.out:
        reader.error("argument --augmented: it draws a picture; give the folder for it as --out DIR")
    if options.recipe and not options.augmented:
        reader.error("argument --recipe: it says what --augmented shows; give --augmented too")
    if (options.file is None) == (options.compare is None):
        reader.error("give one file, or two with --compare A B")
    if options.compare:
        _compare(reader, options)
        return
    if "distance" in options:
        reader.error("argument --distance: it goes with --compare A B")
    recipe = _recipe(options.recipe) if options.recipe else None
    with open_beton(options.file, options.image_field, options.label_field) as beton:
        found = survey(beton)
        print(json.dumps(found.as_json(), indent=1) if options.json else escaped_lines(text(found)))
        if options.out:
            draw(beton, options.out, options.seed, options.epoch, options.augmented, recipe)


def _compare(reader: Parser, options: argparse.Namespace) -> None:
    from .inspection import duplicates

    distance, highest = getattr(options, "distance", duplicates.DISTANCE), duplicates.MAX_DISTANCE
    if not 0 <= distance <= highest:
        reader.error(f"argument --distance: {distance} is out of range, expected 0 to {highest}")
    if options.augmented:
        reader.error("argument --augmented: it draws the crops of one file, so give it without --compare")
    fields = options.image_field, options.label_field
    one, other = options.compare
    with open_beton(one, *fields) as first, open_beton(other, *fields) as second:
        with progress_bar("comparing", len(first) + len(second)) as progress:
            found = duplicates.compare(first, second, distance, progress)
        if options.json:
            print(json.dumps(found.as_json(), indent=1))
        else:
            print(escaped_lines(duplicates.text(found, first, second)))
        if options.out and found.pairs:
            from .inspection import contact_sheets

            with _writing(options.out):
                contact_sheets.duplicates_sheet(first, second, found.pairs).save(
                    options.out / "duplicates.png"
                )
            print(escaped(f"pictures: {options.out / 'duplicates.png'}"), file=sys.stderr)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Around the writing of pictures into a folder, which is created."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; give another --out") from error


def draw(
    beton: Beton, out: Path, seed: int, epoch: int, augmented: bool = False, recipe: Recipe | None = None
) -> None:
    """Write the pictures; without matplotlib, write one fewer and print why.

    augmented: whether augmented.png is among them: the operations of ``recipe``, or each by itself.
    """
    from alexnet_fast.inspection import contact_sheets

    with _writing(out):
        contact_sheets.samples_sheet(beton).save(out / "samples.png")
        contact_sheets.crops_sheet(beton, seed, epoch).save(out / "crops.png")
        if augmented:
            _augmented(beton, seed, epoch, recipe).save(out / "augmented.png")
        try:
            contact_sheets.histogram(survey(beton), out / "dimensions.png")
        except UserError as error:
            print(f"without dimensions.png: {error}", file=sys.stderr)
    pictures = ", ".join(sorted(str(path) for path in out.glob("*.png")))
    print(escaped(f"pictures: {pictures}"), file=sys.stderr)


def _recipe(path: Path) -> Recipe:
    from .recipe_toml import load  # and with it pydantic

    recipe = load(path)
    if not recipe.augment.operations:
        raise UserError(
            f"augment.operations of {path} is an empty list, so --augmented has nothing to show; without --recipe it shows every operation"
        )
    return recipe


def _augmented(beton: Beton, seed: int, epoch: int, recipe: Recipe | None) -> Image.Image:
    from alexnet_fast.inspection import contact_sheets

    from .augment.operations import all_made

    if recipe is None:
        return contact_sheets.operations_sheet(beton, seed, epoch)
    made = all_made(recipe.augment.operations)
    return contact_sheets.augmented_sheet(beton, made, seed, epoch, f"the recipe {recipe.run.name}")


def command(prog: str = PROG) -> int:
    """The entry point: ``main`` with this process's arguments; returns the exit code."""
    return exit_code(lambda: main(prog=prog))


if __name__ == "__main__":
    sys.exit(command())
