"""A package with its own kernels, small enough to be compiled many times, and processes that import it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from components import ROOT

WORK = """
from alexnet_fast.kernel_cache import is_cached, kernel
from .constants import FACTOR

@kernel
def inner(x):
    return x * FACTOR

@kernel
def outer(x):
    total = 0
    for k in range(x):
        total += inner(k)
    return total
"""

PROGRAM = """
import json, logging, os, sys, time
from pathlib import Path
from alexnet_fast.kernel_cache import lock
from small.work import inner, is_cached, outer

settings = json.loads(sys.argv[1])
for name, value in settings["lock"].items():
    setattr(lock, name, value)
if gate := settings["gate"]:
    Path(gate, str(os.getpid())).touch()
    while not Path(gate, "open").exists():
        time.sleep(0.005)
before = is_cached(outer)
value = outer(4)
counts = {f.__name__: [sum(f.stats.cache_hits.values()), sum(f.stats.cache_misses.values())] for f in (inner, outer)}
print(json.dumps({"before": before, "after": is_cached(outer), "value": value, "hits, misses": counts}))
"""


class Start(NamedTuple):
    """What one process reports."""

    cached_before: bool
    cached_after: bool
    value: int
    hits: int
    misses: int
    inner: list[int]
    """[hits, misses] of the kernel that is inlined into the other."""
    said: str


def write_package(folder: Path, factor: int = 2) -> Path:
    """Write ``small``, a package whose kernel returns 6 * factor for 4; returns its folder."""
    package = folder / "small"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "unrelated.py").touch()
    (package / "constants.py").write_text(f"FACTOR = {factor}\n")
    (package / "work.py").write_text(WORK)
    return package


def forbid_writing(package: Path) -> None:
    """Put a file where the cache folder goes: even root, whom permissions do not stop, cannot make a folder there."""
    (package / "__pycache__").write_text("no folder")


def read_only(folder: Path) -> list[str]:
    """A command that runs another with the folder mounted read-only; skips where mounting is not allowed."""
    unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    through = [*unshare, "sh", "-c", mount, str(folder)]
    try:
        allowed = subprocess.run([*through, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("file systems cannot be mounted here")
    return through


def start(
    package: Path,
    *,
    gate: Path | None = None,
    lock: dict[str, float] | None = None,
    env: dict[str, str] | None = None,
    through: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start a process, ``through`` a command that runs it; ``env`` is added to the environment, without variables that place caches."""
    placing = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    inherited = {name: value for name, value in os.environ.items() if name not in placing}
    path = os.pathsep.join([str(package.parent), str(ROOT)])
    settings = json.dumps({"gate": str(gate or ""), "lock": lock or {}})
    return subprocess.Popen(
        [*through, sys.executable, "-B", "-c", PROGRAM, settings],
        env=inherited | {"PYTHONPATH": path} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: Sequence[subprocess.Popen[str]]) -> list[Start]:
    """Wait for processes, which must succeed; returns their reports."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        report = json.loads(out)
        found.append(
            Start(
                report["before"],
                report["after"],
                report["value"],
                *report["hits, misses"]["outer"],
                report["hits, misses"]["inner"],
                err,
            )
        )
    return found


def run(package: Path, **options: Any) -> Start:
    """Run one process to its end."""
    return ended([start(package, **options)])[0]
