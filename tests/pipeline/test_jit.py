"""Where compiled kernels are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from components import ROOT

PROGRAM = """
import numpy as np
from alexnet_fast.pipeline.jit import is_cached
from alexnet_fast.pipeline.splitmix import mix
print(is_cached(mix), mix(np.uint64(1)), is_cached(mix), sum(mix.stats.cache_hits.values()))
"""


def start(cache: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_kernel_is_compiled_at_its_first_call_on_a_machine_and_loaded_at_every_later_start(
    tmp_path: Path,
) -> None:
    before, value, after, hits = start(tmp_path)
    assert (before, after, hits) == ("False", "True", "0")
    assert start(tmp_path) == ["True", value, "True", "1"]


def test_a_change_of_any_kernel_source_makes_old_machine_code_unreachable(tmp_path: Path) -> None:
    start(tmp_path)
    for path in tmp_path.rglob("*.nb?"):
        head, digest = path.name.rsplit("-", 1)
        path.rename(path.with_name(f"{head}-0{digest}"))  # as if of other sources
    assert start(tmp_path)[0] == "False"
