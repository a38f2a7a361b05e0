"""Command lines of this Python, in processes of their own, as people run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components import ROOT


class Finished(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Our own with some variables changed; None takes one away."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}


def start(
    *arguments: object, cwd: Path = ROOT, env: Mapping[str, str | None] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Begin a command that finds the package."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment({"PYTHONPATH": str(ROOT), "COLUMNS": "200", **(env or {})}),
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
