"""Run a function of the tests in several ranks, each its own process: launch(LaunchConfig(2), ranks_that_end.waits, folder)."""

from __future__ import annotations

import base64
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a rank, whose launcher found the package by pytest's settings
    sys.path[1:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tools")]

# isort: split
from alexnet_fast.distributed import launcher
from alexnet_fast.distributed.launcher import LaunchConfig
from alexnet_fast.errors import exit_code


def launch(config: LaunchConfig, function: Callable[..., Any], *arguments: Any) -> int:
    """Call the launcher; its ranks import `function`, which a module defines, and unpickle its arguments.  Returns the exit code."""
    call = base64.b64encode(pickle.dumps((function, arguments))).decode()
    return launcher.launch(config, partial(function, *arguments), (sys.executable, __file__, call))


if __name__ == "__main__":
    function, arguments = pickle.loads(base64.b64decode(sys.argv[1]))
    sys.exit(exit_code(lambda: launcher.launch(LaunchConfig(), partial(function, *arguments))))
