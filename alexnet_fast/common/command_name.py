"""How the user of this process types our commands: ``alexnet-fast pack`` or ``python -m alexnet_fast.pack``."""

from __future__ import annotations

import sys

ENTRY = "alexnet-fast"
ENTRIES = (ENTRY, "python -m alexnet_fast")
"""The two names of the command whose first argument is the command to run (``alexnet_fast.__main__``)."""
MODULES = {"inspect": "inspect_beton"}  # commands whose module has another name


def typed(name: str) -> str:
    """A command, for messages: as a sub-command if this process was started as one, else as a module, which runs wherever we do.

    ``alexnet_fast.__main__`` puts the name that was typed into ``sys.argv[0]``, which worker processes get too.
    """
    started = sys.argv[0] if sys.argv else ""
    for entry in ENTRIES:
        if started.startswith(f"{entry} "):
            return f"{entry} {name}"
    return f"python -m alexnet_fast.{MODULES.get(name, name)}"
