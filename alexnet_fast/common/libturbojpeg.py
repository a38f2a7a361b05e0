"""Where libturbojpeg may be: for ``decode.turbojpeg``, which loads it with numba, and the packer, which must not import numba."""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, files

ENVIRONMENT = "ALEXNET_FAST_TURBOJPEG"
NONE = "none"
"""The value of that variable that does without the library, as on a machine that lacks it."""
SONAME = "libturbojpeg.0.dylib" if sys.platform == "darwin" else "libturbojpeg.so.0"  # both 2.x and 3.x
INSTALL = (
    "'apt-get install libturbojpeg0' (Debian), 'apt-get install libturbojpeg' (Ubuntu), 'dnf install turbojpeg' (openEuler, RHEL) "
    "or, on x86-64 with Python up to 3.13, 'pip install turbojpeg'; without root on Debian 'apt-get download libturbojpeg0', "
    f"'dpkg -x libturbojpeg0_*.deb turbojpeg', and name the file {SONAME} in it in {ENVIRONMENT}"
)
MISSING = f"libturbojpeg was not found; install it: {INSTALL}"


def candidates() -> Iterator[str]:
    """Places to look for the library, best first."""
    if chosen := os.environ.get(ENVIRONMENT):
        if chosen != NONE:
            yield chosen
        return
    yield SONAME  # by the dynamic linker's search path; find_library would start processes
    try:
        yield from (str(f.locate()) for f in files("turbojpeg") or () if f.name.startswith("libturbojpeg"))
    except PackageNotFoundError:
        pass
    if found := ctypes.util.find_library("turbojpeg"):
        yield found
