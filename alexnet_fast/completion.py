"""Tab completion for bash and zsh, made by shtab from the parsers of all commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from . import export, inspect_beton, pack_options, predict, sample, shipped_recipes, train_options
from .common.cli import Parser, file_or_url, file_path, path_text
from .common.command_name import ENTRY, typed
from .doctor import __main__ as doctor
from .errors import UserError, exit_code

SHELLS = ("bash", "zsh")
RECIPE = "_alexnet_fast_recipe"


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(
        prog=prog,
        description="Print the tab completion for a shell.",
        epilog=f'bash: put  eval "$({ENTRY} completion bash)"  into ~/.bashrc. zsh: write the output to a file '
        f"_{ENTRY} in a folder of $fpath.",
    )
    made.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS))
    return made


PARSERS: Mapping[str, Callable[[str], Parser]] = {
    "sample": sample.parser,
    "pack": pack_options.parser,
    "train": train_options.parser,
    "profile": train_options.parser,
    "inspect": inspect_beton.parser,
    "predict": predict.parser,
    "export": export.parser,
    "doctor": doctor.parser,
    "recipes": shipped_recipes.parser,
    "completion": parser,
}
"""What makes each command's parser, of the name that its help shows."""


def add_all(outer: Parser, commands: Mapping[str, str]) -> Parser:
    """Add the commands with their arguments, of which those that are paths or recipes say how they are completed; returns `outer`.

    Args:
        commands: name -> what it does, in one line.
    """
    listed = outer.add_subparsers(metavar="COMMAND")
    for name, text in commands.items():
        own = PARSERS[name](f"{ENTRY} {name}")
        for action in own._actions:
            _say_how(action)
        listed.add_parser(name, help=text, parents=[own], add_help=False)
    return outer


def _say_how(action: argparse.Action) -> None:
    """Tell shtab what completes an argument."""
    import shtab

    complete: Any = None
    if action.dest == "recipe" or (action.dest, action.metavar) == ("copy", "NAME"):
        complete = dict.fromkeys(SHELLS, RECIPE)
    elif action.type in (file_path, file_or_url, path_text):
        complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE
    if complete is not None:
        action.complete = complete  # type: ignore[attr-defined]


def script(shell: str, outer: Parser, commands: Mapping[str, str]) -> str:
    """The completion for a shell; see ``add_all``.

    Raises:
        UserError: shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError:
        raise UserError(
            "the completion is made by shtab, which is not installed: pip install shtab"
        ) from None

    known = " ".join(shipped_recipes.names())
    preamble = {
        "bash": f'{RECIPE}() {{\n  compgen -W "{known}" -- "$1"\n  compgen -f -- "$1"\n}}',
        "zsh": f"{RECIPE}() {{\n  compadd {known}\n  _files\n}}",
    }
    return shtab.complete(add_all(outer, commands), shell, preamble=preamble[shell])


def command(outer: Parser, commands: Mapping[str, str]) -> int:
    """Print the completion that the command line asks for; returns the exit code."""
    return exit_code(lambda: print(script(parser(typed("completion")).parse(None).shell, outer, commands)))
