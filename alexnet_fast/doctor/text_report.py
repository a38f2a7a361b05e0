"""Findings as text, for people."""

from __future__ import annotations

import os
import platform
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from .._version import __version__
from ..common.text import plural
from ..errors import escaped
from .finding import Finding

WIDEST, NARROWEST = 100, 60
COLOURS = {"ok": "32", "warning": "33", "fault": "1;31"}


def write(findings: Sequence[Finding], file: TextIO) -> None:
    """Write each finding, with its remedy below, and at the end a summary.

    ok       cores          2 of 2 processors can be kept busy
    warning  locked memory  limit 64 KiB, too little for ...
                            -> ulimit -l unlimited
    """
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size((WIDEST, 24)).columns))
    colour = file.isatty() and "NO_COLOR" not in os.environ
    names = max(len(finding.name) for finding in findings)
    indent = " " * (names + 11)
    system = (
        f"{platform.system()} {platform.release()}, {platform.machine()}, Python {platform.python_version()}"
    )
    print(f"alexnet_fast {__version__} on {platform.node()}: {system}\n", file=file)
    for finding in findings:
        status = f"{finding.status:<7}"
        if colour:
            status = f"\033[{COLOURS[finding.status]}m{status}\033[0m"
        lines = _wrapped(finding.found, width - len(indent), "")
        lines += _wrapped(finding.remedy, width - len(indent), "-> ") if finding.remedy else []
        print(f"{status}  {finding.name:<{names}}  {lines[0]}", file=file)
        print("".join(f"{indent}{line}\n" for line in lines[1:]), end="", file=file)
    print(f"\n{closing(findings)}", file=file)


def closing(findings: Sequence[Finding]) -> str:
    """A summary of the findings, in one line."""
    faults, warnings = (
        sum(finding.status == status for finding in findings) for status in ("fault", "warning")
    )
    if not faults and not warnings:
        return "All is well."
    counts = [plural(count, noun) for count, noun in ((faults, "fault"), (warnings, "warning")) if count]
    return f"{' and '.join(counts)}; '->' says what to do."


def _wrapped(text: str, width: int, first: str) -> list[str]:
    rest = " " * len(first)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return list(map(escaped, lines)) or [first]
