"""The optimizer's Triton kernel, in Triton's interpreter; on a GPU: tests/devices/test_on_gpu.py."""

from __future__ import annotations

import os
from typing import Any

import pytest

from components import ROOT


def test_the_kernel_is_proven_in_tritons_interpreter_and_wrong_ones_are_caught(run_cli: Any) -> None:
    pytest.importorskip("triton", reason="triton is not here")
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")))
    done = run_cli("tests/interpreted_kernel.py", env={"TRITON_INTERPRET": "1", "PYTHONPATH": path})
    assert done.code == 0, done.stderr
