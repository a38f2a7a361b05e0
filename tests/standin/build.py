"""Compile the stand-in NPU's C++ part, once for each torch and source, into a cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch.utils import cpp_extension

INSTALLED = Path(__file__).parent / "installed"
SOURCE = INSTALLED / "torch_npu" / "shim.cpp"


def shim() -> Path:
    """The compiled library's path.  Raises LookupError where there is no compiler, RuntimeError where it fails."""
    key = hashlib.sha256(f"{torch.__version__} {torch.__file__}".encode() + SOURCE.read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet_fast" / "standin"
    library = cache / f"shim-{key[:16]}.so"
    if library.exists():
        return library
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise LookupError("the stand-in NPU is C++ in part: install g++ or set CXX")
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{library.name}.{os.getpid()}"
    command = [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", str(SOURCE), "-o", str(partial)]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    command += [f"-L{folder}" for folder in cpp_extension.library_paths()] + ["-lc10", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the stand-in NPU does not compile ({compiler}):\n{done.stderr[-4000:]}")
    os.replace(partial, library)
    return library


def environment() -> dict[str, str | None]:
    """What a process needs to find the stand-in NPU, in os.environ's terms; None takes a variable away."""
    root = Path(__file__).resolve().parents[2]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests", INSTALLED))),
        "ALEXNET_FAST_STANDIN_SHIM": str(shim()),
        "ALEXNET_FAST_REQUIRE": None,
        "TORCH_DEVICE_BACKEND_AUTOLOAD": None,
        "ASCEND_RT_VISIBLE_DEVICES": None,
        "OMP_NUM_THREADS": "1",  # bits depend on how a sum is split, and its streams' threads are split by this
    }
