"""The content of a beton file: settings, sizes, dimensions, class balance, tiles; and pictures of its samples and their crops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .beton.reader import Beton
from .common.cli import Defaults, Parser, add_field_flags, file_path
from .errors import UserError, escaped, escaped_lines, exit_code
from .inspection.survey import survey, text

PROG = "python -m alexnet_fast.inspect_beton"


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(prog=prog, description=__doc__, formatter_class=Defaults)
    made.add_argument("file", type=file_path, help="a .beton file, ours or FFCV's")
    made.add_argument(
        "--out",
        type=file_path,
        metavar="DIR",
        help="folder for samples.png, crops.png and dimensions.png; without it none is drawn",
    )
    made.add_argument("--seed", type=int, default=0, help="of the crops, as a recipe's")
    made.add_argument("--epoch", type=int, default=0, help="of the crops")
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
    with Beton(options.file, options.image_field, options.label_field) as beton:
        found = survey(beton)
        print(json.dumps(found.as_json(), indent=1) if options.json else escaped_lines(text(found)))
        if options.out:
            draw(beton, options.out, options.seed, options.epoch)


def draw(beton: Beton, out: Path, seed: int, epoch: int) -> None:
    """Write the three pictures; without matplotlib, write two and print why."""
    from alexnet_fast.inspection import contact_sheets

    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheets.samples_sheet(beton).save(out / "samples.png")
        contact_sheets.crops_sheet(beton, seed, epoch).save(out / "crops.png")
        try:
            contact_sheets.histogram(survey(beton), out / "dimensions.png")
        except UserError as error:
            print(f"without dimensions.png: {error}", file=sys.stderr)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; give another --out") from error
    pictures = ", ".join(sorted(str(path) for path in out.glob("*.png")))
    print(escaped(f"pictures: {pictures}"), file=sys.stderr)


def command(prog: str = PROG) -> int:
    """The entry point: ``main`` with this process's arguments; returns the exit code."""
    return exit_code(lambda: main(prog=prog))


if __name__ == "__main__":
    sys.exit(command())
