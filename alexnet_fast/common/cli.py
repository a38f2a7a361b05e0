"""What the command lines share: errors of one sentence, the nearest flag for an unknown one, and defaults in the help."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from ..errors import UserError, escaped
from .paths import given_path
from .urls import check_local, url_of


def file_path(text: str) -> Path:
    """A path argument: the ``type`` of every flag that takes a local path."""
    return Path(path_text(text))


def file_or_url(text: str) -> Path | str:
    """A path, or a URL as a str: the ``type`` of an argument that ``Beton`` or ``Loader`` takes."""
    return text if url_of(text) is not None else file_path(text)


def path_text(text: str) -> str:
    """A path argument as a str: the ``type`` of a flag that keeps the text."""
    try:
        return given_path(check_local(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Parser(argparse.ArgumentParser):
    """A parser whose every error is one sentence; for an unknown flag it names the nearest one.

    Attributes:
        instead: flags that people expect but that do not exist -> what to do instead.
    """

    instead: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {escaped(message)}\n")

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """The arguments, positional ones and flags in any order."""
        arguments, unknown = self.parse_known_intermixed_args(argv)
        for flag in (text.partition("=")[0] for text in unknown):
            if not flag.startswith("-"):
                self.error(f"unexpected argument {flag}: see --help")
            if flag in self.instead:
                self.error(f"unknown flag {flag}: {self.instead[flag]}")
            near = difflib.get_close_matches(flag, self._option_string_actions, 1, 0.5)
            self.error(f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else ": see --help"))
        return arguments


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults, except None, False and an empty list, which carry no information."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == []
        return action.help if silent else super()._get_help_string(action)


def add_set_flag(parser: argparse.ArgumentParser, what: str = "override one key") -> None:
    """Add --set section.key=value, which may be repeated; a list, empty by default.

    what: it does, for its help.
    """
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="section.key=value",
        help=f"{what}; may be repeated",
    )


def add_field_flags(parser: argparse.ArgumentParser, only: str = "") -> None:
    """Add --image-field and --label-field, for files with several fields of one type.

    only: a text before their help, on when they apply.
    """
    for name, kind in (("image", "RGB image"), ("label", "int or, without an int, float")):
        parser.add_argument(
            f"--{name}-field",
            metavar="NAME",
            help=f"{only}the field that is the {name}, as the file stores its name; needed if it has several of type {kind}",
        )
