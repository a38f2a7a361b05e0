"""Where libturbojpeg may be: for ``decode.turbojpeg``, which loads it with numba, and the packer, which must not import numba."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files

ENVIRONMENT = "ALEXNET_FAST_TURBOJPEG"
SONAME = "libturbojpeg.so.0"  # both 2.x and 3.x
MISSING = (
    "libturbojpeg was not found; install it: 'apt-get install libturbojpeg0' (Debian), "
    "'apt-get install libturbojpeg' (Ubuntu), 'dnf install turbojpeg' (openEuler, RHEL) or, on x86-64, "
    f"'pip install turbojpeg'; or name the file in {ENVIRONMENT}"
)


def candidates() -> Iterator[str]:
    """Places to look for the library, best first."""
    if chosen := os.environ.get(ENVIRONMENT):
        yield chosen
        return
    yield SONAME  # by the dynamic linker's search path; find_library would start processes
    try:
        yield from (str(f.locate()) for f in files("turbojpeg") or () if f.name.startswith("libturbojpeg"))
    except PackageNotFoundError:
        pass
    if found := ctypes.util.find_library("turbojpeg"):
        yield found
