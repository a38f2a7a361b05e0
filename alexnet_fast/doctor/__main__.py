"""``python -m alexnet_fast.doctor [RECIPE] [--set section.key=value ...] [--json]``; with --card, see card/command.py.

Exit codes: 0 no fault (there may be warnings), 1 a fault, 2 a mistake in the command or the recipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from ..common.cli import Parser, add_set_flag, path_text
from ..common.command_name import typed
from ..common.machine import Machine
from ..errors import UserError, exit_code
from ..shipped_recipes import find
from . import text_report
from .checks import examine

CARD = "--card"


def parser(prog: str) -> Parser:
    """The command line's parser."""
    made = Parser(
        prog=prog,
        description="What this machine gives a training run, what is wrong with it, and how to fix it.",
    )
    made.add_argument(
        "recipe", nargs="?", type=path_text, metavar="RECIPE", help="also check what this recipe needs"
    )
    add_set_flag(made)
    made.add_argument(
        CARD,
        action="store_true",
        help="instead, check and measure the accelerator at work, in minutes: see --card --help",
    )
    made.add_argument("--json", action="store_true", help="print a list of {name, status, found, remedy}")
    return made


def main(argv: Sequence[str] | None = None, machine: Machine | None = None) -> int:
    """The command line; returns the exit code."""
    if CARD in (sys.argv[1:] if argv is None else argv):
        from .card.command import main as card  # imports torch, which the checks below do not

        return card(argv)

    def run() -> int:
        arguments = parser(typed("doctor")).parse(argv)
        if arguments.set and not arguments.recipe:
            raise UserError(f"--set {arguments.set[0]} overrides a recipe's key: name a recipe, such as 1p")
        watched = sys.stderr.isatty()
        print(
            "asking torch, numba and libjpeg-turbo ..." if watched else "",
            end="",
            file=sys.stderr,
            flush=True,
        )
        try:
            recipe = arguments.recipe and find(arguments.recipe)
            findings = examine(machine or Machine(), recipe, arguments.set)
        finally:
            print("\r\033[K" if watched else "", end="", file=sys.stderr, flush=True)
        if arguments.json:
            print(json.dumps([finding._asdict() for finding in findings], indent=2))
        else:
            text_report.write(findings, sys.stdout)
        return 1 if any(finding.status == "fault" for finding in findings) else 0

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
