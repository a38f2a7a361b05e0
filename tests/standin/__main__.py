"""``PYTHONPATH=tests python -m standin FILE [pytest's arguments]``: pytest where the stand-in NPU is the accelerator."""

from __future__ import annotations

import os
import sys

from .build import environment

variables = os.environ | environment()
os.execve(
    sys.executable,
    [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *sys.argv[1:]],
    {name: value for name, value in variables.items() if value is not None},
)
