"""How a command imports torch: OpenMP's idle threads sleep, and a failure to load is one sentence."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import ModuleType

from .errors import UserError

WAIT_POLICY = "OMP_WAIT_POLICY"


def prefer_passive_openmp() -> None:
    """Make OpenMP's idle threads sleep instead of spin, unless OMP_WAIT_POLICY is set; call it first in a command that trains.

    On a CPU the decode threads need those cores: a step next to one busy thread took 3.4 s spinning and 0.34 s
    sleeping (2 cores, AlexNet 64 px, batch 64).  libgomp reads the variable once, when torch loads it.

    Warns, and sets nothing, where torch is already imported without the variable: then it is too late.
    """
    if "torch" in sys.modules and WAIT_POLICY not in os.environ:
        warnings.warn(
            "torch was imported before alexnet_fast's training, so on a CPU OpenMP's idle threads take cores from decoding: "
            f"call alexnet_fast.torch_import.prefer_passive_openmp() first, or set {WAIT_POLICY}=PASSIVE",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")


def import_torch() -> ModuleType:
    """Import torch; raises UserError with the reason where it fails, also in torch_npu, which torch loads."""
    try:
        return importlib.import_module("torch")
    except Exception as error:  # whatever a backend's initialiser raises
        raise UserError(why_torch_fails(error)) from error


def why_torch_fails(error: Exception) -> str:
    """The sentence for a failed ``import torch``; torch loads torch_npu, which may be what failed."""
    if "TORCH_DEVICE_BACKEND_AUTOLOAD" in str(error) or "torch_npu" in str(error):
        return (
            "torch_npu is installed but does not load, most likely because Huawei's CANN libraries are "
            "missing or not on LD_LIBRARY_PATH: source CANN's set_env.sh, or set "
            f"TORCH_DEVICE_BACKEND_AUTOLOAD=0 to run without the NPU ({_first_line(error)})"
        )
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return "torch is not installed: install torch 2.13.0 (the CPU build, or the one for your accelerator)"
    return f"torch does not load ({_first_line(error)}): reinstall torch 2.13.0"


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
