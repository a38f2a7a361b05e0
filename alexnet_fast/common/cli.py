"""What the command lines have in common: complaints of one sentence, the nearest flag, and defaults that say something."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from ..errors import UserError, escaped
from .paths import given_path


def file_path(text: str) -> Path:
    """A path argument: the ``type`` of every flag that takes one."""
    return Path(path_text(text))


def path_text(text: str) -> str:
    """The same as text."""
    try:
        return given_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Parser(argparse.ArgumentParser):
    """A parser whose every complaint is one sentence; an unknown flag is answered with the nearest.

    Attributes:
        instead: flags that people expect and that are not there -> what to do instead.
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
                self.error(f"{flag} is one argument too many: see --help")
            if flag in self.instead:
                self.error(f"{flag} is not known: {self.instead[flag]}")
            near = difflib.get_close_matches(flag, self._option_string_actions, 1, 0.5)
            self.error(f"unknown flag {flag}" + (f"; did you mean {near[0]}?" if near else ": see --help"))
        return arguments


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells defaults, but for None and False: those say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False
        return action.help if silent else super()._get_help_string(action)


def add_field_flags(parser: argparse.ArgumentParser, only: str = "") -> None:
    """Add --image-field and --label-field, for files of several fields of one type.

    only: with what they count, before their help.
    """
    for name, kind in (("image", "RGB image"), ("label", "int or, without an int, float")):
        parser.add_argument(
            f"--{name}-field",
            metavar="NAME",
            help=f"{only}the field that is the {name}, as the file stores its name; needed where it has several of type {kind}",
        )
