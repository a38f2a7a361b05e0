"""The command line of training: its flags, without what they need to run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import modelzoo_flags
from .common import cli
from .common.command_name import typed


def parser(prog: str) -> modelzoo_flags.Parser:
    """The command line's parser."""
    made = modelzoo_flags.Parser(
        prog=prog,
        description="Train AlexNet by a recipe.",
        epilog="SIGTERM or Ctrl-C (SIGINT) finishes the step, saves and ends, and --resume auto resumes from there. After the "
        "first signal SIGTERM has no effect, and Ctrl-C ends the run at once, without a save.",
    )
    made.add_argument(
        "recipe",
        nargs="*",
        type=cli.file_path,
        metavar="RECIPE",
        help="a TOML file, or the name of a recipe of the package, such as 8p; a folder or a .beton in its place is --data_path",
    )
    cli.add_set_flag(made)
    made.add_argument(
        "-e", "--eval", "--evaluate", action="store_true", help="evaluate a checkpoint and stop"
    )
    made.add_argument(
        "--resume",
        type=path_or_auto,
        metavar="PATH|auto",
        help="resume from a checkpoint; auto: the run's own newest, if any",
    )
    made.add_argument(
        "--profile",
        action="store_true",
        help="instead of training, measure the speed of each stage, and report the bottleneck and how to remove it",
    )
    made.add_argument(
        "--seconds",
        type=at_least_one,
        metavar="S",
        help="about how long --profile measures (60)",
    )
    made.add_argument("--keys", action="store_true", help="list the recipe's keys and stop")
    modelzoo_flags.add_flags(made)
    return made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's arguments; exits with a one-sentence error for an unknown flag or a missing argument."""
    reader = parser(typed("train"))
    arguments = modelzoo_flags.settle(reader.parse(argv), reader)
    if arguments.profile and (arguments.eval or arguments.resume):
        reader.error("--profile measures instead of training: remove --eval and --resume")
    if arguments.seconds and not arguments.profile:
        reader.error("--seconds says how long --profile measures: give --profile too")
    return arguments


def path_or_auto(text: str) -> str:
    """A checkpoint's path, or auto."""
    return text if text == "auto" else cli.path_text(text)  # as text: a Path makes auto of ./auto


def at_least_one(text: str) -> float:
    """A number of seconds."""
    if not 1 <= (seconds := float(text)) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 86,400 seconds")
    return seconds
