"""The recipes that come with the package: found by name, listed, copied.

In a checkout they are the folder ``recipes/`` next to the package; a wheel has them in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from .common.cli import Parser
from .common.command_name import typed
from .errors import UserError, exit_code


def _folder() -> Path:
    installed = Path(str(resources.files(__package__))) / "recipes"
    return installed if installed.is_dir() else installed.parents[1] / "recipes"


FOLDER = _folder()


def names(folder: Path = FOLDER) -> list[str]:
    """The names that ``train NAME`` knows: those of the files, without .toml."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def find(text: str) -> str:
    """The path of a recipe that was given as a path or by name; a file of that path comes first.

    A text that is neither is returned as it is: reading it will fail with its own error.
    """
    if not Path(text).exists() and text in names():
        return str(FOLDER / f"{text}.toml")
    return text


def hint(text: str) -> str:
    """What to say about a path such as recipes/1p.toml where there is no such folder: how the package's own is named; else ""."""
    path = Path(text)
    meant = path.suffix == ".toml" and path.stem in names() and not path.parent.is_dir()
    return f"the package's own recipe is named without a folder, as {path.stem}" if meant else ""


def purpose(path: Path) -> str:
    """What a recipe is for: the first sentence of its header."""
    with open(path, encoding="utf-8") as lines:
        comment = (line[1:].strip() for line in iter(lines.readline, "\n") if line.startswith("#"))
        text = " ".join(comment)
    ends = [end for end in (text.find(mark) for mark in (". ", ": ", "; ")) if end > 0]
    return text[: min(ends, default=len(text))].rstrip(".:;")


def copy(name: str, to: Path) -> Path:
    """Copy a recipe into a folder; returns the new file.

    Raises:
        UserError: there is no recipe of that name, or the file exists already.
    """
    if name not in names():
        raise UserError(f"there is no recipe {name}: expected one of {', '.join(names())}")
    path = to / f"{name}.toml"
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write((FOLDER / path.name).read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{path} exists already: remove it, or change to another folder") from None
    return path


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(
        prog=prog, description="List the recipes that come with the package, or copy one to change it."
    )
    made.add_argument("--copy", metavar="NAME", help="copy this recipe into the current folder, as NAME.toml")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """The command line.

    Raises:
        UserError: see ``copy``.
    """
    name = parser(typed("recipes")).parse(argv).copy
    if name is not None:
        path = copy(name, Path())
        print(f"{path}: change it, then run {typed('train')} {path}")
        return
    width = max(map(len, names()), default=0)
    for each in names():
        print(f"{each:{width}}  {purpose(FOLDER / f'{each}.toml')}")


def command() -> int:
    """The entry point; returns the exit code."""
    return exit_code(main)


if __name__ == "__main__":
    sys.exit(command())
