"""``PYTHONPATH=tests python -m standin FILE [pytest's arguments]``: pytest where the stand-in NPU is the accelerator."""

from __future__ import annotations

import os
import sys

import command_line

from .build import environment

os.execve(
    sys.executable,
    [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *sys.argv[1:]],
    command_line.environment(environment()),
)
