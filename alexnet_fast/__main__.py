"""``alexnet-fast COMMAND ...``, which is also ``python -m alexnet_fast COMMAND ...``.

A command's module is imported when the command runs: ``--help`` and ``--version`` import neither torch nor numba.
"""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ._version import __version__
from .common.cli import Parser
from .common.command_name import ENTRIES, ENTRY
from .errors import exit_code


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        help: what it does, in one line.
        run: runs it with the arguments of ``sys.argv`` and returns the exit code.
    """

    help: str
    run: Callable[[], int]


def _sample() -> int:
    from .sample import command

    return command()


def _pack() -> int:
    from .pack import command

    return command(sys.argv[0])


def _train() -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL
        )  # Ctrl-C while torch is imported ends without a traceback
    from .train import main

    return main()


def _profile() -> int:
    sys.argv.append("--profile")
    return _train()


def _inspect() -> int:
    from .inspect_beton import command

    return command(sys.argv[0])


def _predict() -> int:
    from .predict import command

    return command(sys.argv[0])


def _export() -> int:
    from .export import command

    return command(sys.argv[0])


def _doctor() -> int:
    from .doctor.__main__ import main

    return main()


def _recipes() -> int:
    from .shipped_recipes import command

    return command()


def _completion() -> int:
    from .completion import command

    return command(parser(ENTRY), {name: each.help for name, each in COMMANDS.items()})


COMMANDS = {
    "sample": Command("make a small labelled set of images, to try the other commands with", _sample),
    "pack": Command("pack a folder of images into .beton files, or verify such files", _pack),
    "train": Command("train or evaluate by a recipe", _train),
    "profile": Command("measure each stage of a recipe's training, and name the bottleneck", _profile),
    "inspect": Command("show what a .beton file contains", _inspect),
    "predict": Command("say what a trained model sees in images: a CSV", _predict),
    "export": Command("write a trained model for other programs: weights or ONNX", _export),
    "doctor": Command("check this machine, and a recipe's files", _doctor),
    "recipes": Command("list the recipes that come with the package, or copy one", _recipes),
    "completion": Command("print the tab completion for bash or zsh", _completion),
}


def parser(prog: str) -> Parser:
    """The parser of everything before the command's own arguments."""
    made = Parser(
        prog=prog,
        description="Pack images, train AlexNet and similar models on them, and find out what limits the speed.",
        epilog=f"{prog} COMMAND --help shows a command's own arguments.",
    )
    made.add_argument("--version", action="version", version=f"{ENTRY} {__version__}")
    return made


def main() -> int:
    """The command line; returns the exit code."""
    return exit_code(_run)


def _run() -> int:
    prog = ENTRY if Path(sys.argv[0]).name == ENTRY else ENTRIES[1]
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        sys.argv[:2] = [f"{prog} {words[0]}"]  # where common.command_name looks
        return COMMANDS[words[0]].run()
    outer = parser(prog)
    listed = outer.add_subparsers(metavar="COMMAND", title="commands")
    for name, (text, _) in COMMANDS.items():
        listed.add_parser(name, help=text)
    if words and not words[0].startswith("-"):  # of argparse the user would hear without the nearest name
        near = difflib.get_close_matches(words[0], COMMANDS, 1, 0.5)
        outer.error(
            f"unknown command {words[0]}"
            + (f"; did you mean {near[0]}?" if near else f": expected one of {', '.join(COMMANDS)}")
        )
    outer.parse_args(words)  # ends here for --help and --version
    return outer.error(f"expected a command, one of {', '.join(COMMANDS)}: see {prog} --help")


if __name__ == "__main__":
    sys.exit(main())
