"""Command lines of this Python, each in its own process, as people run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components import ROOT


class Finished(NamedTuple):
    """The result of a command."""

    code: int
    stdout: str
    stderr: str


def of(*arguments: object) -> list[str]:
    """The command line of this Python with these arguments."""
    return [sys.executable, *map(str, arguments)]


def variables(more: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
    """The variables that are set for a command so that it finds the package, and `more`."""
    return {"PYTHONPATH": str(ROOT), "COLUMNS": "200", **(more or {})}


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with some variables changed; None removes one."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}


def start(
    *arguments: object, cwd: Path = ROOT, env: Mapping[str, str | None] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a command that finds the package."""
    return subprocess.Popen(
        of(*arguments),
        cwd=cwd,
        env=environment(variables(env)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 600) -> Finished:
    """Wait for a command's end; one that takes longer is killed."""
    with process:
        try:
            out, error = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return Finished(process.returncode, out, error)
