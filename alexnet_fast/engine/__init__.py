"""Pixels to weights."""

from __future__ import annotations

import os

from ..errors import UserError

# OpenMP's idle threads spin by default.  On a CPU the decode threads need those cores: a step beside
# one busy thread took 3.4 s spinning and 0.34 s sleeping (2 cores, AlexNet 64 px, batch 64).
# Read when libgomp is loaded, so it is set before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def why_torch_fails(error: Exception) -> str:
    """The sentence for a failed ``import torch``, which torch_npu, loaded by it, is able to break."""
    if "TORCH_DEVICE_BACKEND_AUTOLOAD" in str(error) or "torch_npu" in str(error):
        return (
            "torch_npu is installed but does not load, most likely because Huawei's CANN libraries are "
            "missing or not on LD_LIBRARY_PATH: source CANN's set_env.sh, or set "
            f"TORCH_DEVICE_BACKEND_AUTOLOAD=0 to do without the NPU ({_first_line(error)})"
        )
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return "torch is not installed: install torch 2.13.0 (the CPU build, or the one for your accelerator)"
    return f"torch does not load ({_first_line(error)}): reinstall torch 2.13.0"


def _first_line(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__


try:
    import torch as _torch  # noqa: F401
except Exception as error:  # whatever a backend's initialiser raises
    raise UserError(why_torch_fails(error)) from error
