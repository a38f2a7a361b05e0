"""The content of a beton file: settings, sizes, dimensions, class balance, tiles; and pictures of its samples and their crops."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .beton.several import open_beton
from .common.cli import Defaults, Parser, add_field_flags, file_or_url, file_path
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
        type=file_or_url,
        help="a .beton file, ours or FFCV's, or its URL; or a pattern or an index of several",
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
    recipe = _recipe(options.recipe) if options.recipe else None
    with open_beton(options.file, options.image_field, options.label_field) as beton:
        found = survey(beton)
        print(json.dumps(found.as_json(), indent=1) if options.json else escaped_lines(text(found)))
        if options.out:
            draw(beton, options.out, options.seed, options.epoch, options.augmented, recipe)


def draw(
    beton: Beton, out: Path, seed: int, epoch: int, augmented: bool = False, recipe: Recipe | None = None
) -> None:
    """Write the pictures; without matplotlib, write one fewer and print why.

    augmented: whether augmented.png is among them: the operations of ``recipe``, or each by itself.
    """
    from alexnet_fast.inspection import contact_sheets

    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheets.samples_sheet(beton).save(out / "samples.png")
        contact_sheets.crops_sheet(beton, seed, epoch).save(out / "crops.png")
        if augmented:
            _augmented(beton, seed, epoch, recipe).save(out / "augmented.png")
        try:
            contact_sheets.histogram(survey(beton), out / "dimensions.png")
        except UserError as error:
            print(f"without dimensions.png: {error}", file=sys.stderr)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; give another --out") from error
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
